//! `cargo xtask chaos`: the chaos driver, for as long as one likes. The driver itself is a test
//! (crates/syncline/tests/chaos), so that it is built with the program it runs.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Flags of `cargo xtask chaos`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first seed; a fresh one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// How long each is under load and attack.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "test",
            "--quiet",
            "--package",
            "syncline",
            "--test",
            "chaos",
        ])
        .args(["--", "--nocapture"])
        .env("CHAOS_SEEDS", args.seeds.to_string())
        .env("CHAOS_SECONDS", args.seconds.to_string());
    if let Some(seed) = args.seed {
        command.env("CHAOS_SEED", seed.to_string());
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the chaos driver failed");
    Ok(())
}
