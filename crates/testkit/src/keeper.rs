//! Keeping a server process exactly as long as it is needed.
//!
//! Every server runs under `launchers/keeper.sh`, in a process group of its own. An owned server ends with its owner,
//! even when that is killed (the keeper's standard input closes); a shared one ends when its lease has been free for a
//! minute. So neither a panic nor `kill -9` of a test leaves anything running.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::paths;
use crate::process;

/// How long a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as the value that owns it.
    Owner,
    /// Until nobody has held its lease for a minute.
    Lease,
    /// Until somebody stops it.
    Stay,
}

/// A folder for one server's configuration and data, and the place of its log.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
}

impl Home {
    /// Makes a new one under `target`; the name in front is for people.
    pub(crate) fn create(name: &str) -> Result<Home> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!(
            "{name}-{}-{count}-{:04x}",
            std::process::id(),
            fastrand::u16(..)
        );
        let folder = paths::run().join("homes").join(&unique);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        fs::create_dir_all(paths::logs())?;
        Ok(Home {
            folder,
            log: paths::logs().join(format!("{unique}.log")),
        })
    }

    /// The end of the log without the frames of stack traces, for an error message.
    pub(crate) fn last_log_lines(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let telling: Vec<&str> = log.lines().filter(|line| !line.contains("\tat ")).collect();
        telling[telling.len().saturating_sub(15)..].join("\n")
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) home: Home,
    pub(crate) identity: process::Identity,
    group: i32,
    /// Its keeper, when this process started it; dropping its standard input ends an owned server.
    keeper: Option<Child>,
}

impl Kept {
    /// Starts `command` under a keeper.
    pub(crate) async fn start(
        lifetime: Lifetime,
        home: Home,
        command: Vec<OsString>,
    ) -> Result<Kept> {
        let pid_file = home.folder.join("pid");
        for stale in [&pid_file, &home.folder.join("ended")] {
            if stale.exists() {
                fs::remove_file(stale)?;
            }
        }
        let keeper = spawn(lifetime, &home, &command)?;
        let group = i32::try_from(keeper.id()).context("a process id out of range")?;
        let mut kept = Kept {
            home,
            identity: process::Identity::default(),
            group,
            keeper: Some(keeper),
        };
        let pid = kept
            .wait_for_file(&pid_file, Duration::from_secs(20))
            .await?;
        let pid = pid
            .trim()
            .parse()
            .context("the keeper wrote no process id")?;
        kept.identity = process::Identity::of(pid).unwrap_or_default();
        Ok(kept)
    }

    /// One that another process started.
    pub(crate) fn attach(home: Home, identity: process::Identity, group: i32) -> Kept {
        Kept {
            home,
            identity,
            group,
            keeper: None,
        }
    }

    pub(crate) fn group(&self) -> i32 {
        self.group
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.identity.is_alive()
    }

    /// Kills server and keeper at once and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        if self.keeper.is_none() && !self.is_alive() {
            return;
        }
        // A group that has ended by itself is what is wanted.
        killpg(Pid::from_raw(self.group), Signal::SIGKILL).ok();
        if let Some(mut keeper) = self.keeper.take() {
            keeper.wait().ok();
        }
        // The server is the keeper's child, not ours, so there is nothing to wait on but its entry in /proc.
        while self.is_alive() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Waits until the server has written a file, and returns its content.
    pub(crate) async fn wait_for_file(&mut self, file: &Path, within: Duration) -> Result<String> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Ok(content) = fs::read_to_string(file) {
                return Ok(content);
            }
            self.fail_if_over(deadline)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An error with the end of the log when the server has died or the deadline has passed.
    pub(crate) fn fail_if_over(&mut self, deadline: tokio::time::Instant) -> Result<()> {
        let died = match &mut self.keeper {
            Some(keeper) => self.home.folder.join("ended").exists() || keeper.try_wait()?.is_some(),
            None => !self.identity.is_alive(),
        };
        if died {
            bail!(
                "the server ended while starting; the end of {}:\n{}",
                self.home.log.display(),
                self.home.last_log_lines()
            );
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "the server did not get ready in time; the end of {}:\n{}",
                self.home.log.display(),
                self.home.last_log_lines()
            );
        }
        Ok(())
    }

    /// Lets it run on without this value.
    pub(crate) fn detach(&mut self) {
        self.keeper = None;
    }

    /// Ends an owned server and removes what it wrote, except the log when a test is failing.
    pub(crate) fn clean_up(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.home.folder).ok();
        if std::thread::panicking() {
            eprintln!(
                "the log of the server was kept: {}",
                self.home.log.display()
            );
        } else {
            fs::remove_file(&self.home.log).ok();
        }
    }
}

impl Drop for Kept {
    /// Ends what was started here and neither detached nor killed before: a start that failed.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.kill();
            fs::remove_dir_all(&self.home.folder).ok();
        }
    }
}

fn spawn(lifetime: Lifetime, home: &Home, command: &[OsString]) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let (mode, input) = match lifetime {
        Lifetime::Owner => ("owner", Stdio::piped()),
        Lifetime::Lease => ("lease", Stdio::null()),
        Lifetime::Stay => ("stay", Stdio::null()),
    };
    // A detached keeper must hold nothing of ours open, or a pipe that our output goes through would never end.
    Command::new("/bin/sh")
        .arg(paths::own("launchers/keeper.sh"))
        .arg(mode)
        .arg(&home.folder)
        .arg(&home.log)
        .args(command)
        .current_dir(&home.folder)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&home.log)?,
        )
        .process_group(0)
        .spawn()
        .context("cannot start /bin/sh")
}

/// Holds the lease of a shared server: it runs on while anybody does.
pub(crate) fn hold_lease(home: &Path) -> Result<File> {
    let lease = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(home.join("lease"))?;
    lease.lock_shared()?;
    Ok(lease)
}
