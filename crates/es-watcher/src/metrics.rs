//! What a watcher counts.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bus::{PublisherMetrics, WATCHER};
use model::{Batch, IndexName};
use pipeline::Observer;
use runtime::{
    health::{Heart, Readiness},
    metrics::{
        Metrics,
        prometheus_client::{
            encoding::EncodeLabelSet,
            metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
        },
        seconds_buckets,
    },
};
use search::IndexInfo;

use crate::{ShardKey, SourceObserver};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabel {
    index: String,
}

/// The metrics of the capturing side, and its health: it is ready while the source answers and the
/// stream takes what is published.
#[derive(Debug)]
pub struct WatcherMetrics {
    publisher: PublisherMetrics,
    behind: Family<IndexLabel, Gauge>,
    shards: Mutex<HashMap<IndexName, HashMap<u32, u64>>>,
    looks: Counter,
    deletes: Family<IndexLabel, Counter>,
    delete_age: Histogram,
    canaries: Counter,
    counts: Counter,
    count_seconds: Counter<f64, AtomicU64>,
    suspects: Counter,
    incomplete: Counter,
    taken_back: Counter,
}

impl WatcherMetrics {
    /// Registers the metrics under `syncline_watcher`. The heart beats with every look at the source.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> WatcherMetrics {
        let new = WatcherMetrics {
            publisher: PublisherMetrics::new(metrics, readiness, heart),
            behind: Family::default(),
            shards: Mutex::default(),
            looks: Counter::default(),
            deletes: Family::default(),
            delete_age: Histogram::new(seconds_buckets()),
            canaries: Counter::default(),
            counts: Counter::default(),
            count_seconds: Counter::default(),
            suspects: Counter::default(),
            incomplete: Counter::default(),
            taken_back: Counter::default(),
        };
        metrics.register(WATCHER, |registry| {
            registry.register(
                "behind_operations",
                "Operations of the source up to its global checkpoint that are not read yet",
                new.behind.clone(),
            );
            registry.register(
                "looks",
                "Looks at the source's statistics",
                new.looks.clone(),
            );
            registry.register(
                "deletes",
                "Documents that were found to be deleted",
                new.deletes.clone(),
            );
            registry.register(
                "delete_age_seconds",
                "How old deletes were at most when they were published: since the source was last seen without them",
                new.delete_age.clone(),
            );
            registry.register(
                "canaries",
                "Canary documents written at the source",
                new.canaries.clone(),
            );
            registry.register(
                "counts",
                "Shards counted in search of deletes",
                new.counts.clone(),
            );
            registry.register(
                "count_seconds",
                "How long that took",
                new.count_seconds.clone(),
            );
            registry.register(
                "suspects",
                "Documents that a count missed: deleted, or changed since",
                new.suspects.clone(),
            );
            registry.register(
                "incomplete_ledgers",
                "Ledgers that do not know all that was published: earlier deletes may have gone unnoticed",
                new.incomplete.clone(),
            );
            registry.register(
                "shards_taken_back",
                "Shards that went back to an earlier state under the same history, and were read again",
                new.taken_back.clone(),
            );
        });
        new
    }

    /// What an earlier watcher published is not in our ledger.
    pub(crate) fn foreign_ledger(&self) {
        self.incomplete.inc();
    }

    /// A canary was written.
    pub(crate) fn canary(&self) {
        self.canaries.inc();
    }

    /// The stream has lost its end.
    pub(crate) fn lost_end(&self) {
        self.publisher.lost_end();
    }
}

impl SourceObserver for WatcherMetrics {
    fn found(&self, index: &IndexInfo) {
        self.publisher.found();
        tracing::info!(index = %index.name, shards = index.shards, "watching index");
    }

    fn left_out(&self, _: &IndexName) {
        self.publisher.left_out();
    }

    fn behind(&self, shard: &ShardKey, operations: u64) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let of_index = shards.entry(shard.index.clone()).or_default();
        of_index.insert(shard.shard, operations);
        let label = IndexLabel {
            index: shard.index.to_string(),
        };
        self.behind
            .get_or_create(&label)
            .set(of_index.values().sum::<u64>() as i64);
    }

    fn trouble(&self, what: &str, reason: &dyn Display, pause: Duration) {
        let condition = match what {
            "checkpoint" | "ledger" => what,
            _ => "source",
        };
        self.publisher.trouble(condition, what, reason, pause);
    }

    fn recovered(&self, what: &str) {
        self.publisher.fine(what);
        tracing::info!(what, "works again");
    }

    fn fine(&self) {
        self.looks.inc();
        self.publisher.fine("source");
    }

    fn counted(&self, took: Duration, suspects: usize) {
        self.counts.inc();
        self.count_seconds.inc_by(took.as_secs_f64());
        self.suspects.inc_by(suspects as u64);
    }

    fn deleted(&self, index: &IndexName, documents: usize, within: Option<Duration>) {
        for _ in 0..within.map_or(0, |_| documents) {
            self.delete_age
                .observe(within.unwrap_or_default().as_secs_f64());
        }
        let label = IndexLabel {
            index: index.to_string(),
        };
        self.deletes.get_or_create(&label).inc_by(documents as u64);
    }

    fn incomplete(&self, _: &ShardKey) {
        self.incomplete.inc();
    }

    fn taken_back(&self, _: &ShardKey) {
        self.taken_back.inc();
    }
}

impl Observer for WatcherMetrics {
    fn published(&self, batch: &Batch) {
        self.publisher.published(batch);
    }

    fn retrying(&self, what: &'static str, reason: &dyn Display, pause: Duration) {
        self.publisher.retrying(what, reason, pause);
    }
}
