//! What a watcher of PostgreSQL counts.

use std::{fmt::Display, time::Duration};

use model::{Batch, IndexName};
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

use crate::SourceObserver;

/// A budget of the log that is used up to this share, in hundredths, is warned of.
const WARN_AT: u64 = 70;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabel {
    index: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatabaseLabel {
    database: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: String,
}

/// The metrics of the capturing side, and its health: it is ready while the server answers and the
/// stream takes what is published.
#[derive(Debug)]
pub struct PgMetrics {
    changes: Family<IndexLabel, Counter>,
    bytes: Family<IndexLabel, Counter>,
    behind: Family<DatabaseLabel, Gauge>,
    retained: Family<DatabaseLabel, Gauge>,
    budget: Family<DatabaseLabel, Gauge>,
    indices: Gauge,
    left_out: Counter,
    copies: Counter,
    retries: Family<WhatLabel, Counter>,
    lost_ends: Counter,
    readiness: Readiness,
    heart: Option<Heart>,
    said: std::sync::Mutex<std::collections::HashSet<String>>,
}

impl PgMetrics {
    /// Registers the metrics under `syncline_watcher`. The heart beats whenever the server is heard.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> PgMetrics {
        let new = PgMetrics {
            changes: Family::default(),
            bytes: Family::default(),
            behind: Family::default(),
            retained: Family::default(),
            budget: Family::default(),
            indices: Gauge::default(),
            left_out: Counter::default(),
            copies: Counter::default(),
            retries: Family::default(),
            lost_ends: Counter::default(),
            readiness,
            heart,
            said: Default::default(),
        };
        metrics.register("syncline_watcher", |registry| {
            registry.register(
                "changes",
                "Changes the stream has taken",
                new.changes.clone(),
            );
            registry.register("batch_bytes", "Their bytes", new.bytes.clone());
            registry.register(
                "behind_bytes",
                "Bytes of the server's log that are not read yet",
                new.behind.clone(),
            );
            registry.register(
                "slot_retained_bytes",
                "Bytes of the server's log that the slot holds back",
                new.retained.clone(),
            );
            registry.register(
                "slot_budget_bytes",
                "How many it may (max_slot_wal_keep_size); 0 without a limit",
                new.budget.clone(),
            );
            registry.register("indices", "Tables that are captured", new.indices.clone());
            registry.register(
                "indices_left_out",
                "Tables that match and cannot be captured",
                new.left_out.clone(),
            );
            registry.register(
                "table_copies",
                "Tables that were copied as a whole or in part",
                new.copies.clone(),
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

    /// The stream has lost its end.
    pub(crate) fn lost_end(&self) {
        self.lost_ends.inc();
    }

    /// Whether something was not said before.
    fn is_news(&self, what: &str) -> bool {
        let mut said = self
            .said
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        said.insert(what.to_owned())
    }

    fn trouble_with(&self, condition: &str, what: &str, reason: &dyn Display, pause: Duration) {
        let label = WhatLabel {
            what: condition.to_owned(),
        };
        self.retries.get_or_create(&label).inc();
        self.readiness
            .set(condition, Err(format!("{what}: {reason}")));
        tracing::warn!(what, %reason, ?pause, "trying again");
        self.beat();
    }

    fn beat(&self) {
        if let Some(heart) = &self.heart {
            heart.beat();
        }
    }
}

impl SourceObserver for PgMetrics {
    fn found(&self, index: &IndexName) {
        if self.is_news(index.as_str()) {
            self.indices.inc();
            tracing::info!(%index, "capturing table");
        }
    }

    fn left_out(&self, table: &str, reason: &str) {
        if self.is_news(&format!("{table} {reason}")) {
            self.left_out.inc();
            tracing::warn!(table, "left out: {reason}");
        }
    }

    fn column_left_out(&self, column: &str, remedy: &str) {
        if self.is_news(column) {
            tracing::warn!(
                column,
                "left out of the documents, as bytes are; {remedy} takes it along"
            );
        }
    }

    fn copied(&self, index: &IndexName) {
        self.copies.inc();
        tracing::info!(%index, "copied");
    }

    fn behind(&self, database: &str, bytes: u64) {
        let database = database.to_owned();
        let label = DatabaseLabel { database };
        self.behind.get_or_create(&label).set(bytes as i64);
    }

    fn retained(&self, database: &str, bytes: u64, budget: Option<u64>) {
        let label = DatabaseLabel {
            database: database.to_owned(),
        };
        self.retained.get_or_create(&label).set(bytes as i64);
        let limit = budget.unwrap_or(0);
        self.budget.get_or_create(&label).set(limit as i64);
        let share = budget.map_or(0, |budget| bytes.saturating_mul(100) / budget.max(1));
        if share >= WARN_AT && self.is_news(&format!("{database} {}", share / 5)) {
            tracing::warn!(
                database,
                retained = bytes,
                budget = limit,
                "the slot holds back {share} % of the log that max_slot_wal_keep_size allows: when that is used up the \
                 server throws it away and every table has to be copied again. Raise the limit, or speed up the target"
            );
        }
    }

    fn trouble(&self, what: &str, reason: &dyn Display, pause: Duration) {
        let condition = match what {
            "confirm" => what,
            _ => "source",
        };
        self.trouble_with(condition, what, reason, pause);
    }

    fn recovered(&self, what: &str) {
        self.readiness.set(what, Ok(()));
    }

    fn fine(&self) {
        self.readiness.set("source", Ok(()));
        self.beat();
    }
}

impl Observer for PgMetrics {
    fn published(&self, batch: &Batch) {
        self.readiness.set("stream", Ok(()));
        self.beat();
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
        self.trouble_with("stream", what, reason, pause);
    }
}
