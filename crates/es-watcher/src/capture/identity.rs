//! Making sure that what was read was read of the index that was meant.
//!
//! Requests go by the index's name, and a name passes on: an index that is deleted and created anew has it
//! at once, while its readers learn of that at the next discovery only. What they read until then would be
//! published, and entered in the ledger, as of the old index. No answer to a search says which index it is
//! of; statistics do. So after something was read, the node that it was read from is asked whether it still
//! has that shard with that history. A node takes the states of the cluster in order and lets go of an old
//! shard before it has the new one, and neither the UUID of an index nor that of a history ever comes back:
//! if the shard is there afterwards, it was there all the time.

use std::time::Instant;

use model::IndexName;
use search::{Error, ShardCopy, ShardStats};
use tokio::sync::Mutex;

use super::{Capture, stop::Stop};
use crate::checkpoint::History;

/// What is known of one index, shared by its shards.
#[derive(Debug)]
pub(crate) struct Identity {
    index: IndexName,
    newest: Mutex<Option<Proof>>,
}

/// Statistics, and when they were asked for.
#[derive(Debug)]
struct Proof {
    asked: Instant,
    shards: Vec<ShardStats>,
}

impl Identity {
    pub(crate) fn new(index: IndexName) -> Identity {
        Identity {
            index,
            newest: Mutex::new(None),
        }
    }

    /// Returns if what was read of a copy until `read` is of that history. Shards that ask at the same time
    /// share one request.
    pub(crate) async fn prove(
        &self,
        capture: &Capture,
        copy: ShardCopy<'_>,
        history: &History,
        read: Instant,
    ) -> Result<(), Stop> {
        let mut newest = self.newest.lock().await;
        let proof = match newest.take().filter(|proof| proof.asked >= read) {
            Some(proof) => proof,
            None => {
                let asked = Instant::now();
                let shards = capture.client.shard_stats(&[&self.index]).await?;
                capture.cost.add(asked.elapsed());
                Proof { asked, shards }
            }
        };
        let is_other = |stats: &ShardStats| stats.index_uuid != history.index_uuid;
        let replaced = proof.shards.iter().any(is_other);
        let is_it = |stats: &ShardStats| {
            stats.shard == copy.shard
                && stats.node == copy.node
                && stats.index_uuid == history.index_uuid
                && stats.history_uuid == history.history_uuid
        };
        let is_there = proof.shards.iter().any(is_it);
        *newest = Some(proof);
        match (is_there, replaced) {
            (true, _) => Ok(()),
            (false, true) => Err(Stop::Gone),
            // Moved, recovering, or restored: the next look knows.
            (false, false) => Err(Stop::Lost(Error::CopyGone {
                index: self.index.to_string(),
                node: copy.node.to_owned(),
            })),
        }
    }
}
