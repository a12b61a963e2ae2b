//! How positions have moved in the last minutes, so that they can be taken back.
//!
//! A position says that the log has everything up to it. A log that loses its end makes that untrue.
//! So with each step of a position is kept which message of the log was the newest then, and where
//! the position was before. What is older than a server takes to sync is dropped.

use std::time::Duration;

use heed::{
    Database, Error, RwTxn,
    byteorder::BigEndian,
    types::{Bytes, U64},
};
use model::{Epoch, IndexName};
use serde::{Deserialize, Serialize};

use super::{ShardKey, Step, seal, unseal};

/// How long a step is kept: nats-server syncs every two minutes unless `sync_interval` says
/// otherwise.
pub(crate) const KEPT: Duration = Duration::from_secs(10 * 60);

/// The number of the newest message then -> what was stored then.
pub(super) type Trail = Database<U64<BigEndian>, Bytes>;

/// Steps that were stored together.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// When, in milliseconds since 1970.
    at: u64,
    steps: Vec<Before>,
}

/// Where a position was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    index: IndexName,
    shard: u32,
    pub(super) epoch: Epoch,
    pub(super) position: i64,
}

impl Before {
    pub(super) fn shard(&self) -> ShardKey {
        ShardKey {
            index: self.index.clone(),
            shard: self.shard,
        }
    }
}

/// Keeps steps; drops old ones and returns the number of the newest row that was dropped.
pub(super) fn keep(
    trail: Trail,
    txn: &mut RwTxn,
    sequence: u64,
    now: u64,
    steps: &[Step],
) -> Result<Option<u64>, Error> {
    let mut together = row(trail.get(txn, &sequence)?).unwrap_or(Row {
        at: now,
        steps: Vec::new(),
    });
    together.steps.extend(steps.iter().map(|step| Before {
        index: step.shard.index.clone(),
        shard: step.shard.shard,
        epoch: step.record.epoch,
        position: step.before,
    }));
    trail.put(txn, &sequence, &seal(&together))?;
    let kept = KEPT.as_millis() as u64;
    let mut dropped = None;
    while let Some((oldest, value)) = trail.first(txn)? {
        if row(Some(value)).is_some_and(|row| row.at + kept >= now) {
            break;
        }
        trail.delete(txn, &oldest)?;
        dropped = Some(oldest);
    }
    Ok(dropped)
}

/// Takes out the steps that relied on messages above a number, newest first.
pub(super) fn undo(trail: Trail, txn: &mut RwTxn, upto: u64) -> Result<Vec<Before>, Error> {
    let mut undone = Vec::new();
    while let Some((newest, value)) = trail.last(txn)? {
        if newest <= upto {
            break;
        }
        let steps = row(Some(value)).map(|row| row.steps).unwrap_or_default();
        undone.extend(steps.into_iter().rev());
        trail.delete(txn, &newest)?;
    }
    Ok(undone)
}

fn row(value: Option<&[u8]>) -> Option<Row> {
    unseal(value?).ok()
}
