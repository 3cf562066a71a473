#!/bin/sh
# Usage: build.sh [OUT] [go]
#
# Builds the resolvers that atc embeds into policy/builtin, or into the folder
# given; with "go" only those in Go, which need no other compiler. Beside them it
# records what they were built from: the version of Go for those in Go, since the
# same sources and the same Go give the same bytes, and a hash of the sources for
# the others, whose compilers not every machine has. Nothing of this machine, its
# environment or the state of the repository goes into them, as long as no wasm-opt
# is in the PATH: clang would run it.
set -eu
cd "$(dirname "$0")"
out=${1:-../policy/builtin}
mkdir -p "$out"

for name in subdomain path-prefix; do
	env -u GOFLAGS -u GOWASM -u GODEBUG -u GOEXPERIMENT GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 \
		go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o "$out/$name.wasm" "./$name"
done
go env GOVERSION >"$out/go-version.txt"
[ "${2:-}" != go ] || exit 0

: >"$out/sources.txt"
built() { # built NAME SOURCE...
	name=$1
	shift
	echo "$name $(cat "$@" | sha256sum | cut -d ' ' -f 1) $*" >>"$out/sources.txt"
}
for name in canary header; do
	${ATC_CLANG:-clang} --target=wasm32 -nostdlib -ffreestanding -O2 -Wall -Wno-unused-function \
		-Wl,--no-entry -Wl,--strip-all -o "$out/$name.wasm" "$name/main.c"
	built "$name" "$name/main.c" c/atc.h
done
for name in domains rendezvous; do
	${ATC_RUSTC:-/usr/bin/rustc} --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib \
		-O -C panic=abort -C strip=symbols -C link-arg=-zstack-size=65536 -o "$out/$name.wasm" "$name/main.rs"
	built "$name" "$name/main.rs" rust/guest.rs
done
${ATC_ASC:-asc} region/main.ts -O3 --runtime incremental --use abort= -o "$out/region.wasm"
built region region/main.ts assemblyscript/atc.ts
${ATC_WAT2WASM:-wat2wasm} -o "$out/maintenance.wasm" maintenance/main.wat
built maintenance maintenance/main.wat
chmod 644 "$out"/*.wasm
