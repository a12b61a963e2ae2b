#!/usr/bin/env bash
# package.sh PROGRAM FOLDER: the release package, as a folder. The services are links to the one
# program, which looks at the name it is called with.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1 folder=$2

rm -rf "$folder"
mkdir -p "$folder/bin"
install -m 755 "$program" "$folder/bin/syncline"
strip --strip-debug "$folder/bin/syncline"
for service in es-watcher es-writer nats-gateway; do
    ln -s syncline "$folder/bin/$service"
done
cp -r config docs README.md ARCHITECTURE.md CHANGELOG.md LICENSE "$folder/"
"$folder/bin/syncline" --version
echo "==> $folder, $(du -sh "$folder" | cut -f1)"
