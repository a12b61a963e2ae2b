//! Finding and reading changes: one loop, from the first document ever to the latest.
//!
//! ```text
//! look (all shards' statistics, one request)      looks.rs
//!   -> a new history: its epoch, its definition   beginning.rs
//!   -> a definition that has changed              definitions.rs, beginning.rs
//!   -> per shard: what is missing?                cursor.rs
//!        -> refresh the index, once for all       refresh.rs
//!        -> read windows up to the checkpoint     shard.rs, page.rs
//!        -> of the index that is meant            identity.rs
//!        -> count what is alive, now and then     hunt.rs, deletes.rs
//!        -> read once more what is asked for      shard/again.rs
//! per index: what an earlier history left behind  inheritance.rs
//! ```
//!
//! A first run is this loop from the beginning of every shard's history: backfill and live tail are
//! one algorithm, and there is no moment of switching between them.

mod beginning;
mod cursor;
mod definitions;
mod deletes;
mod hunt;
mod identity;
mod inheritance;
mod looks;
mod pace;
mod page;
mod refresh;
mod shard;
mod stop;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model::{IndexDefinition, IndexName};
use pipeline::Registry;
use runtime::throttle::Throttle;
use search::{Client, ShardStats};
use tokio::sync::Semaphore;

pub(crate) use looks::watch;

use crate::{
    checkpoint::Checkpoints,
    ledger::{Ledger, Stage},
    resync::Requests,
    source::{SourceObserver, SourceOptions},
};

/// What all parts of the capture share.
pub(crate) struct Capture {
    pub(crate) client: Client,
    pub(crate) options: SourceOptions,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) observer: Arc<dyn SourceObserver>,
    /// Bounds the searches that run at the source at once.
    pub(crate) searches: Semaphore,
    /// Bounds the documents that are read in a second.
    pub(crate) throttle: Throttle,
    /// Without one, deletes go unnoticed.
    pub(crate) ledger: Option<Ledger>,
    pub(crate) stage: Stage,
    /// What is asked for again.
    pub(crate) requests: Requests,
    pub(crate) cost: Cost,
}

/// What watching has cost the source since it was last asked: the time of its statistics and
/// refreshes.
#[derive(Debug, Default)]
pub(crate) struct Cost(AtomicU64);

impl Cost {
    pub(crate) fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn take(&self) -> Duration {
        Duration::from_micros(self.0.swap(0, Ordering::Relaxed))
    }
}

/// One look at all shards.
#[derive(Debug)]
pub(crate) struct Look {
    /// Counts the looks.
    pub(crate) number: u64,
    /// When it began: everything that was done before then is visible in it.
    pub(crate) asked: Instant,
    shards: HashMap<(IndexName, u32), ShardStats>,
    definitions: Definitions,
}

/// What indices look like that have changed since they were found, by UUID.
type Definitions = Arc<HashMap<String, Arc<IndexDefinition>>>;

impl Look {
    /// What it shows of a shard; nothing while the shard has no primary.
    pub(crate) fn shard(&self, index: &IndexName, uuid: &str, shard: u32) -> Option<&ShardStats> {
        let stats = self.shards.get(&(index.clone(), shard))?;
        (stats.index_uuid == uuid).then_some(stats)
    }

    /// What an index looks like, if that has changed since it was found.
    pub(crate) fn definition(&self, uuid: &str) -> Option<&Arc<IndexDefinition>> {
        self.definitions.get(uuid)
    }
}
