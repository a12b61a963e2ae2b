//! What a continuous comparison counts.

use std::{
    collections::BTreeSet,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::IndexName;
use runtime::{
    health::Heart,
    metrics::{
        Metrics,
        prometheus_client::{
            encoding::EncodeLabelSet,
            metrics::{counter::Counter, family::Family, gauge::Gauge},
        },
    },
};
use verify::{IndexReport, Pass, Progress, Side};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabel {
    index: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    index: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabel {
    side: &'static str,
}

/// The metrics under `syncline_verify`.
#[derive(Debug, Clone, Default)]
pub(super) struct VerifyMetrics {
    in_sync_as_of: Family<IndexLabel, Gauge<f64, AtomicU64>>,
    differences: Family<KindLabels, Gauge>,
    failures: Family<IndexLabel, Counter>,
    documents: Family<SideLabel, Counter>,
    passes: Counter,
    pass_seconds: Gauge<f64, AtomicU64>,
}

impl VerifyMetrics {
    pub(super) fn new(metrics: &Metrics) -> VerifyMetrics {
        let new = VerifyMetrics::default();
        metrics.register("syncline_verify", |registry| {
            registry.register(
                "in_sync_as_of_timestamp_seconds",
                "When the last comparison began that found the index equal",
                new.in_sync_as_of.clone(),
            );
            registry.register(
                "differences",
                "What the last comparison found: missing, extra, different, misrouted, and changing (not known)",
                new.differences.clone(),
            );
            registry.register(
                "failures",
                "Comparisons that could not be completed",
                new.failures.clone(),
            );
            registry.register("documents", "Documents read", new.documents.clone());
            registry.register(
                "passes",
                "Comparisons of all indices that were completed",
                new.passes.clone(),
            );
            registry.register(
                "pass_seconds",
                "How long the last comparison of all indices took",
                new.pass_seconds.clone(),
            );
        });
        new
    }

    /// An index was compared, beginning at `began`.
    pub(super) fn compared(&self, report: &IndexReport, began: SystemTime) {
        for (kind, count) in kinds(report) {
            let labels = KindLabels {
                index: report.index.to_string(),
                kind,
            };
            self.differences.get_or_create(&labels).set(count as i64);
        }
        if report.equal() {
            let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.in_sync_as_of
                .get_or_create(&label(&report.index))
                .set(since.as_secs_f64());
        }
    }

    /// An index could not be compared.
    pub(super) fn failed(&self, index: &IndexName) {
        self.failures.get_or_create(&label(index)).inc();
    }

    /// All indices were compared.
    pub(super) fn passed(&self, took: Duration) {
        self.passes.inc();
        self.pass_seconds.set(took.as_secs_f64());
    }

    /// An index is there no longer.
    pub(super) fn forget(&self, index: &IndexName) {
        self.in_sync_as_of.remove(&label(index));
        self.failures.remove(&label(index));
        for kind in KINDS {
            self.differences.remove(&KindLabels {
                index: index.to_string(),
                kind,
            });
        }
    }
}

fn label(index: &IndexName) -> IndexLabel {
    IndexLabel {
        index: index.to_string(),
    }
}

const KINDS: [&str; 5] = ["missing", "extra", "different", "misrouted", "changing"];

fn kinds(report: &IndexReport) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = [
        report.missing.count,
        report.extra.count,
        report.different.count,
        report.misrouted.count,
        report.changing.count,
    ];
    KINDS.into_iter().zip(counts)
}

/// Counts what is read, and shows that it goes on.
pub(super) struct Reading {
    documents: [Counter; 2],
    heart: Heart,
}

impl Reading {
    pub(super) fn new(metrics: &VerifyMetrics, heart: Heart) -> Reading {
        let of = |side| metrics.documents.get_or_create_owned(&SideLabel { side });
        Reading {
            documents: [of("source"), of("target")],
            heart,
        }
    }
}

impl Progress for Reading {
    fn begin(&self, _: &IndexName, _: Pass, _: u64) {
        self.heart.beat();
    }

    fn advance(&self, side: Side, documents: u64, _: u64) {
        let [source, target] = &self.documents;
        match side {
            Side::Source => source.inc_by(documents),
            Side::Target => target.inc_by(documents),
        };
        self.heart.beat();
    }
}

/// The indices that have metrics.
pub(super) type Known = BTreeSet<IndexName>;
