//! The recorded SHA-256 checksums of everything that is fetched: `checksums/<artefact>.sha256`, as `sha256sum` writes
//! them. A file that is not listed is as wrong as one whose content differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::artefacts::file_names;
use crate::paths;
use crate::tools::Tool;

/// Checks that every file of `folder` is one of those recorded for `artefact`.
pub(crate) fn check(artefact: &str, folder: &Path) -> Result<()> {
    let file = recorded(artefact);
    let list =
        fs::read_to_string(&file).with_context(|| format!("no checksums in {}", file.display()))?;
    let known: BTreeSet<&str> = list.lines().collect();
    let found = sums(folder)?;
    let wrong: Vec<&str> = found.lines().filter(|line| !known.contains(line)).collect();
    ensure!(
        wrong.is_empty(),
        "these files are not the recorded ones (SHA-256); if the pin was changed on purpose, run `cargo xtask setup --record-checksums`:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

/// Records the files of `folder`; what was recorded of other files, those of other platforms, stays.
pub(crate) fn record(artefact: &str, folder: &Path) -> Result<()> {
    let file = recorded(artefact);
    let before = fs::read_to_string(&file).unwrap_or_default();
    let now = sums(folder)?;
    let by_name: BTreeMap<&str, &str> = before
        .lines()
        .chain(now.lines())
        .filter_map(|line| Some((line.split_once("  ")?.1, line)))
        .collect();
    let lines: String = by_name.values().map(|line| format!("{line}\n")).collect();
    fs::write(&file, lines).with_context(|| format!("cannot write {}", file.display()))
}

fn recorded(artefact: &str) -> PathBuf {
    paths::own("checksums").join(format!("{artefact}.sha256"))
}

fn sums(folder: &Path) -> Result<String> {
    let mut command = Tool::SHA256SUM.command();
    command.args(file_names(folder)?).current_dir(folder);
    Tool::SHA256SUM.run(&mut command)
}
