#!/bin/sh
# Renew the packaged files of the docs page: scripts/vendor_docs.sh VERSION
# Takes the release from npm's configured registry, keeps what the page needs, notes the checksums.
set -eu

version="${1:?usage: scripts/vendor_docs.sh VERSION}"
static="$(cd "$(dirname "$0")/.." && pwd)/gateway/http/static"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

cd "$scratch"
npm pack --silent "swagger-ui-dist@$version" >/dev/null
tar -xzf "swagger-ui-dist-$version.tgz"

cp package/swagger-ui-bundle.js package/swagger-ui.css package/favicon-32x32.png "$static/"
cp package/swagger-ui-bundle.js.LICENSE.txt "$static/"
cp package/LICENSE "$static/swagger-ui.LICENSE.txt"
cp package/NOTICE "$static/swagger-ui.NOTICE.txt"

cd "$static"
python3 - "$version" >manifest.json.new <<'END'
import hashlib, json, pathlib, sys

names = [
    "favicon-32x32.png",
    "swagger-ui-bundle.js",
    "swagger-ui-bundle.js.LICENSE.txt",
    "swagger-ui.LICENSE.txt",
    "swagger-ui.NOTICE.txt",
    "swagger-ui.css",
]
manifest = {
    "name": "swagger-ui-dist",
    "version": sys.argv[1],
    "licence": "Apache-2.0",
    "sha256": {n: hashlib.sha256(pathlib.Path(n).read_bytes()).hexdigest() for n in names},
}
print(json.dumps(manifest, indent=2))
END
mv manifest.json.new manifest.json
