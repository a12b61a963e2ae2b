//! The record of a lease in the bucket `SYNCLINE`.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    Context,
    kv::{self, Operation, Store, UpdateErrorKind},
    stream::StorageType,
};
use serde::{Deserialize, Serialize};

use super::machine::{Event, Seen, SeenRecord};
use crate::{Bus, Error, passed::Passed};

/// The bucket of all leases and floors.
pub(crate) const BUCKET: &str = "SYNCLINE";

/// Whose lease it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The reader of this name.
    Reader(String),
    /// The publisher of this name.
    Publisher(String),
}

impl Role {
    /// The record's key.
    pub(crate) fn key(&self, stream: &str) -> String {
        match self {
            Role::Reader(consumer) => format!("{}{}", readers_of(stream), escape(consumer)),
            Role::Publisher(name) => format!("publisher.{}", escape(name)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        let (Role::Reader(name) | Role::Publisher(name)) = self;
        name
    }
}

/// What the keys of a stream's readers begin with.
pub(crate) fn readers_of(stream: &str) -> String {
    format!("reader.{}.", escape(stream))
}

/// A name as one token of a key, which takes fewer characters than a subject does.
pub(crate) fn escape(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(byte as char);
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    token
}

/// How far a reader has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Everything up to here is settled.
    pub(crate) floor: u64,
    /// When the message of that number was stored, in nanoseconds since 1970; 0 when unknown. Tells
    /// whether it is still the same message after the server has lost the end of its stream.
    pub(crate) floor_time: u64,
    /// When the stream was created, in nanoseconds since 1970. Numbers of another stream mean nothing.
    pub(crate) stream_created: u64,
    /// For each partition the newest publisher's token and attempt at the floor.
    #[serde(default)]
    pub(crate) fences: BTreeMap<String, (u64, u64)>,
    /// The token of the reader that has looked through its letters last, and the number of the newest
    /// letter of all then: what an older token stored behind it came late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) letters_seen: Option<(u64, u64)>,
    /// What a publisher calls the store in which it remembers what it has published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// What a reader that passes on what it reads has come to in its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passed: Option<Passed>,
    /// Which subjects a reader wants; all when empty.
    #[serde(default)]
    pub(crate) filter_subjects: Vec<String>,
}

impl Mark {
    /// Above here the reader may have to read again.
    pub(crate) fn kept(&self) -> u64 {
        let kept = self.passed.as_ref().and_then(Passed::kept);
        kept.map_or(self.floor, |kept| kept.min(self.floor))
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) holder: String,
    pub(crate) token: u64,
    pub(crate) held: bool,
    pub(crate) lease_ms: u64,
    pub(crate) name: String,
    pub(crate) stream: String,
    #[serde(flatten)]
    pub(crate) mark: Mark,
    /// When it was written, in milliseconds since 1970 by the holder's clock: for people only.
    pub(crate) updated: u64,
}

/// The record's place.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    pub(crate) key: String,
}

impl Place {
    /// Opens the bucket, and creates it when it is missing.
    pub(crate) async fn open(
        bus: &Bus,
        key: String,
        replicas: usize,
        timeout: Duration,
    ) -> Result<Place, Error> {
        let context = bus.context(timeout);
        let store = match store(bus, &context).await? {
            Some(store) => store,
            None => create(bus, &context, replicas).await?,
        };
        Ok(Place {
            bus: bus.clone(),
            store,
            key,
        })
    }

    /// The record and its revision.
    pub(crate) async fn read(&self) -> Result<Option<(u64, Option<Record>)>, Error> {
        match self.store.entry(&self.key).await {
            Ok(None) => Ok(Some((0, None))),
            Ok(Some(entry)) if entry.operation != Operation::Put => {
                Ok(Some((entry.revision, None)))
            }
            Ok(Some(entry)) => {
                let record =
                    serde_json::from_slice(&entry.value).map_err(|error| Error::BadRecord {
                        key: self.key.clone(),
                        reason: error.to_string(),
                    })?;
                Ok(Some((entry.revision, Some(record))))
            }
            Err(error) => {
                tracing::debug!(key = self.key, %error, "cannot read a lease");
                self.denied("$JS.API.DIRECT.GET.KV_SYNCLINE")?;
                Ok(None)
            }
        }
    }

    /// Creates the bucket where the server has lost it, as it may with its power.
    pub(crate) async fn restore(&self, replicas: usize, timeout: Duration) -> Result<(), Error> {
        let context = self.bus.context(timeout);
        if let Ok(None) = store(&self.bus, &context).await {
            tracing::warn!(
                key = self.key,
                "the server has lost the bucket SYNCLINE: creating it anew"
            );
            create(&self.bus, &context, replicas).await?;
        }
        Ok(())
    }

    /// Replaces the record if it still has this revision.
    pub(crate) async fn write(&self, revision: u64, record: &Record) -> Result<Event, Error> {
        let value = serde_json::to_vec(record).map_err(|error| Error::BadRecord {
            key: self.key.clone(),
            reason: error.to_string(),
        })?;
        match self.store.update(&self.key, value.into(), revision).await {
            Ok(revision) => Ok(Event::Stored { revision }),
            Err(error) => {
                if error.kind() != UpdateErrorKind::WrongLastRevision {
                    tracing::debug!(key = self.key, %error, "cannot write a lease");
                    self.denied("$KV.SYNCLINE.")?;
                }
                Ok(Event::Unclear)
            }
        }
    }

    fn denied(&self, subject: &str) -> Result<(), Error> {
        self.bus.denied(subject).map_or(Ok(()), Err)
    }
}

/// The bucket; `None` when it does not exist.
pub(crate) async fn store(bus: &Bus, context: &Context) -> Result<Option<Store>, Error> {
    match context.get_key_value(BUCKET).await {
        Ok(store) => Ok(Some(store)),
        Err(error) => match crate::sink::jetstream_error(&error) {
            Some(answer)
                if answer.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            // The client hides the code in the kind of an inner error.
            None if error.to_string().contains("10059") => Ok(None),
            _ => Err(bus
                .denied("$JS.API.STREAM.INFO.KV_SYNCLINE")
                .unwrap_or_else(|| Error::request("opening the bucket SYNCLINE", error))),
        },
    }
}

async fn create(bus: &Bus, context: &Context, replicas: usize) -> Result<Store, Error> {
    let config = kv::Config {
        bucket: BUCKET.to_owned(),
        description: "leases and floors of Syncline".to_owned(),
        history: 1,
        storage: StorageType::File,
        num_replicas: replicas.max(1),
        max_bytes: -1,
        ..kv::Config::default()
    };
    let what = "creating the bucket SYNCLINE";
    context.create_key_value(config).await.map_err(|error| {
        match crate::sink::jetstream_error(&error) {
            Some(answer) => crate::error::refused(bus.server_host(), what, answer),
            None => Error::request(what, error),
        }
    })
}

impl Record {
    /// What matters to someone who wants the lease.
    pub(crate) fn seen(&self) -> SeenRecord {
        SeenRecord {
            holder: self.holder.clone(),
            held: self.held,
            lease: Duration::from_millis(self.lease_ms),
        }
    }
}

pub(crate) fn seen(revision: u64, record: Option<&Record>) -> Event {
    Event::Seen(Seen {
        revision,
        record: record.map(Record::seen),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_have_different_keys() {
        assert_eq!(
            Role::Reader("a.b".into()).key("ES_CHANGES"),
            "reader.ES_CHANGES.a=2Eb"
        );
        assert_eq!(Role::Reader("a=2Eb".into()).key("S"), "reader.S.a=3D2Eb");
        assert_eq!(
            Role::Publisher("shards/0 é".into()).key("S"),
            "publisher.shards=2F0=20=C3=A9"
        );
    }
}
