//! `cargo xtask microvm`: boots what `make firecracker-kernel` and `make firecracker-rootfs` have built, under QEMU.
//!
//! The console comes out as it is. Ctrl+C presses Ctrl+Alt+Del in the guest, which ends it in order; the data drive stays.
//! Afterwards it says when the guest was where, by this machine's clock: an emulated one is late.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::microvm::{MicroVmImages, MicroVmOptions, data_drive, press_ctrl_alt_del};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::signal::ctrl_c;

use crate::program::Program;

/// Flags of `cargo xtask microvm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gateway's environment, for example INCLUDE_INDICES=movies.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Memory of the guest, in MiB.
    #[arg(long, default_value_t = 128)]
    memory: u32,
    /// The data drive; made if it is not there.
    #[arg(long, default_value = "firecracker/data.ext4", value_name = "FILE")]
    data: PathBuf,
    /// Its size in MiB when it is made.
    #[arg(long, default_value_t = 2048)]
    data_size: u32,
    /// A drive with config.yaml, labelled syncline-config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of this machine for NATS in the guest.
    #[arg(long, default_value_t = 4222)]
    nats_port: u16,
    /// Port of this machine for the guest's admin API.
    #[arg(long, default_value_t = 8080)]
    admin_port: u16,
    /// Emulates the processor even where there is hardware virtualisation.
    #[arg(long)]
    emulate: bool,
    /// Measures: ends the guest as soon as it is ready, on a data drive of its own, and then starts this program, the one
    /// in the root drive, on this machine for comparison.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "data")]
    measure: Option<PathBuf>,
}

/// What the guest says when it is there, and what that means.
const MILESTONES: [(&str, &str); 3] = [
    ("microvm: init begins", "init begins"),
    ("nats-server is running", "nats-server answers"),
    (READY, "the gateway is ready"),
];
const READY: &str = "microvm: ready";

/// Runs the task.
pub(crate) async fn run(args: &Args) -> Result<()> {
    if let Some(wrong) = args.settings.iter().find(|word| !word.contains('=')) {
        bail!("{wrong} is not KEY=VALUE");
    }
    let folder = testkit::checkout().join("target/microvm");
    std::fs::create_dir_all(&folder)?;
    let data = match &args.measure {
        Some(_) => folder.join("measured.ext4"),
        None => args.data.clone(),
    };
    if args.measure.is_some() || !data.exists() {
        data_drive(&data, args.data_size)?;
    }
    let passed = boot(args, data, &folder).await?;
    println!();
    for (meaning, after) in &passed {
        println!(
            "{:>9.3} s after the start of QEMU: {meaning}",
            after.as_secs_f64()
        );
    }
    if let Some(program) = &args.measure {
        compare(program, &passed, &folder).await?;
    }
    Ok(())
}

/// Runs a guest to its end and passes its console on; returns when it said what, by this machine's clock.
async fn boot(args: &Args, data: PathBuf, folder: &Path) -> Result<Vec<(&'static str, Duration)>> {
    let options = MicroVmOptions {
        memory: args.memory,
        settings: args.settings.clone(),
        // QEMU runs in another folder.
        drives: std::iter::once(data)
            .chain(args.config.clone())
            .map(std::path::absolute)
            .collect::<Result<_, _>>()?,
        is_emulated: args.emulate || !has_kvm(),
        ports: (args.nats_port, args.admin_port),
    };
    let processor = if options.is_emulated {
        "an emulated processor"
    } else {
        "KVM"
    };
    eprintln!(
        "booting with {} MiB and {processor}; NATS at nats://127.0.0.1:{}, admin at http://127.0.0.1:{}; Ctrl+C ends it in order",
        args.memory, args.nats_port, args.admin_port,
    );
    let command = options.command(
        &MicroVmImages::built()?,
        "stdio",
        "unix:monitor,server=on,wait=off",
    );
    let (program, arguments) = command.split_first().context("an empty command")?;
    let began = Instant::now();
    let mut qemu = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ctrl+C in a terminal reaches the whole group; QEMU would end at once.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot run qemu-system-x86_64 (Debian: apt-get install qemu-system-x86)")?;
    let console = qemu.stdout.take().context("standard output is a pipe")?;
    let mut lines = BufReader::new(console).split(b'\n');
    let mut passed: Vec<(&str, Duration)> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.next_segment() => line?,
            pressed = ctrl_c() => {
                pressed?;
                press_ctrl_alt_del(&folder.join("monitor"))?;
                continue;
            }
        };
        let Some(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        println!("{}", line.trim_end());
        for (words, meaning) in MILESTONES {
            if line.contains(words) && passed.iter().all(|(known, _)| *known != meaning) {
                passed.push((meaning, began.elapsed()));
            }
        }
        if args.measure.is_some() && line.contains(READY) {
            press_ctrl_alt_del(&folder.join("monitor"))?;
        }
    }
    let status = qemu.wait().await?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(passed)
}

/// Starts the same program on this machine, and says how much longer the guest took from init to ready.
async fn compare(program: &Path, passed: &[(&str, Duration)], folder: &Path) -> Result<()> {
    let program = Program::prepare(Some(program), folder.join("host"))?;
    let began = Instant::now();
    let mut gateway = program.embedded_gateway().await?;
    let here = began.elapsed();
    gateway.process.stop().await?;
    let at = |meaning: &str| {
        let found = passed.iter().find(|(known, _)| *known == meaning);
        found.with_context(|| format!("the guest never said: {meaning}"))
    };
    let there = at(MILESTONES[2].1)?.1 - at(MILESTONES[0].1)?.1;
    println!(
        "exec to ready on this machine {:.3} s, init to ready in the guest {:.3} s: {:.1} times as long",
        here.as_secs_f64(),
        there.as_secs_f64(),
        there.as_secs_f64() / here.as_secs_f64(),
    );
    Ok(())
}

/// A device alone is not enough: a guest may have been given one that its processor cannot serve.
fn has_kvm() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag| processor.split_whitespace().any(|word| word == flag);
    (has("vmx") || has("svm"))
        && std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
