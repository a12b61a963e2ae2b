//! A search cluster as a [`ChangeSource`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use pipeline::{Captured, ChangeSource, Fault};
use runtime::backoff::Backoff;
use search::{Client, IndexInfo, IndexPatterns};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    capture::{self, Capture},
    checkpoint::{Checkpoint, Checkpoints, ShardKey},
};

/// How a source is read.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// Which indices.
    pub indices: IndexPatterns,
    /// The longest pause between two looks at the source.
    pub poll_interval: Duration,
    /// How changes become visible to searches.
    pub refresh: SourceRefresh,
    /// The most searches at once.
    pub searches: usize,
    /// Whether to stay when everything is read.
    pub follow: bool,
}

/// How changes become visible to searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceRefresh {
    /// A refresh is asked for before each round. Needs the privilege `indices:admin/refresh`.
    Force,
    /// The index's own refresh interval is waited for.
    Natural,
}

/// Is told how the capture goes. Called from many tasks, so it must return at once.
pub trait SourceObserver: Send + Sync {
    /// An index is read from now on.
    fn found(&self, _index: &IndexInfo) {}
    /// An index matches the patterns and cannot be captured.
    fn left_out(&self, _index: &model::IndexName) {}
    /// An index is read to its end, and not followed.
    fn read(&self, _index: &model::IndexName) {}
    /// So many operations of a shard are not read yet.
    fn behind(&self, _shard: &ShardKey, _operations: u64) {}
    /// Something failed and is tried again after a pause.
    fn trouble(&self, _what: &str, _reason: &dyn std::fmt::Display, _pause: Duration) {}
    /// What was in trouble works again.
    fn recovered(&self, _what: &str) {}
    /// The source answers.
    fn fine(&self) {}
}

impl SourceObserver for () {}

/// How many pages wait between the readers and the log. Each is about a megabyte.
const PAGES: usize = 2;
/// How long confirmed positions are gathered before they are stored together.
const STORE_EVERY: Duration = Duration::from_millis(100);
/// The longest pause before positions that could not be stored are tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// The changes of a search cluster.
#[derive(Debug)]
pub struct SearchSource {
    batches: mpsc::Receiver<Captured<Checkpoint>>,
    capture: JoinSet<Result<(), Fault>>,
    confirmed: watch::Sender<HashMap<Arc<ShardKey>, Checkpoint>>,
    keeper: JoinHandle<()>,
}

impl SearchSource {
    /// Starts reading `client`'s cluster from `checkpoints`.
    pub fn start(
        client: Client,
        options: SourceOptions,
        checkpoints: Checkpoints,
        observer: Arc<dyn SourceObserver>,
    ) -> SearchSource {
        let (sender, batches) = mpsc::channel(PAGES);
        let (confirmed, changes) = watch::channel(HashMap::new());
        let keeper = tokio::spawn(keep(checkpoints.clone(), changes, Arc::clone(&observer)));
        let capture = Capture {
            client,
            searches: Semaphore::new(options.searches.max(1)),
            options,
            checkpoints,
            observer,
            batches: sender,
            cost: capture::Cost::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(capture::watch(Arc::new(capture)));
        SearchSource {
            batches,
            capture: tasks,
            confirmed,
            keeper,
        }
    }

    /// Ends the capture and stores the last confirmed positions.
    pub async fn close(mut self) {
        self.capture.shutdown().await;
        drop(self.confirmed);
        if let Err(panic) = self.keeper.await {
            tracing::error!(%panic, "the last positions could not be stored");
        }
    }
}

impl ChangeSource for SearchSource {
    type Position = Checkpoint;

    async fn next(&mut self) -> Result<Option<Captured<Checkpoint>>, Fault> {
        if let Some(captured) = self.batches.recv().await {
            return Ok(Some(captured));
        }
        // All senders are gone, so the capture has ended, or is about to say why.
        match self.capture.join_next().await {
            Some(ended) => {
                ended.unwrap_or_else(|panic| Err(Fault::fatal(panic)))?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    async fn confirm(&mut self, position: Checkpoint) -> Result<(), Fault> {
        if position.position >= 0 {
            self.confirmed.send_modify(|confirmed| {
                confirmed.insert(Arc::clone(&position.shard), position);
            });
        }
        Ok(())
    }
}

/// Stores confirmed positions, several at a time. A position that cannot be stored is tried again:
/// what is stored is older then, and a restart reads some changes twice.
async fn keep(
    checkpoints: Checkpoints,
    mut confirmed: watch::Receiver<HashMap<Arc<ShardKey>, Checkpoint>>,
    observer: Arc<dyn SourceObserver>,
) {
    let mut backoff = Backoff::new(STORE_EVERY, STORE_AGAIN);
    let mut open = true;
    while open {
        open = confirmed.changed().await.is_ok();
        let newest: Vec<Checkpoint> = confirmed.borrow_and_update().values().cloned().collect();
        let store = checkpoints.clone();
        let stored = tokio::task::spawn_blocking(move || store.commit(&newest)).await;
        let stored = match stored {
            Ok(stored) => stored.map_err(Fault::retry),
            Err(panic) => Err(Fault::retry(panic)),
        };
        let pause = match stored {
            Ok(()) => {
                if backoff.attempts() > 0 {
                    observer.recovered("checkpoint");
                    backoff.reset();
                }
                STORE_EVERY
            }
            Err(fault) => {
                let pause = backoff.next_delay();
                observer.trouble("checkpoint", &fault, pause);
                confirmed.mark_changed();
                pause
            }
        };
        if open {
            tokio::time::sleep(pause).await;
        }
    }
}
