#!/usr/bin/env bash
# What the documentation names has to exist: a map that points nowhere is worse than none. Checked are
# paths into the project, relative links, and, written `path.rs` (`Type::name`), that the file has the name.
set -euo pipefail
cd "$(dirname "$0")/.."

wrong=0
complain() { echo "$1" >&2; wrong=1; }

for page in README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md docs/*.md docs/adr/*.md; do
    folder=$(dirname "$page")
    while read -r path; do
        [ -e "$path" ] || complain "$page names $path, which does not exist"
    done < <(grep -ohE '\b(crates|config|deploy|scripts|fuzz)/[A-Za-z0-9_./-]*[A-Za-z0-9_]' "$page" | sort -u)

    while read -r link; do
        [ -e "$folder/$link" ] || complain "$page links to $link, which does not exist"
    done < <(grep -ohE '\]\([^)#:[:space:]]+[)#]' "$page" | sed -E 's/^\]\(//; s/[)#]$//' | sort -u)

    while read -r file name; do
        grep -qE "(fn|struct|enum|trait) ${name##*::}\b" "$file" || complain "$page names $name in $file, which has none"
    done < <(grep -oE '`crates/[^` ]+\.rs` \(`[A-Za-z_:]+`\)' "$page" | tr -d '`()' | sort -u)
done
exit $wrong
