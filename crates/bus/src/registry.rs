//! Epochs that a publisher hands out, kept in the bucket `SYNCLINE`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use model::{Epoch, IndexName, Lineage};
use pipeline::{Fault, Registry};

use crate::Lineages;

/// The bucket as a [`Registry`] of one publisher.
#[derive(Debug, Clone)]
pub struct Bucket {
    lineages: Lineages,
    /// The epochs that this process publishes under.
    in_use: Arc<Mutex<HashMap<String, Epoch>>>,
}

impl Bucket {
    /// A registry of what a publisher uses from now on.
    pub fn new(lineages: Lineages) -> Bucket {
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
    pub async fn raised(&self) -> String {
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
