#!/bin/sh
# Builds a program of this folder, and all native code, with the address and undefined-behaviour sanitisers and runs it:
#     native/fuzz/run.sh fuzz 100000 IMAGE.jpg...
#     native/fuzz/run.sh encode 10000
set -eu
native=$(cd "$(dirname "$0")/.." && pwd)
program=$1
shift
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"${CC:-cc}" -std=gnu11 -O1 -g -Wall -Wextra -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I "$native" "$native"/*.c "$native/fuzz/$program.c" -o "$build/$program" -ljpeg -lm -lpthread
"$build/$program" "$@"
