//! What the service counts.

use std::time::Duration;

use runtime::metrics::{
    Metrics,
    prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    },
    seconds_buckets,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabel {
    problem: &'static str,
}

/// The metrics under `syncline_query`.
#[derive(Debug, Clone)]
pub(crate) struct QueryMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    problems: Family<ProblemLabel, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) indices: Gauge,
    pub(crate) snapshots: Gauge,
    pub(crate) slow: Counter,
    pub(crate) waits: Histogram,
}

impl QueryMetrics {
    pub(crate) fn new(metrics: &Metrics) -> QueryMetrics {
        let new = QueryMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(seconds_buckets())),
            problems: Family::default(),
            in_flight: Gauge::default(),
            indices: Gauge::default(),
            snapshots: Gauge::default(),
            slow: Counter::default(),
            waits: Histogram::new(seconds_buckets()),
        };
        metrics.register("syncline_query", |registry| {
            registry.register("requests", "Requests answered", new.requests.clone());
            registry.register(
                "request_seconds",
                "From a request's head to its answer",
                new.seconds.clone(),
            );
            registry.register(
                "problems",
                "Requests answered with a problem",
                new.problems.clone(),
            );
            registry.register(
                "in_flight",
                "Requests being answered",
                new.in_flight.clone(),
            );
            registry.register(
                "indices",
                "Indices and aliases that are served",
                new.indices.clone(),
            );
            registry.register(
                "snapshots",
                "Snapshots that the cluster holds for lists",
                new.snapshots.clone(),
            );
            registry.register(
                "slow",
                "Requests that took longer than --slow-search",
                new.slow.clone(),
            );
            registry.register(
                "position_wait_seconds",
                "How long requests with a position waited for the index to reach it",
                new.waits.clone(),
            );
        });
        new
    }

    pub(crate) fn answered(&self, operation: &'static str, status: u16, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels { operation, status })
            .inc();
        let seconds = self.seconds.get_or_create(&OperationLabel { operation });
        seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn problem(&self, problem: &'static str) {
        self.problems.get_or_create(&ProblemLabel { problem }).inc();
    }
}
