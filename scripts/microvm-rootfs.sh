#!/usr/bin/env bash
# microvm-rootfs.sh [FILE]: the microVM's root drive: busybox, firecracker/init, nats-server and the gateway on ext4.
#
# PROGRAM is the program to put in: what `make musl` has built if not given; one with shared libraries brings them
# along. NATS_BINARY is the nats-server; the one that the tests use if not given.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

file=${1:-firecracker/rootfs.ext4}
size=${ROOTFS_SIZE:-256M}
program=${PROGRAM:-$(ls -t target/*-linux-*/dist/syncline 2>/dev/null | head -n 1 || true)}
[ -n "$program" ] || fail "there is no static program yet: make musl builds it (PROGRAM=FILE takes another)"
nats=${NATS_BINARY:-$(find -L "${SYNCLINE_CACHE:-.cache}/servers" -path '*/nats-server-*/nats-server' -type f 2>/dev/null | sort -V | tail -n 1 || true)}
[ -n "$nats" ] || fail "there is no nats-server yet: make setup fetches it (NATS_BINARY=FILE takes another)"

command -v busybox >/dev/null || missing+=(busybox-static)
PATH=$PATH:/usr/sbin:/sbin
command -v mke2fs >/dev/null || missing+=(e2fsprogs)
command -v strip >/dev/null || missing+=(binutils)
install_missing
! ldd "$(command -v busybox)" >/dev/null 2>&1 || fail "busybox here needs shared libraries: apt-get install busybox-static"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc/ssl/certs,config,data,dev,proc,run,sys,tmp}
install -m 755 "$(command -v busybox)" "$root/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
install -m 755 firecracker/init "$root/sbin/init"

# with_libraries PROGRAM PATH: a stripped copy, and what its loader will look for.
with_libraries() {
    install -m 755 "$1" "$root$2"
    strip --strip-all "$root$2"
    # ldd fails for a static program, which wants nothing.
    for library in $({ ldd "$1" 2>/dev/null || true; } | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }'); do
        install -D -m 755 "$library" "$root$library"
    done
}
with_libraries "$program" /usr/bin/syncline
with_libraries "$nats" /usr/bin/nats-server
ln -s syncline "$root/usr/bin/nats-gateway"

printf 'root:x:0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
ln -s /run/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

mkdir -p "$(dirname "$file")"
rm -f "$file.part"
# The owner is root whoever builds, and no time of building gets in: the same content is the same file.
mke2fs -q -t ext4 -L syncline-root -d "$root" -E root_owner=0:0 -m 0 "$file.part" "$size"
mv "$file.part" "$file"
echo "==> $file, $(du -h "$file" | cut -f1): $("$program" --version), $("$nats" --version)"
