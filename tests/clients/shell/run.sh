exec sh "$(dirname "$0")/submit.sh"
