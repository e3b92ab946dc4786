exec node "$(dirname "$0")/submit.mjs"
