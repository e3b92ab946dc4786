GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-mod=mod exec go run "$(dirname "$0")/submit.go"
