//! A process that is measured, and that does not outlive this one.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::process::Usage;

/// How often a running process is looked at: its peak memory is gone from `/proc` when it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long a process may take to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    began: Instant,
    used: Usage,
}

/// What a process took from its start to its end.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "bench"),
    allow(dead_code, reason = "figures for the benchmarks")
)]
pub(crate) struct Finished {
    pub(crate) elapsed: Duration,
    pub(crate) used: Usage,
    pub(crate) success: bool,
}

impl Process {
    /// Starts it with its output in `log`. The kernel kills it when this process dies without a chance to; Ctrl-C is
    /// kept from it, so that it is stopped in order.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
    ) -> Result<Process> {
        let folder = log.parent().context("a log is in a folder")?;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let output = File::create(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot run `setpriv`; install it (Debian: apt-get install util-linux)")?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            began: Instant::now(),
            used: Usage::default(),
        })
    }

    /// Its number in the system.
    #[cfg(feature = "bench")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has used so far.
    pub(crate) fn used(&mut self) -> Result<Usage> {
        self.look().map(|_| self.used)
    }

    /// Fails with the end of its output when it has ended.
    pub(crate) fn expect_alive(&mut self) -> Result<()> {
        let ended = self.look()?;
        ensure!(
            !ended,
            "{} has ended by itself:\n{}",
            self.name,
            self.last_lines()
        );
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn finish(&mut self) -> Result<Finished> {
        while !self.look()? {
            tokio::time::sleep(LOOK).await;
        }
        let elapsed = self.began.elapsed();
        let status = self.child.wait()?;
        Ok(Finished {
            elapsed,
            used: self.used,
            success: status.success(),
        })
    }

    /// Waits for its end, which has to be a success.
    pub(crate) async fn succeed(&mut self) -> Result<Finished> {
        let finished = self.finish().await?;
        ensure!(
            finished.success,
            "{} failed:\n{}",
            self.name,
            self.last_lines()
        );
        Ok(finished)
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(&mut self) -> Result<Finished> {
        let pid = i32::try_from(self.child.id()).context("a process id out of range")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        tokio::time::timeout(STOP_WITHIN, self.succeed())
            .await
            .with_context(|| format!("{} did not end within {STOP_WITHIN:?}", self.name))?
    }

    /// Kills it at once, as a power failure would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("{} is gone", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// Looks at it; true when it has ended. A process that has ended keeps its times until it is waited for, and has no
    /// memory any more.
    fn look(&mut self) -> Result<bool> {
        let now = Usage::of(self.child.id())?;
        let ended = now.resident == 0;
        self.used = Usage {
            resident: if ended {
                self.used.resident
            } else {
                now.resident
            },
            peak_resident: self.used.peak_resident.max(now.peak_resident),
            ..now
        };
        Ok(ended)
    }

    fn last_lines(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that was waited for already is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
