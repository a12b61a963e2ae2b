//! What the kernel says about a process: processor time, memory, bytes written.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks after boot.
    started: u64,
}

impl Identity {
    pub(crate) fn of(pid: u32) -> Option<Identity> {
        let started = stat(pid).ok()?.started;
        Some(Identity { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.started == self.started && !stat.is_over)
    }
}

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel on its behalf.
    pub system: Duration,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// The most resident memory it ever had, in bytes.
    pub peak_resident: u64,
    /// Bytes it made the kernel write to storage.
    pub written: u64,
}

impl Usage {
    /// Reads `/proc` of a process.
    pub fn of(pid: u32) -> Result<Usage> {
        let stat = stat(pid)?;
        let status = read(pid, "status")?;
        // A process of another user hides its I/O.
        let io = read(pid, "io").unwrap_or_default();
        Ok(Usage {
            user: stat.user,
            system: stat.system,
            resident: field(&status, "VmRSS:").unwrap_or(0) * 1024,
            peak_resident: field(&status, "VmHWM:").unwrap_or(0) * 1024,
            written: field(&io, "write_bytes:").unwrap_or(0),
        })
    }

    /// Of this process.
    pub fn of_this_process() -> Result<Usage> {
        Self::of(std::process::id())
    }

    /// User and system time together.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }

    /// What was used since an earlier reading; memory stays as it is now.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            written: self.written.saturating_sub(earlier.written),
            ..*self
        }
    }
}

/// Starts the peak of resident memory of a process anew, so that a phase can be measured by itself.
pub fn reset_peak_resident(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .context("cannot reset the peak of resident memory")
}

/// Bytes that the loopback interface has carried: everything that went between local processes.
pub fn loopback_bytes() -> Result<u64> {
    let interfaces = fs::read_to_string("/proc/net/dev").context("cannot read /proc/net/dev")?;
    field(&interfaces, "lo:").context("/proc/net/dev has no loopback interface")
}

struct Stat {
    is_over: bool,
    user: Duration,
    system: Duration,
    started: u64,
}

/// `/proc/PID/stat`, whose fields after the name in parentheses are counted from 3 (proc(5)).
fn stat(pid: u32) -> Result<Stat> {
    let text = read(pid, "stat")?;
    let (_, after_name) = text
        .rsplit_once(") ")
        .context("/proc/PID/stat has no name")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let number = |at: usize| -> Result<u64> {
        let field = fields.get(at - 3).context("/proc/PID/stat is too short")?;
        Ok(field.parse()?)
    };
    Ok(Stat {
        // The first thread may have ended while others still hold files and ports.
        is_over: fields.first() == Some(&"Z") && number(20)? <= 1,
        user: ticks(number(14)?),
        system: ticks(number(15)?),
        started: number(22)?,
    })
}

/// Linux shows times to programs in hundredths of a second (USER_HZ) on every architecture this runs on.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 10)
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("process {pid} is gone"))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_time_and_memory() {
        let before = Usage::of_this_process().unwrap();
        let mut sum = 0_u64;
        while Usage::of_this_process().unwrap().since(&before).cpu() < Duration::from_millis(30) {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let now = Usage::of_this_process().unwrap();
        assert!(
            now.resident > 0 && now.peak_resident >= now.resident,
            "{now:?} {sum}"
        );
    }

    #[test]
    fn an_identity_is_of_one_process_only() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(
            !Identity {
                started: own.started + 1,
                ..own
            }
            .is_alive()
        );
    }
}
