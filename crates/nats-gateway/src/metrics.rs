//! What a gateway counts.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use model::{Batch, Content};
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: String,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HashLabel {
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

/// The metrics of a gateway, and its readiness: it is ready while its output takes what it gives.
#[derive(Debug)]
pub struct GatewayMetrics {
    entries: Counter,
    read: Counter,
    passed: Counter,
    published: Counter,
    dropped: Family<RuleLabels, Counter>,
    letters: Counter,
    retries: Family<WhatLabel, Counter>,
    pending: Gauge,
    left_out: Counter,
    left_out_by_reader: AtomicU64,
    subjects: Mutex<Vec<String>>,
    lost_ends: Counter,
    rules: Family<HashLabel, Gauge<f64, AtomicU64>>,
    is_failing: AtomicBool,
    is_paused: AtomicBool,
    readiness: Readiness,
    heart: Option<Heart>,
}

/// The counters as the admin API shows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) left_out: u64,
    pub(crate) read: u64,
    pub(crate) passed: u64,
    pub(crate) published: u64,
    pub(crate) letters: u64,
    pub(crate) pending: u64,
}

impl GatewayMetrics {
    /// Registers the metrics under `syncline_gateway`. The heart beats with the loop.
    pub fn new(metrics: &Metrics, readiness: Readiness, heart: Option<Heart>) -> GatewayMetrics {
        let new = GatewayMetrics {
            entries: Counter::default(),
            read: Counter::default(),
            passed: Counter::default(),
            published: Counter::default(),
            dropped: Family::default(),
            letters: Counter::default(),
            retries: Family::default(),
            pending: Gauge::default(),
            left_out: Counter::default(),
            left_out_by_reader: AtomicU64::new(0),
            subjects: Mutex::default(),
            lost_ends: Counter::default(),
            rules: Family::default(),
            is_failing: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            readiness,
            heart,
        };
        metrics.register("syncline_gateway", |registry| {
            registry.register("entries", "Messages read", new.entries.clone());
            registry.register("changes_read", "Changes read", new.read.clone());
            registry.register(
                "changes_passed",
                "Changes of the input that went on",
                new.passed.clone(),
            );
            registry.register(
                "changes_published",
                "Changes in the output, deletes among them that rules have made",
                new.published.clone(),
            );
            registry.register(
                "changes_by_rule",
                "Changes that a rule kept from going on: drop, or delete where the document may be at the target",
                new.dropped.clone(),
            );
            registry.register(
                "refused",
                "Changes that became dead letters: a rule did not work on them, or they could not be read",
                new.letters.clone(),
            );
            registry.register("retries", "Failures that are tried again", new.retries.clone());
            registry.register("pending", "Messages waiting to be read", new.pending.clone());
            registry.register(
                "entries_left_out",
                "Messages that JetStream left in the stream by their subjects: they never crossed the network",
                new.left_out.clone(),
            );
            registry.register(
                "lost_ends",
                "How often the output had lost its end and got it again",
                new.lost_ends.clone(),
            );
            registry.register(
                "rules_in_force",
                "The rule set in force, by its hash: when it came into force, in seconds since the Unix epoch",
                new.rules.clone(),
            );
        });
        new
    }

    /// Notes the rules in force.
    pub(crate) fn in_force(&self, hash: &str, since_ms: u64) {
        self.rules.clear();
        let label = HashLabel {
            hash: hash.to_owned(),
        };
        self.rules
            .get_or_create(&label)
            .set(since_ms as f64 / 1000.0);
    }

    pub(crate) fn entry(&self, changes: usize) {
        self.entries.inc();
        self.read.inc_by(changes as u64);
    }

    pub(crate) fn passed(&self, changes: usize) {
        self.passed.inc_by(changes as u64);
    }

    pub(crate) fn dropped(&self, rule: &str, verdict: &'static str, changes: usize) {
        let label = RuleLabels {
            rule: rule.to_owned(),
            verdict,
        };
        self.dropped.get_or_create(&label).inc_by(changes as u64);
    }

    pub(crate) fn refused(&self) {
        self.letters.inc();
    }

    pub(crate) fn lost_end(&self) {
        self.lost_ends.inc();
    }

    /// Notes whether somebody has asked to stand still: then it is not ready.
    pub(crate) fn paused(&self, paused: bool) {
        if self.is_paused.swap(paused, Relaxed) != paused {
            tracing::info!(paused, "asked over the admin API");
            match paused {
                true => self
                    .readiness
                    .set("pause", Err("paused by POST /pause".to_owned())),
                false => self.readiness.forget("pause"),
            }
        }
    }

    /// Notes what is read: the subjects, all when empty.
    pub(crate) fn wants(&self, subjects: Vec<String>) {
        *self.subjects.lock().unwrap_or_else(PoisonError::into_inner) = subjects;
    }

    /// The subjects that are read; all when empty.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let subjects = self.subjects.lock();
        subjects.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how much waits, and how much this reader's log has left out.
    pub(crate) fn waiting(&self, pending: u64, left_out: u64) {
        let before = self.left_out_by_reader.swap(left_out, Relaxed);
        // A new reader begins at nothing.
        self.left_out
            .inc_by(left_out.checked_sub(before).unwrap_or(left_out));
        self.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.alive();
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            entries: self.entries.get(),
            left_out: self.left_out.get(),
            read: self.read.get(),
            passed: self.passed.get(),
            published: self.published.get(),
            letters: self.letters.get(),
            pending: u64::try_from(self.pending.get()).unwrap_or(0),
        }
    }
}

impl Observer for GatewayMetrics {
    fn published(&self, batch: &Batch) {
        let changes = match &batch.content {
            Content::Sealed(sealed) => sealed.count,
            _ => batch.changes().len(),
        };
        self.published.inc_by(changes as u64);
        if !batch.is_empty() && self.is_failing.swap(false, Relaxed) {
            self.readiness.set("output", Ok(()));
        }
        self.alive();
    }

    fn retrying(&self, what: &'static str, reason: &dyn std::fmt::Display, pause: Duration) {
        self.retries.get_or_create(&WhatLabel { what }).inc();
        if !self.is_failing.swap(true, Relaxed) {
            tracing::warn!(what, %reason, ?pause, "trying again; what is under way waits");
        }
        self.readiness.set("output", Err(reason.to_string()));
        self.alive();
    }

    fn alive(&self) {
        if let Some(heart) = &self.heart {
            heart.beat();
        }
    }
}
