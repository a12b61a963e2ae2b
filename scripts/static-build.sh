#!/usr/bin/env bash
# A program without shared libraries. With musl it runs on any Linux of this architecture; glibc linked
# statically still loads the system's own libraries to look host names up, so that build wants a glibc
# of the same release there.
set -euo pipefail
cd "$(dirname "$0")/.."

machine=$(uname -m)
musl=$machine-unknown-linux-musl

has_musl() {
    command -v musl-gcc >/dev/null &&
        rustc --print target-libdir --target "$musl" 2>/dev/null | xargs -r test -d
}

if has_musl; then
    target=$musl
    echo "==> building for $target"
    CC_${machine}_unknown_linux_musl=musl-gcc cargo build --profile dist --locked --target "$target"
else
    target=$machine-unknown-linux-gnu
    echo "==> $musl is not installed (rustup target add $musl, and Debian's musl-tools):"
    echo "==> building for $target instead, with glibc linked statically"
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile dist --locked --target "$target"
fi

program=target/$target/dist/syncline
echo "==> $program, $(du -h "$program" | cut -f1), $(file -b "$program" 2>/dev/null | grep -o 'static[a-z-]* linked' || echo 'built')"
"$program" --version
