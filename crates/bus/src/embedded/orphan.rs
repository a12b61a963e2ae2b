//! A store is used by one process at a time, and a server that outlived its parent is ended.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

use super::EmbeddedError;

/// How long an orphan may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Takes the folder's lock, which the system gives back when this process ends, however it ends.
pub(super) fn lock(folder: &Path) -> Result<Flock<File>, EmbeddedError> {
    let file = folder.join("syncline.lock");
    let name = folder.display().to_string();
    let unusable = |reason: String| EmbeddedError::Folder {
        folder: name.clone(),
        reason,
    };
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&file);
    let opened = opened.map_err(|error| unusable(error.to_string()))?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let pid = std::process::id().to_string();
            let written = lock
                .set_len(0)
                .and_then(|()| lock.write_all(pid.as_bytes()));
            written.map_err(|error| unusable(error.to_string()))?;
            Ok(lock)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let pid = fs::read_to_string(&file).unwrap_or_default();
            Err(EmbeddedError::InUse { folder: name, pid })
        }
        Err((_, error)) => Err(unusable(error.to_string())),
    }
}

/// Ends the server that an earlier process has left behind on this store. The lock is ours, so its
/// parent is gone.
pub(super) async fn end(pid_file: &Path, config_file: &Path) {
    let Some(pid) = fs::read_to_string(pid_file)
        .ok()
        .and_then(|pid| pid.trim().parse().ok())
    else {
        return;
    };
    let pid = Pid::from_raw(pid);
    if !runs_with(pid, config_file) {
        return;
    }
    tracing::warn!(%pid, "a nats-server of an earlier process still runs on this store; ending it");
    signal(pid, Signal::SIGTERM);
    let deadline = Instant::now() + END_WITHIN;
    while runs_with(pid, config_file) {
        if Instant::now() >= deadline {
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the process is a server with our configuration, and not another that got its number.
fn runs_with(pid: Pid, config_file: &Path) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = config_file.as_os_str().as_encoded_bytes();
    command
        .split(|byte| *byte == 0)
        .any(|argument| argument == wanted)
}

/// Sends a signal; a process that is gone already is what was wanted.
pub(super) fn signal(pid: Pid, signal: Signal) {
    if let Err(error) = kill(pid, signal) {
        tracing::debug!(%pid, %signal, %error, "cannot signal nats-server");
    }
}
