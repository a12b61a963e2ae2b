#!/usr/bin/env bash
# microvm-kernel.sh [FOLDER]: the microVM's kernel, from Debian's packages, as FOLDER/vmlinux.
#
# KERNEL=debian (the default) takes the kernel as Debian has built it, in a minute. Its drivers are modules, so there is
# FOLDER/initramfs.cpio.gz as well, which loads them. KERNEL=minimal compiles one from firecracker/kernel.config, in ten
# to twenty minutes; it needs no initramfs, boots faster and leaves more memory. Both stay in the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/packages.sh

folder=$(realpath -m "${1:-firecracker}")
kind=${KERNEL:-debian}
cache=$(realpath -m "${SYNCLINE_CACHE:-.cache}")/microvm/$kind
sources=$(realpath firecracker)

[ "$(uname -m)" = x86_64 ] || fail "the microVM is built for x86_64 only, and this is $(uname -m)"

# fetch PACKAGE...: unpacks Debian packages into the current folder without installing them.
fetch() {
    command -v apt-get >/dev/null || fail "the kernel comes from Debian's packages, and there is no apt-get here"
    apt-get -o APT::Sandbox::User=root download -qq "$@" >/dev/null || fail "cannot download $*: is this Debian 12 or newer, and its package list current (apt-get update)?"
    for package in *.deb; do
        dpkg-deb -x "$package" . && rm "$package"
    done
}

# The kernel proper inside the image that a boot loader starts: where it lies is in the image's header (the boot
# protocol's setup_sects, payload_offset and payload_length).
extract_kernel() {
    number() { od -An -t "u$2" -j "$(($3))" -N "$2" "$1" | tr -d ' '; }
    local start length
    start=$((($(number "$1" 1 0x1f1) + 1) * 512 + $(number "$1" 4 0x248)))
    length=$(number "$1" 4 0x24c)
    # Four bytes with the size follow what is compressed; gzip has them of its own.
    payload() { dd if="$1" iflag=skip_bytes,count_bytes skip="$start" count="$((length - $2))" bs=1M status=none; }
    case $(od -An -t x1 -j "$start" -N 4 "$1" | tr -d ' ') in
        02214c18) payload "$1" 4 | lz4 -dcq ;;
        fd377a58) payload "$1" 4 | xz -dcq ;;
        28b52ffd) payload "$1" 4 | zstd -dcq ;;
        1f8b*) payload "$1" 0 | gzip -dcq ;;
        *) fail "$1 is compressed in a way that is not known here" ;;
    esac
}

build_debian() {
    headers=$(apt-cache depends linux-headers-cloud-amd64 | sed -n 's/.*Depends: *\(linux-headers-\)/\1/p')
    [ -n "$headers" ] || fail "there is no package linux-headers-cloud-amd64: is this Debian 12 or newer?"
    [ -d "/usr/src/$headers" ] || want "$headers"
    fetch "linux-image-${headers#linux-headers-}"
    extract_kernel boot/vmlinuz-* >vmlinux

    mkdir -p module root/{bin,dev,modules,proc,root}
    cp "$sources/virtio_mmio_cmdline.c" module/
    echo "obj-m := virtio_mmio_cmdline.o" >module/Kbuild
    make -s -C "/usr/src/$headers" "M=$PWD/module" modules
    for module in failover net_failover virtio virtio_ring virtio_mmio virtio_blk virtio_net; do
        file=$(find . -path ./root -prune -o -name "$module.ko*" -print -quit)
        case $file in
            *.xz) xz -dc "$file" >"root/modules/$module.ko" ;;
            ?*) cp "$file" root/modules/ ;;
            *) fail "Debian's kernel has no module $module" ;;
        esac
    done
    cp module/virtio_mmio_cmdline.ko root/modules/
    strip --strip-debug root/modules/*.ko
    cp /bin/busybox root/bin/
    for applet in sh cat insmod mount umount reboot switch_root; do ln -s busybox "root/bin/$applet"; done
    install -m 755 "$sources/initramfs-init" root/init
    (cd root && find . | busybox cpio -o -H newc 2>/dev/null | gzip -9) >initramfs.cpio.gz
}

build_minimal() {
    fetch "$(apt-cache depends linux-source | sed -n 's/.*Depends: *\(linux-source-\)/\1/p')"
    mkdir source
    tar -xJf usr/src/linux-source-*.tar.xz -C source --strip-components=1
    (
        cd source
        make -s tinyconfig
        scripts/kconfig/merge_config.sh -m .config "$sources/kernel.config" >/dev/null
        make -s olddefconfig
        refused=$(grep '^CONFIG' "$sources/kernel.config" | grep -vxFf .config || true)
        [ -z "$refused" ] || fail "this kernel does not take: ${refused//$'\n'/, }"
        make -s "-j$(nproc)" vmlinux
    )
    mv source/vmlinux vmlinux
    strip --strip-debug vmlinux
}

case $kind in
    debian)
        command -v busybox >/dev/null || missing+=(busybox-static)
        command -v lz4 >/dev/null || missing+=(lz4)
        inputs=("$sources/initramfs-init" "$sources/virtio_mmio_cmdline.c")
        ;;
    minimal)
        command -v bison >/dev/null || missing+=(bison)
        command -v flex >/dev/null || missing+=(flex)
        command -v bc >/dev/null || missing+=(bc)
        [ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
        inputs=("$sources/kernel.config")
        ;;
    *) fail "KERNEL=$kind is unknown: debian or minimal" ;;
esac
command -v make >/dev/null || missing+=(make)
command -v xz >/dev/null || missing+=(xz-utils)

# Cached by what it is made of; a newer kernel of Debian's is taken when the cache is removed.
cached=$cache/$(cat "${inputs[@]}" "$0" | sha256sum | cut -c1-16)
if [ ! -e "$cached/vmlinux" ]; then
    install_missing
    echo "==> building the $kind kernel"
    rm -rf "$cache"
    mkdir -p "$cache/work"
    cd "$cache/work"
    "build_$kind"
    mkdir "$cached.part"
    mv vmlinux "$cached.part/"
    [ ! -e initramfs.cpio.gz ] || mv initramfs.cpio.gz "$cached.part/"
    mv "$cached.part" "$cached"
    cd "$cache" && rm -rf work
fi
mkdir -p "$folder"
# Each in one step: a guest may be started from them meanwhile.
for file in vmlinux initramfs.cpio.gz; do
    if [ -e "$cached/$file" ]; then
        cp "$cached/$file" "$folder/$file.part"
        mv "$folder/$file.part" "$folder/$file"
    else
        rm -f "$folder/$file"
    fi
done
echo "==> $folder/vmlinux ($kind), $(du -h "$folder/vmlinux" | cut -f1)"
