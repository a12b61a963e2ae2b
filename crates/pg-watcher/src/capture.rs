//! The capture of one database.
//!
//! ```text
//! slot ──pgoutput──▶ gathered changes ──▶ batches
//!                         │
//!   a table needs a copy: take a snapshot (position C) while the stream goes on,
//!   read the stream up to C, copy the table with version C, go on with the stream
//! ```
//!
//! Every table is copied that way, at the beginning, when it is new, and when something has happened that
//! the stream does not tell (`plan.rs`). So what leaves is in the order of its versions, and a deleted row
//! cannot come back from a late copy.

mod history;
mod session;

pub(crate) use history::{Identity, check_server};

use std::{sync::Arc, time::Duration};

use pipeline::{Captured, Fault, Registry};
use postgres::{Config, Lsn};
use runtime::backoff::Backoff;
use tokio::sync::{mpsc, watch};

use crate::{
    Memory, Position, SourceError, fault,
    source::{SourceObserver, SourceOptions},
};

/// What the capture of a database is made of.
pub(crate) struct Capture {
    pub(crate) config: Config,
    pub(crate) database: Arc<str>,
    pub(crate) slot: String,
    pub(crate) options: Arc<SourceOptions>,
    pub(crate) memory: Memory,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) observer: Arc<dyn SourceObserver>,
    pub(crate) out: mpsc::Sender<Captured<Position>>,
    /// Up to where the slot may be let go.
    pub(crate) flushed: watch::Receiver<Lsn>,
    /// Whether the server could be read from in this process.
    pub(crate) has_read: bool,
}

/// What a database's slot is called, and a publication of ours.
pub(crate) fn slot_name(options: &SourceOptions, database: &str) -> String {
    if options.databases.len() == 1 {
        return options.slot.clone();
    }
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_') => c,
        _ => '_',
    };
    let mut name: String = format!("{}_{database}", options.slot)
        .chars()
        .map(plain)
        .collect();
    name.truncate(63);
    name
}

impl Capture {
    /// Captures until the end, and again after everything that passes by itself.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let what = format!("database {}", self.database);
        loop {
            let ended = session::run(&mut self, &mut backoff).await;
            let ended = ended.map_err(|error| match error {
                // One that takes over is about to be promoted. At the start it is a wrong address.
                SourceError::Standby if self.has_read => Fault::retry(error),
                error => fault(error),
            });
            match ended {
                Ok(()) => return Ok(()),
                Err(fault) if fault.is_retryable() => {
                    let pause = backoff.next_delay();
                    self.observer.trouble(&what, &fault, pause);
                    tokio::time::sleep(pause).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Nobody takes batches any more: the process is ending.
fn nobody_listens() -> SourceError {
    Fault::fatal("the publishing half of the process has ended").into()
}
