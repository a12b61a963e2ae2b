//! The epochs of all sources, in the bucket `SYNCLINE`: a watcher that has lost its checkpoints goes
//! on where it was, and a writer can tell a watcher that it counts from an epoch that is too low.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use futures::StreamExt;
use model::{Epoch, Lineage};

use crate::{
    Bus, Error,
    connection::REQUEST_TIMEOUT,
    lease::{Place, escape},
};

/// How long after a watch of the bucket has failed the next one begins.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// The lineages in the bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lineages {
    store: Store,
}

impl Lineages {
    /// Opens the bucket, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server does not answer or denies it.
    pub async fn open(bus: &Bus, replicas: usize) -> Result<Lineages, Error> {
        let place = Place::open(bus, "lineage".to_owned(), replicas, REQUEST_TIMEOUT).await?;
        Ok(Lineages { store: place.store })
    }

    /// What is known of a source.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn known(&self, source: &str) -> Result<Option<Lineage>, Error> {
        Ok(self.read(source).await?.1)
    }

    /// Adds to what is known of a source; of two epochs the higher one stays. Returns what is known
    /// then.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn merge(&self, lineage: &Lineage) -> Result<Lineage, Error> {
        loop {
            let (revision, known) = self.read(&lineage.source).await?;
            let mut merged = known
                .clone()
                .unwrap_or_else(|| Lineage::of(lineage.source.clone()));
            merged.merge(lineage);
            if known.as_ref() == Some(&merged) {
                return Ok(merged);
            }
            let key = key(&lineage.source);
            let value = serde_json::to_vec(&merged)
                .expect("a lineage is plain data, which always serialises");
            match self.store.update(&key, value.into(), revision).await {
                Ok(_) => return Ok(merged),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(Error::request(format!("writing {key}"), error)),
            }
        }
    }

    /// Resolves when a history is known with a higher epoch than `in_use` says, with its UUID.
    pub async fn raised(&self, in_use: impl Fn(&str) -> Option<Epoch>) -> String {
        loop {
            if let Ok(mut entries) = self.store.watch_with_history("lineage.>").await {
                while let Some(Ok(entry)) = entries.next().await {
                    let Ok(known) = serde_json::from_slice::<Lineage>(&entry.value) else {
                        continue;
                    };
                    let mut histories = known.histories.into_iter();
                    let raised = histories.find(|(history, known)| {
                        in_use(history).is_some_and(|epoch| known.epoch > epoch)
                    });
                    if let Some((history, _)) = raised {
                        return history;
                    }
                }
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    /// Passes on what becomes known here to another server, where the sources' watchers listen. Never ends.
    pub async fn pass_on(&self, to: &Lineages) {
        loop {
            if let Ok(mut entries) = self.store.watch_with_history("lineage.>").await {
                while let Some(Ok(entry)) = entries.next().await {
                    let Ok(known) = serde_json::from_slice::<Lineage>(&entry.value) else {
                        continue;
                    };
                    if let Err(error) = to.merge(&known).await {
                        tracing::warn!(%error, "an epoch could not be passed on; it is tried again");
                        break;
                    }
                }
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    async fn read(&self, source: &str) -> Result<(u64, Option<Lineage>), Error> {
        let key = key(source);
        let entry = self.store.entry(&key).await;
        match entry.map_err(|error| Error::request(format!("reading {key}"), error))? {
            None => Ok((0, None)),
            Some(entry) if entry.operation != Operation::Put => Ok((entry.revision, None)),
            Some(entry) => match serde_json::from_slice(&entry.value) {
                Ok(lineage) => Ok((entry.revision, Some(lineage))),
                Err(error) => Err(Error::BadRecord {
                    key,
                    reason: error.to_string(),
                }),
            },
        }
    }
}

fn key(source: &str) -> String {
    format!("lineage.{}", escape(source))
}
