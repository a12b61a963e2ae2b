#!/usr/bin/env bash
# Fuzzes each target for a while. The properties named "no … makes … panic" are the same questions with
# random input, and run in every `cargo test`; the fuzzer follows the code's branches and finds more.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

each=${SECONDS_EACH:-60}
fail() { echo "error: $*" >&2; exit 1; }
rustup run nightly rustc --version >/dev/null 2>&1 || fail "fuzzing needs nightly Rust: rustup toolchain install nightly"
cargo fuzz --version >/dev/null 2>&1 || fail "fuzzing needs cargo-fuzz: cargo install --locked cargo-fuzz"

for target in $(cargo +nightly fuzz list --fuzz-dir .); do
    echo "==> $target for $each s"
    cargo +nightly fuzz run --fuzz-dir . --features fuzzer "$target" -- -max_total_time="$each" -max_len=65536
done
