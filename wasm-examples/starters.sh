#!/bin/sh
# Usage: starters.sh ATC
#
# Builds what `atc policy new` writes for each language and holds it against its
# cases.
set -eu
atc=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for language in assemblyscript c go rust wat; do
	"$atc" policy new "$language" "$dir/$language" >/dev/null
	sh "$dir/$language/build.sh"
	echo "$language: $("$atc" policy test "$dir/$language/resolver.wasm" "$dir/$language/cases.toml")"
done
