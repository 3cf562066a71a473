#!/bin/sh
# Builds the resolvers that atc embeds into policy/builtin, or into the folder
# given, and records the Go version there. The same sources and the same Go
# give the same bytes: nothing of this machine, its environment or the state of
# the repository goes into them.
set -eu
cd "$(dirname "$0")"
out=${1:-../policy/builtin}
mkdir -p "$out"
unset GOFLAGS GOWASM GODEBUG GOEXPERIMENT
export GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0
for name in subdomain path-prefix; do
	go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o "$out/$name.wasm" "./$name"
done
go env GOVERSION >"$out/go-version.txt"
