# Sourced by the scripts that need Debian packages: installs them where it may, else fails with the sentence that names
# them.

fail() { echo "error: $*" >&2; exit 1; }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install_packages() {
    echo "==> installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Installs the packages, or fails with the sentence that names them.
want() {
    may_install || fail "missing: $* (as root: apt-get install $*)"
    install_packages "$@"
}

# What a script has found missing so far.
missing=()
install_missing() {
    [ ${#missing[@]} = 0 ] || want "${missing[@]}"
}
