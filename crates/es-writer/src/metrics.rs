//! What a writer counts.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Batch, Canary, Change, IndexName, now_ms};
use pipeline::{Observer, Outcome, Replayed};
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

use crate::strangers::Strangers;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    index: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabel {
    index: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The metrics of the writing side, and its readiness: it is ready while writing works.
#[derive(Debug)]
pub struct WriterMetrics {
    changes: Family<Labels, Counter>,
    bytes: Family<IndexLabel, Counter>,
    lag: Family<IndexLabel, Histogram, fn() -> Histogram>,
    delete_lag: Family<IndexLabel, Histogram, fn() -> Histogram>,
    canary: Option<IndexName>,
    canary_age: Histogram,
    canary_newest: Gauge<f64, AtomicU64>,
    newest: Family<IndexLabel, Gauge<f64, AtomicU64>>,
    retries: Family<WhatLabel, Counter>,
    replays: Family<OutcomeLabel, Counter>,
    letters: Family<IndexLabel, Gauge>,
    pending: Gauge,
    entries: Gauge,
    in_flight_bytes: Gauge,
    concurrency: Gauge,
    refused: AtomicU64,
    foreign: Family<IndexLabel, Counter>,
    drift: Family<IndexLabel, Gauge>,
    strangers: Strangers,
    /// Whether anything is read and not settled.
    is_busy: AtomicBool,
    readiness: Readiness,
    heart: Option<Heart>,
    hot: Mutex<Option<Hot>>,
}

/// The handles of the index that was written last: looking them up by label for every document would
/// cost more than writing it.
#[derive(Debug, Clone)]
struct Hot {
    index: IndexName,
    applied: Counter,
    already: Counter,
    refused: Counter,
    bytes: Counter,
    lag: Histogram,
    delete_lag: Histogram,
    newest: Gauge<f64, AtomicU64>,
}

impl WriterMetrics {
    /// Registers the metrics under `syncline_writer`. The heart beats with the loop.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> WriterMetrics {
        let new = WriterMetrics {
            changes: Family::default(),
            bytes: Family::default(),
            lag: Family::new_with_constructor(|| Histogram::new(seconds_buckets())),
            delete_lag: Family::new_with_constructor(|| Histogram::new(seconds_buckets())),
            canary: None,
            canary_age: Histogram::new(seconds_buckets()),
            canary_newest: Gauge::default(),
            newest: Family::default(),
            retries: Family::default(),
            replays: Family::default(),
            letters: Family::default(),
            pending: Gauge::default(),
            entries: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            concurrency: Gauge::default(),
            refused: AtomicU64::new(0),
            foreign: Family::default(),
            drift: Family::default(),
            strangers: Strangers::default(),
            is_busy: AtomicBool::new(false),
            readiness,
            heart,
            hot: Mutex::new(None),
        };
        metrics.register("syncline_writer", |registry| {
            registry.register(
                "changes",
                "Changes answered for: applied, already_applied (the target had them), refused (dead letters)",
                new.changes.clone(),
            );
            registry.register("document_bytes", "Bytes of documents written", new.bytes.clone());
            registry.register(
                "lag_seconds",
                "From the moment the source was asked to the target's answer",
                new.lag.clone(),
            );
            registry.register(
                "delete_lag_seconds",
                "The same for deletes alone, from the moment the document was missed at the source",
                new.delete_lag.clone(),
            );
            registry.register(
                "canary_seconds",
                "From the moment a canary document was sent to the source to the target's answer",
                new.canary_age.clone(),
            );
            registry.register(
                "canary_newest_timestamp_seconds",
                "When the newest canary document at the target was sent to the source; 0 before the first",
                new.canary_newest.clone(),
            );
            registry.register(
                "newest_captured_timestamp_seconds",
                "When the newest change at the target was captured; now minus this is seconds behind while changes flow",
                new.newest.clone(),
            );
            registry.register("retries", "Operations that failed and were tried again", new.retries.clone());
            registry.register(
                "replays",
                "Dead letters that were sent again: written, refused (dead letters again), superseded (not written, because their letter was gone)",
                new.replays.clone(),
            );
            registry.register("dead_letters", "Dead letters of this reader that are kept", new.letters.clone());
            registry.register(
                "behind_messages",
                "Messages of the stream that this writer has not read yet",
                new.pending.clone(),
            );
            registry.register(
                "drift",
                "Differences between an index and its source's definition that stay: fields, analysis, aliases",
                new.drift.clone(),
            );
            registry.register(
                "foreign_versions",
                "Documents at the target that somebody else has written: our changes lose against them",
                new.foreign.clone(),
            );
            registry.register("in_flight_entries", "Log entries read and not settled", new.entries.clone());
            registry.register(
                "concurrency",
                "Bulks that may be under way at once: --concurrency, or less while the target is busy",
                new.concurrency.clone(),
            );
            registry.register("in_flight_bytes", "Their bytes", new.in_flight_bytes.clone());
        });
        new
    }

    /// Says how many dead letters of an index there are.
    pub fn letters(&self, index: &str, count: u64) {
        let label = IndexLabel {
            index: index.to_owned(),
        };
        self.letters.get_or_create(&label).set(count as i64);
    }

    /// How many changes the target has refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Says which documents somebody else has written.
    fn judge(&self) {
        for (told, stranger) in self
            .strangers
            .caught_up(Instant::now())
            .into_iter()
            .enumerate()
        {
            let label = IndexLabel {
                index: stranger.index.to_string(),
            };
            self.foreign.get_or_create(&label).inc();
            if told < 10 {
                tracing::error!(
                    index = %stranger.index, id = %stranger.id, ours = %stranger.ours, held = stranger.held,
                    "somebody else has written this document at the target, under a version above the source's: it \
                     stays as it is there until the source's lies above; `syncline verify --repair` overwrites it"
                );
            }
        }
    }

    fn hot(&self, index: &IndexName) -> Hot {
        let mut hot = self.hot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hot) = hot.as_ref().filter(|hot| hot.index == *index) {
            return hot.clone();
        }
        let label = IndexLabel {
            index: index.to_string(),
        };
        let counter = |outcome| {
            let labels = Labels {
                index: index.to_string(),
                outcome,
            };
            self.changes.get_or_create_owned(&labels)
        };
        let new = Hot {
            index: index.clone(),
            applied: counter("applied"),
            already: counter("already_applied"),
            refused: counter("refused"),
            bytes: self.bytes.get_or_create_owned(&label),
            lag: self.lag.get_or_create_owned(&label),
            delete_lag: self.delete_lag.get_or_create_owned(&label),
            newest: self.newest.get_or_create_owned(&label),
        };
        *hot = Some(new.clone());
        new
    }

    /// The same with an index whose documents tell when they were sent.
    #[must_use]
    pub fn with_canary(self, canary: Option<IndexName>) -> WriterMetrics {
        WriterMetrics { canary, ..self }
    }

    fn canary(&self, change: &Change) {
        let canary = change.document().map(|sent| Canary::read(sent.as_bytes()));
        let Some(Some(Canary { sent_ms })) = canary else {
            return; // somebody else's document
        };
        let age = now_ms().saturating_sub(sent_ms);
        self.canary_age.observe(age as f64 / 1e3);
        self.canary_newest.set(sent_ms as f64 / 1e3);
    }
}

impl Observer for WriterMetrics {
    fn settled(&self, batch: &Batch, change: &Change, outcome: &Outcome) {
        let hot = self.hot(&batch.index);
        match outcome {
            Outcome::Superseded(held) => self.strangers.lost(batch, change, *held),
            Outcome::Applied | Outcome::AlreadyApplied | Outcome::Refused(_) => {
                self.strangers.settled(batch, change);
            }
            Outcome::Retry(_) => {}
        }
        match outcome {
            Outcome::Applied => {
                hot.applied.inc();
                hot.bytes
                    .inc_by(change.document().map_or(0, |d| d.as_bytes().len() as u64));
            }
            Outcome::AlreadyApplied | Outcome::Superseded(_) => {
                hot.already.inc();
            }
            Outcome::Refused(reason) => {
                hot.refused.inc();
                if self.refused.fetch_add(1, Ordering::Relaxed) < 10 {
                    tracing::error!(
                        index = %batch.index, id = %change.id, reason,
                        "the target refuses a document: it goes to the dead letters"
                    );
                }
            }
            Outcome::Retry(_) => {}
        }
        hot.lag.observe(batch.origin.age().as_secs_f64());
        if change.document().is_none() {
            hot.delete_lag.observe(batch.origin.age().as_secs_f64());
        }
        if *outcome == Outcome::Applied && self.canary.as_ref() == Some(&batch.index) {
            self.canary(change);
        }
        let captured = batch.origin.captured_ms as f64 / 1e3;
        if captured > hot.newest.get() {
            hot.newest.set(captured);
        }
    }

    fn replayed(&self, _: &Batch, outcome: Replayed) {
        let outcome = outcome.as_str();
        self.replays.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    fn retrying(&self, what: &'static str, reason: &dyn std::fmt::Display, pause: Duration) {
        self.retries.get_or_create(&WhatLabel { what }).inc();
        self.readiness
            .set("target", Err(format!("{what}: {reason}")));
        tracing::warn!(what, %reason, ?pause, "trying again");
        self.alive();
    }

    fn recovered(&self, what: &'static str) {
        self.readiness.set("target", Ok(()));
        tracing::info!(what, "works again");
    }

    fn alive(&self) {
        if let Some(heart) = &self.heart {
            heart.beat();
        }
    }

    fn pending(&self, entries: u64) {
        self.pending.set(entries as i64);
        if entries == 0 && !self.is_busy.load(Ordering::Relaxed) {
            self.judge();
        }
    }

    fn drift(&self, index: &IndexName, differences: usize) {
        let label = IndexLabel {
            index: index.to_string(),
        };
        self.drift.get_or_create(&label).set(differences as i64);
    }

    fn concurrency(&self, bulks: usize) {
        self.concurrency.set(bulks as i64);
    }

    fn in_flight(&self, entries: usize, bytes: usize) {
        self.entries.set(entries as i64);
        self.is_busy.store(entries > 0, Ordering::Relaxed);
        self.in_flight_bytes.set(bytes as i64);
    }
}
