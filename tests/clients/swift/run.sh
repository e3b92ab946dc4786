BUILD=${BUILD:-$(mktemp -d)}
swiftc -o "$BUILD/submit-swift" "$(dirname "$0")/submit.swift" && exec "$BUILD/submit-swift"
