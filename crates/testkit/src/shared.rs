//! The registry of servers that several test binaries share: one record a server under `target/testkit/shared`.
//!
//! Who wants a server takes its lock, and either finds a living one in the record or starts it. A user holds a shared
//! lock on the server's lease; the server's keeper ends it when nobody has for a minute. The keeper's last step is taken
//! under the exclusive lock, so a user that got the lease has a server that stays.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::keeper::{self, Home, Kept};
use crate::{paths, process};

/// What is written down of a running server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Under which name it is shared.
    pub name: String,
    /// Where it answers.
    pub url: String,
    /// Its log file.
    pub log: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) identity: process::Identity,
    pub(crate) group: i32,
    pub(crate) ports: (u16, u16),
}

impl Record {
    /// Every server that is running and shared or kept for development.
    pub fn running() -> Result<Vec<Record>> {
        let folder = folder()?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                records.extend(read(&path).filter(|record| record.identity.is_alive()));
            }
        }
        records.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(records)
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Kills the server and removes its data.
    pub fn stop(&self) -> Result<()> {
        let home = Home {
            folder: self.home.clone(),
            log: self.log.clone(),
        };
        Kept::attach(home, self.identity, self.group).clean_up();
        let record = folder()?.join(format!("{}.json", self.name));
        fs::remove_file(&record).with_context(|| format!("cannot remove {}", record.display()))
    }
}

/// Holds the right to look for, start and record the server of one name.
pub(crate) struct Claim {
    record: PathBuf,
    _lock: File,
}

impl Claim {
    /// Waits until nobody else is starting it.
    pub(crate) async fn take(name: &str) -> Result<Claim> {
        let folder = folder()?;
        let record = folder.join(format!("{name}.json"));
        let file = File::create(folder.join(format!("{name}.lock")))?;
        let lock = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??;
        Ok(Claim {
            record,
            _lock: lock,
        })
    }

    /// The living server of this name, with its lease held.
    pub(crate) fn find(&self) -> Option<(Record, File)> {
        let record = read(&self.record)?;
        // Opening fails when the keeper has just removed the folder.
        let lease = keeper::hold_lease(&record.home).ok()?;
        record.identity.is_alive().then_some((record, lease))
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        fs::write(&self.record, serde_json::to_vec_pretty(record)?)
            .with_context(|| format!("cannot write {}", self.record.display()))
    }
}

fn folder() -> Result<PathBuf> {
    let folder = paths::run().join("shared");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn read(path: &std::path::Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
