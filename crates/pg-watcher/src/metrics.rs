//! What a watcher of PostgreSQL counts.

use std::{fmt::Display, time::Duration};

use bus::{PublisherMetrics, WATCHER};
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
struct DatabaseLabel {
    database: String,
}

/// The metrics of the capturing side, and its health: it is ready while the server answers and the
/// stream takes what is published.
#[derive(Debug)]
pub struct PgMetrics {
    publisher: PublisherMetrics,
    behind: Family<DatabaseLabel, Gauge>,
    retained: Family<DatabaseLabel, Gauge>,
    budget: Family<DatabaseLabel, Gauge>,
    copies: Counter,
    said: std::sync::Mutex<std::collections::HashSet<String>>,
}

impl PgMetrics {
    /// Registers the metrics under `syncline_watcher`. The heart beats whenever the server is heard.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> PgMetrics {
        let new = PgMetrics {
            publisher: PublisherMetrics::new(metrics, readiness, heart),
            behind: Family::default(),
            retained: Family::default(),
            budget: Family::default(),
            copies: Counter::default(),
            said: Default::default(),
        };
        metrics.register(WATCHER, |registry| {
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
            registry.register(
                "table_copies",
                "Tables that were copied as a whole or in part",
                new.copies.clone(),
            );
        });
        new
    }

    /// The stream has lost its end.
    pub(crate) fn lost_end(&self) {
        self.publisher.lost_end();
    }

    /// Whether something was not said before.
    fn is_news(&self, what: &str) -> bool {
        let mut said = self
            .said
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        said.insert(what.to_owned())
    }
}

impl SourceObserver for PgMetrics {
    fn found(&self, index: &IndexName) {
        if self.is_news(index.as_str()) {
            self.publisher.found();
            tracing::info!(%index, "capturing table");
        }
    }

    fn left_out(&self, table: &str, reason: &str) {
        if self.is_news(&format!("{table} {reason}")) {
            self.publisher.left_out();
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
        self.publisher.trouble(condition, what, reason, pause);
    }

    fn recovered(&self, what: &str) {
        self.publisher.fine(what);
    }

    fn fine(&self) {
        self.publisher.fine("source");
    }
}

impl Observer for PgMetrics {
    fn published(&self, batch: &Batch) {
        self.publisher.published(batch);
    }

    fn retrying(&self, what: &'static str, reason: &dyn Display, pause: Duration) {
        self.publisher.retrying(what, reason, pause);
    }
}
