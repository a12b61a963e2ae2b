//! A search cluster as a [`ChangeSource`].

use std::{num::NonZeroU64, path::Path, str::FromStr, sync::Arc, time::Duration};

use ::config::{Millis, UnitError};
use pipeline::{Captured, ChangeSource, Fault};
use runtime::throttle::Throttle;
use search::{Client, IndexInfo, IndexPatterns};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    capture::{self, Capture},
    checkpoint::{Checkpoint, ShardKey},
    keeper::{Keeper, Memory},
    ledger::{Ledger, LedgerError, Stage, Staged},
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
    /// The most documents read in a second, all shards together.
    pub max_rate: Option<NonZeroU64>,
    /// Whether to stay when everything is read.
    pub follow: bool,
    /// Whether deletes are noticed; needs a ledger.
    pub deletes: Deletes,
}

/// How changes become visible to searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceRefresh {
    /// A refresh is asked for before each round. Needs the privilege `indices:admin/refresh`.
    Force,
    /// The index's own refresh interval is waited for.
    Natural,
}

/// Whether and how deletes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// They are not: what is deleted at the source stays at the target.
    Off,
    /// By counting what is alive: when a shard says that it has deleted something, and at the latest
    /// after this time.
    Every(Duration),
}

impl Deletes {
    const DEFAULT: Deletes = Deletes::Every(Duration::from_secs(60));

    /// Opens the ledger that this needs, in a checkpoint folder or for the life of the process.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn ledger(self, checkpoints: Option<&Path>) -> Result<Option<Ledger>, LedgerError> {
        match (self, checkpoints) {
            (Deletes::Off, _) => Ok(None),
            (_, Some(folder)) => Ledger::open(&folder.join("ledger")).map(Some),
            (_, None) => Ledger::temporary().map(Some),
        }
    }

    pub(crate) fn interval(self) -> Duration {
        match self {
            Deletes::Off => Duration::MAX,
            Deletes::Every(interval) => interval,
        }
    }
}

/// Neither `on` nor `off` nor a time.
#[derive(Debug, thiserror::Error)]
#[error("write on, off, or how often to count at least, such as 30s ({0})")]
pub struct DeletesError(#[from] UnitError);

impl FromStr for Deletes {
    type Err = DeletesError;

    fn from_str(text: &str) -> Result<Deletes, DeletesError> {
        match text {
            "on" => Ok(Deletes::DEFAULT),
            "off" => Ok(Deletes::Off),
            interval => Ok(Deletes::Every(Millis::from_str(interval)?.into())),
        }
    }
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
    /// A shard was counted, and so many of its documents are missing, which may have been deleted or
    /// have changed since.
    fn counted(&self, _took: Duration, _suspects: usize) {}
    /// So many documents of an index were found to be deleted, no longer ago than the given time, if that
    /// is known.
    fn deleted(&self, _index: &model::IndexName, _documents: usize, _within: Option<Duration>) {}
    /// The ledger does not reach back to the beginning of a shard's history: what was deleted while it
    /// was missing stays at the target.
    fn incomplete(&self, _shard: &ShardKey) {}
    /// A shard went back to an earlier state and is read from its beginning.
    fn taken_back(&self, _shard: &ShardKey) {}
}

impl SourceObserver for () {}

/// The changes of a search cluster.
#[derive(Debug)]
pub struct SearchSource {
    staged: Staged,
    capture: JoinSet<Result<(), Fault>>,
    keeper: Keeper,
}

impl SearchSource {
    /// Starts reading `client`'s cluster from where `memory` says.
    pub fn start(
        client: Client,
        options: SourceOptions,
        memory: Memory,
        observer: Arc<dyn SourceObserver>,
    ) -> SearchSource {
        let keeper = Keeper::start(memory.clone(), Arc::clone(&observer));
        let (stage, staged) = Stage::start(memory.ledger.clone(), Arc::clone(&observer));
        let capture = Capture {
            client,
            searches: Semaphore::new(options.searches.max(1)),
            throttle: Throttle::new(options.max_rate),
            options,
            checkpoints: memory.checkpoints,
            registry: memory.registry,
            observer,
            ledger: memory.ledger,
            stage,
            requests: memory.requests,
            cost: capture::Cost::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(capture::watch(Arc::new(capture)));
        SearchSource {
            staged,
            capture: tasks,
            keeper,
        }
    }

    /// Ends the capture and stores the last confirmed positions. Nobody has the ledger or the checkpoints
    /// open then, so that they can be opened again.
    pub async fn close(mut self) {
        self.capture.shutdown().await;
        // The tasks of the capture have been told to end; its stage does when the last of them has.
        self.staged.close().await;
        self.keeper.close().await;
    }
}

impl ChangeSource for SearchSource {
    type Position = Checkpoint;

    async fn next(&mut self) -> Result<Option<Captured<Checkpoint>>, Fault> {
        if let Some(captured) = self.staged.next().await? {
            return Ok(Some(captured));
        }
        // The stage has ended because the capture did.
        if let Some(ended) = self.capture.join_next().await {
            ended.unwrap_or_else(|panic| Err(Fault::fatal(panic)))?;
        }
        Ok(None)
    }

    async fn confirm(&mut self, position: Checkpoint) -> Result<(), Fault> {
        self.keeper.confirm(position).await
    }
}
