BUILD=${BUILD:-$(mktemp -d)}
cc -std=c11 -Wall -Wextra -Werror -o "$BUILD/submit-c" "$(dirname "$0")/submit.c" && exec "$BUILD/submit-c"
