#!/bin/sh
# Builds the decoder with the address and undefined-behaviour sanitisers and feeds it damaged files:
#     native/fuzz/run.sh 100000 IMAGE.jpg...
set -eu
native=$(cd "$(dirname "$0")/.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"${CC:-cc}" -std=gnu11 -O1 -g -Wall -Wextra -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I "$native" "$native"/*.c "$native"/fuzz/fuzz.c -o "$build/fuzz" -ljpeg -lm -lpthread
"$build/fuzz" "$@"
