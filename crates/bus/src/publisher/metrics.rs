//! What every watcher counts, whatever it watches.

use std::{fmt::Display, time::Duration};

use model::Batch;
use pipeline::Observer;
use runtime::{
    health::{Heart, Readiness},
    metrics::{
        Metrics,
        prometheus_client::{
            encoding::EncodeLabelSet,
            metrics::{counter::Counter, family::Family, gauge::Gauge},
        },
    },
};

/// Under which names the metrics of a watcher stand.
pub const WATCHER: &str = "syncline_watcher";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabel {
    index: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: String,
}

/// What was published and what failed; and the watcher's health: it is ready while the source answers and the
/// stream takes what is published.
#[derive(Debug)]
pub struct PublisherMetrics {
    changes: Family<IndexLabel, Counter>,
    bytes: Family<IndexLabel, Counter>,
    indices: Gauge,
    left_out: Counter,
    retries: Family<WhatLabel, Counter>,
    lost_ends: Counter,
    readiness: Readiness,
    heart: Option<Heart>,
}

impl PublisherMetrics {
    /// Registers the metrics. The heart beats with every sign of life.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> PublisherMetrics {
        let new = PublisherMetrics {
            changes: Family::default(),
            bytes: Family::default(),
            indices: Gauge::default(),
            left_out: Counter::default(),
            retries: Family::default(),
            lost_ends: Counter::default(),
            readiness,
            heart,
        };
        metrics.register(WATCHER, |registry| {
            registry.register(
                "changes",
                "Changes the stream has taken",
                new.changes.clone(),
            );
            registry.register("batch_bytes", "Their bytes", new.bytes.clone());
            registry.register(
                "indices",
                "Indices that are watched, or tables",
                new.indices.clone(),
            );
            registry.register(
                "indices_left_out",
                "Indices or tables that match and cannot be captured",
                new.left_out.clone(),
            );
            registry.register(
                "retries",
                "Operations that failed and were tried again",
                new.retries.clone(),
            );
            registry.register(
                "lost_ends",
                "Times the stream had lost messages it had acknowledged; what they held was published again",
                new.lost_ends.clone(),
            );
        });
        new
    }

    /// One more index is watched.
    pub fn found(&self) {
        self.indices.inc();
    }

    /// One more cannot be.
    pub fn left_out(&self) {
        self.left_out.inc();
    }

    /// The stream has lost its end.
    pub fn lost_end(&self) {
        self.lost_ends.inc();
    }

    /// Something failed and is tried again after a pause; the watcher is not ready until `condition` is fine again.
    pub fn trouble(&self, condition: &str, what: &str, reason: &dyn Display, pause: Duration) {
        let label = WhatLabel {
            what: condition.to_owned(),
        };
        self.retries.get_or_create(&label).inc();
        self.readiness
            .set(condition, Err(format!("{what}: {reason}")));
        tracing::warn!(what, %reason, ?pause, "trying again");
        self.beat();
    }

    /// What was in trouble works.
    pub fn fine(&self, condition: &str) {
        self.readiness.set(condition, Ok(()));
        self.beat();
    }

    fn beat(&self) {
        if let Some(heart) = &self.heart {
            heart.beat();
        }
    }
}

impl Observer for PublisherMetrics {
    fn published(&self, batch: &Batch) {
        self.fine("stream");
        if batch.is_empty() {
            return;
        }
        let label = IndexLabel {
            index: batch.index.to_string(),
        };
        self.changes
            .get_or_create(&label)
            .inc_by(batch.changes().len() as u64);
        self.bytes.get_or_create(&label).inc_by(batch.size() as u64);
    }

    fn retrying(&self, what: &'static str, reason: &dyn Display, pause: Duration) {
        self.trouble("stream", what, reason, pause);
    }
}
