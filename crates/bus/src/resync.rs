//! Requests to publish documents again, in the bucket `SYNCLINE`: an operator asks, the watcher of the
//! index answers in the same record.
//!
//! A request stays until every shard has answered it, so it outlives a watcher that dies with it. What is
//! published twice because of that is written once.

use std::collections::BTreeMap;

use async_nats::jetstream::kv::{Entry, Operation, Store, UpdateErrorKind};
use futures::{Stream, StreamExt};
use model::{IndexName, Tenant, now_ms};
use serde::{Deserialize, Serialize};

use crate::{
    Bus, Error,
    connection::REQUEST_TIMEOUT,
    lease::{Place, escape},
};

/// The most documents that one request may name: the record has to fit into a message.
pub const MOST_DOCUMENTS: usize = 1000;

/// A request and how far it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// What tells it from another request for the same index.
    pub id: String,
    /// The index.
    pub index: String,
    /// Which documents; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Vec<Named>>,
    /// When it was asked for, in milliseconds since 1970 by the asker's clock: for people.
    pub asked_ms: u64,
    /// Who answers; nobody yet where it is empty.
    #[serde(default)]
    pub watcher: String,
    /// How many shards the index has; 0 while nobody answers.
    #[serde(default)]
    pub of: u32,
    /// How far each shard is.
    #[serde(default)]
    pub shards: BTreeMap<u32, Answered>,
}

/// A document that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// The routing it is or was written with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
}

/// What a shard has answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The position it is published again up to …
    pub upto: i64,
    /// … and up to which it will be.
    pub goal: i64,
    /// Documents that were handed to the stream again.
    pub documents: u64,
    /// Documents that are gone, and were deleted again.
    pub deletes: u64,
    /// Ids that were not deleted, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, String>,
    /// Whether the stream has all of it.
    pub done: bool,
}

impl Resync {
    /// A request for an index, or for some of its documents.
    pub fn new(index: &IndexName, documents: Option<Vec<Named>>) -> Resync {
        Resync {
            id: format!("{:016x}", fastrand::u64(..)),
            index: index.to_string(),
            documents,
            asked_ms: now_ms(),
            watcher: String::new(),
            of: 0,
            shards: BTreeMap::new(),
        }
    }

    /// Whether every shard has answered it.
    pub fn is_done(&self) -> bool {
        let done = self.shards.values().filter(|shard| shard.done).count();
        self.of > 0 && done == self.of as usize
    }
}

/// The requests to the watchers of one tenant that publish into one stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resyncs {
    store: Store,
    prefix: String,
}

impl Resyncs {
    /// Opens the bucket, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server does not answer or denies it.
    pub async fn open(
        bus: &Bus,
        stream: &str,
        tenant: &Tenant,
        replicas: usize,
    ) -> Result<Resyncs, Error> {
        let prefix = format!("resync.{}.{}.", escape(stream), escape(tenant.as_str()));
        let place = Place::open(bus, prefix.clone(), replicas, REQUEST_TIMEOUT).await?;
        Ok(Resyncs {
            store: place.store,
            prefix,
        })
    }

    /// Asks, unless an earlier request for the index is not answered yet, which is returned then.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn ask(&self, request: &Resync) -> Result<Option<Resync>, Error> {
        loop {
            let (revision, known) = self.entry(&request.index).await?;
            if let Some(known) = known.filter(|known| !known.is_done()) {
                return Ok(Some(known));
            }
            if self.put(request, revision).await? {
                return Ok(None);
            }
        }
    }

    /// The newest request for an index.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn read(&self, index: &IndexName) -> Result<Option<Resync>, Error> {
        Ok(self.entry(index.as_str()).await?.1)
    }

    /// Takes a request back. What the stream has of it stays there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn forget(&self, index: &IndexName) -> Result<(), Error> {
        let key = self.key(index.as_str());
        let removed = self.store.delete(&key).await;
        removed.map_err(|error| Error::request(format!("removing {key}"), error))
    }

    /// Adds what shards have answered, unless somebody has taken the request back or asked anew.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn answer(&self, answered: &Resync) -> Result<(), Error> {
        loop {
            let (revision, known) = self.entry(&answered.index).await?;
            let Some(mut known) = known.filter(|known| known.id == answered.id) else {
                return Ok(());
            };
            known.watcher.clone_from(&answered.watcher);
            known.of = answered.of;
            known.shards.extend(answered.shards.clone());
            if self.put(&known, revision).await? {
                return Ok(());
            }
        }
    }

    /// Every request there is and every one that comes, with the index it is for; nothing where one was
    /// taken back.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn watch(
        &self,
    ) -> Result<impl Stream<Item = (String, Option<Resync>)> + Unpin + Send + use<>, Error> {
        let watch = self.store.watch_with_history(format!("{}*", self.prefix));
        let entries = watch
            .await
            .map_err(|error| Error::request("watching the bucket SYNCLINE", error))?;
        let prefix = self.prefix.clone();
        Ok(entries
            .take_while(|entry| std::future::ready(entry.is_ok()))
            .filter_map(move |entry| {
                let request = entry.ok().and_then(|entry| request(&prefix, entry));
                std::future::ready(request)
            })
            .boxed())
    }

    fn key(&self, index: &str) -> String {
        format!("{}{}", self.prefix, escape(index))
    }

    async fn put(&self, request: &Resync, revision: u64) -> Result<bool, Error> {
        let key = self.key(&request.index);
        let value =
            serde_json::to_vec(request).expect("a request is plain data, which always serialises");
        match self.store.update(&key, value.into(), revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(Error::request(format!("writing {key}"), error)),
        }
    }

    async fn entry(&self, index: &str) -> Result<(u64, Option<Resync>), Error> {
        let key = self.key(index);
        let entry = self.store.entry(&key).await;
        match entry.map_err(|error| Error::request(format!("reading {key}"), error))? {
            None => Ok((0, None)),
            Some(entry) if entry.operation != Operation::Put => Ok((entry.revision, None)),
            Some(entry) => match serde_json::from_slice(&entry.value) {
                Ok(request) => Ok((entry.revision, Some(request))),
                Err(error) => Err(Error::BadRecord {
                    key,
                    reason: error.to_string(),
                }),
            },
        }
    }
}

/// What an entry says; nothing where it cannot be read, as when a newer build has written it.
fn request(prefix: &str, entry: Entry) -> Option<(String, Option<Resync>)> {
    if entry.operation == Operation::Put {
        let request: Resync = serde_json::from_slice(&entry.value).ok()?;
        return Some((request.index.clone(), Some(request)));
    }
    Some((entry.key.strip_prefix(prefix)?.to_owned(), None))
}
