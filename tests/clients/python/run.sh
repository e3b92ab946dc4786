exec python3 "$(dirname "$0")/submit.py"
