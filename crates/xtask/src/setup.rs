//! `cargo xtask setup`: everything that `make test` and `make demo` need, installed or fetched once.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use testkit::{Artefact, Tool};

/// Flags of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only says what is missing.
    #[arg(long)]
    check: bool,
    /// Fetches everything anew and records its checksums, after a change of `versions.env`.
    #[arg(long)]
    record_checksums: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing: Vec<Tool> = Tool::ALL
        .into_iter()
        .filter(|tool| !tool.is_installed())
        .collect();
    if args.check {
        return check(&missing);
    }
    install(&missing)?;
    let artefacts = Artefact::all();
    for (done, artefact) in artefacts.iter().enumerate() {
        eprintln!("[{}/{}] {}", done + 1, artefacts.len(), artefact.title());
        if args.record_checksums {
            artefact.record_checksums()?;
        } else {
            artefact.fetch()?;
        }
    }
    eprintln!("everything is there: {}", testkit::cache().display());
    Ok(())
}

fn check(missing: &[Tool]) -> Result<()> {
    for tool in missing {
        eprintln!("{}", tool.remedy());
    }
    let absent: Vec<Artefact> = Artefact::all()
        .into_iter()
        .filter(|artefact| !artefact.is_cached())
        .collect();
    for artefact in &absent {
        eprintln!("{} is not fetched yet", artefact.title());
    }
    ensure!(
        missing.is_empty() && absent.is_empty(),
        "run `cargo xtask setup`"
    );
    eprintln!("everything is there");
    Ok(())
}

/// Installs Debian packages when that is possible, else names them.
fn install(missing: &[Tool]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(Tool::available_package).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !may_install() {
        bail!(
            "missing: {}; install them as root: {by_hand}",
            programs(missing)
        );
    }
    eprintln!("installing {}…", packages.join(", "));
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&packages);
    apt_get(&arguments)?;
    let still: Vec<Tool> = missing
        .iter()
        .copied()
        .filter(|tool| !tool.is_installed())
        .collect();
    ensure!(
        still.is_empty(),
        "still missing after `{by_hand}`: {}",
        programs(&still)
    );
    Ok(())
}

fn programs(tools: &[Tool]) -> String {
    tools
        .iter()
        .map(|tool| tool.program)
        .collect::<Vec<_>>()
        .join(", ")
}

fn may_install() -> bool {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    root && Command::new("apt-get").arg("--version").output().is_ok()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    ensure!(
        status.success(),
        "`apt-get {}` failed ({status})",
        arguments.join(" ")
    );
    Ok(())
}
