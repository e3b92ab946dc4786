BUILD=${BUILD:-$(mktemp -d)}
mcs -out:"$BUILD/submit.exe" -r:System.Net.Http.dll "$(dirname "$0")/Submit.cs" && exec mono "$BUILD/submit.exe"
