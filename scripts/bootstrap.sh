#!/usr/bin/env bash
# Makes sure that cargo can build this project: a C compiler, certificates, and the Rust release of
# rust-toolchain.toml. Installs Debian packages when it may, else says in one sentence what to install.
# Silent when nothing is missing. Everything after that is `cargo xtask setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/packages.sh

command -v cc >/dev/null || missing+=(gcc libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -d /etc/pki/tls/certs ] || missing+=(ca-certificates)
install_missing

# A Rust that rustup has just installed is not on the path of this shell yet.
[ -z "${HOME:-}" ] || PATH="$PATH:$HOME/.cargo/bin"
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)

if ! command -v cargo >/dev/null && ! command -v rustup >/dev/null; then
    if may_install && apt-get update -qq >/dev/null && apt-cache policy rustup | grep -q 'Candidate: [^(]'; then
        install_packages rustup
    else
        fail "Rust is missing: install rustup (https://rustup.rs, or Debian's package rustup where there is one) and run this again"
    fi
fi

if command -v rustup >/dev/null; then
    if ! rustup run "$channel" cargo --version >/dev/null 2>&1; then
        echo "==> installing Rust $channel"
        rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy
    fi
else
    # A Rust without rustup: rust-toolchain.toml means nothing to it.
    found=$(cargo --version | cut -d' ' -f2)
    oldest=$(printf '%s\n%s\n' "$found" "$channel" | sort -V | head -n 1)
    [ "$oldest" = "$channel" ] || fail "cargo is $found and $channel or newer is needed: install rustup (https://rustup.rs) and run this again"
fi
