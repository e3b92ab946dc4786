exec python3 "$(dirname "$0")/send.py"
