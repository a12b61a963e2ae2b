//! What a continuous carrying of templates counts.

use runtime::metrics::{
    Metrics,
    prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family::Family, gauge::Gauge},
    },
};

use super::{Carried, Done};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// The metrics under `syncline_metadata`.
#[derive(Debug, Clone, Default)]
pub(super) struct TemplateMetrics {
    templates: Family<StateLabel, Gauge>,
    written: Counter,
    passes: Counter,
}

impl TemplateMetrics {
    pub(super) fn new(metrics: &Metrics) -> TemplateMetrics {
        let new = TemplateMetrics::default();
        metrics.register("syncline_metadata", |registry| {
            registry.register(
                "templates",
                "Templates of the source by how the target stands to them: same, different, refused",
                new.templates.clone(),
            );
            registry.register("written", "Templates written", new.written.clone());
            registry.register(
                "passes",
                "Comparisons of all templates",
                new.passes.clone(),
            );
        });
        new
    }

    pub(super) fn passed(&self, carried: &[Carried]) {
        let mut counts = [("same", 0), ("different", 0), ("refused", 0)];
        for carried in carried {
            match carried.done {
                Done::Nothing => counts[0].1 += 1,
                Done::Written => {
                    counts[0].1 += 1;
                    self.written.inc();
                }
                Done::Left => counts[1].1 += 1,
                Done::Refused(_) => counts[2].1 += 1,
            }
        }
        for (state, count) in counts {
            self.templates
                .get_or_create(&StateLabel { state })
                .set(count);
        }
        self.passes.inc();
    }
}
