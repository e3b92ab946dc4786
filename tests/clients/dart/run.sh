exec dart run "$(dirname "$0")/submit.dart"
