//! Where the epochs of an index are known besides the checkpoints, which can be lost.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bus::Lineages;
use futures::future::BoxFuture;
use model::{Epoch, IndexName, Lineage};
use pipeline::Fault;

/// Remembers epochs outside of this process and its disk.
pub trait Registry: fmt::Debug + Send + Sync {
    /// What is known of an index of the source called `source` (see [`Lineage::source`]).
    fn known<'a>(
        &'a self,
        source: &'a str,
        index: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>>;

    /// Remembers a lineage before anything is published under its epochs. Returns what is known
    /// then: an epoch in it may be higher.
    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>>;
}

/// Remembers nothing.
impl Registry for () {
    fn known<'a>(
        &'a self,
        _: &'a str,
        _: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>> {
        Box::pin(std::future::ready(Ok(lineage.clone())))
    }
}

/// The bucket of the log.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    lineages: Lineages,
    /// The epochs that this process publishes under.
    in_use: Arc<Mutex<HashMap<String, Epoch>>>,
}

impl Bucket {
    pub(crate) fn new(lineages: Lineages) -> Bucket {
        Bucket {
            lineages,
            in_use: Arc::default(),
        }
    }

    fn use_at_least(&self, lineage: &Lineage) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        for (history, known) in &lineage.histories {
            let epoch = in_use.entry(history.clone()).or_insert(known.epoch);
            *epoch = known.epoch.max(*epoch);
        }
    }

    /// Resolves when a writer says that an epoch of this process is too low.
    pub(crate) async fn raised(&self) -> String {
        let epoch = |history: &str| {
            let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            in_use.get(history).copied()
        };
        self.lineages.raised(epoch).await
    }
}

impl Registry for Bucket {
    fn known<'a>(
        &'a self,
        source: &'a str,
        _: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>> {
        Box::pin(async { Ok(self.lineages.known(source).await?) })
    }

    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>> {
        Box::pin(async {
            // Before the bucket says so: what this process raises itself is no news to it.
            self.use_at_least(lineage);
            let merged = self.lineages.merge(lineage).await?;
            let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            for (history, known) in &lineage.histories {
                let epoch = merged.epoch_of(history).unwrap_or(known.epoch);
                in_use.insert(history.clone(), epoch);
            }
            Ok(merged)
        })
    }
}
