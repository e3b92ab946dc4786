BUILD=${BUILD:-$(mktemp -d)}
gcc $(gnustep-config --objc-flags) -MF "$BUILD/submit-objc.d" -o "$BUILD/submit-objc" \
  "$(dirname "$0")/submit.m" $(gnustep-config --base-libs) && exec "$BUILD/submit-objc"
