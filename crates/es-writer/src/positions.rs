//! How far the source of each index has come, in an index of the target: those who have written to the source
//! wait for it there ([ADR 0024](../../docs/adr/0024-positions-of-documents-and-marks.md)).
//!
//! A document by the name of the index it is about, under the version that the source has come to, so that an
//! older one never takes the place of a newer one, and a new history's of an old one's. It is a convenience:
//! a target that will not have it gets its documents all the same, and the log says once why.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Action, Change, Document, DocumentId, IndexName, Version};
use pipeline::{Fault, Outcome};
use search::{Error, Request};
use serde_json::json;

use crate::{SearchWriter, writer::fault};

/// The index.
const INDEX: &str = ".syncline-positions";
/// How long the target may wait for a shard of it that is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it may be away in a row. The floor waits for positions, and it must not wait for ever for an index
/// that nobody needs in order to have the documents.
const MOST_MISSES: u32 = 5;
/// How long a target that will not have positions is left alone: they come with every commit.
const REST: Duration = Duration::from_secs(30);

/// Writes positions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// Whether the index was seen to.
    is_ready: AtomicBool,
    /// Whether somebody was told that it does not work.
    is_refused: AtomicBool,
    /// Until when it is not tried again.
    rests: Mutex<Option<Instant>>,
    /// How often in a row it was away although the target was there.
    misses: AtomicU32,
}

impl Positions {
    /// Remembers how far indices have come.
    ///
    /// # Errors
    /// What passes by itself. What does not is said once.
    pub(crate) async fn tell(
        &self,
        writer: &SearchWriter,
        indices: &[(IndexName, Version)],
    ) -> Result<(), Fault> {
        let rests = *self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        if rests.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        match self.write(writer, indices).await {
            Err(fault) if !fault.is_retryable() => {
                self.refused(&fault);
                Ok(())
            }
            told => told,
        }
    }

    async fn write(
        &self,
        writer: &SearchWriter,
        indices: &[(IndexName, Version)],
    ) -> Result<(), Fault> {
        let index = IndexName::try_from(INDEX).map_err(Fault::fatal)?;
        if !self.is_ready.load(Ordering::Relaxed) {
            create(writer).await.map_err(fault)?;
            self.is_ready.store(true, Ordering::Relaxed);
        }
        let changes: Vec<Change> = indices.iter().filter_map(position).collect();
        let changes: Vec<&Change> = changes.iter().collect();
        let outcomes = writer.bulk(&index, &changes, Some(PATIENCE)).await;
        let mut is_away = None;
        for outcome in outcomes.map_err(fault)? {
            match outcome {
                Outcome::Applied | Outcome::AlreadyApplied | Outcome::Superseded(_) => {}
                Outcome::Retry(reason) => is_away = Some(reason),
                Outcome::Refused(reason) => self.refused(&reason),
            }
        }
        match is_away {
            None => self.misses.store(0, Ordering::Relaxed),
            Some(reason) => {
                self.is_ready.store(false, Ordering::Relaxed);
                if self.misses.fetch_add(1, Ordering::Relaxed) < MOST_MISSES {
                    return Err(Fault::retry(reason));
                }
                self.refused(&reason);
            }
        }
        Ok(())
    }

    fn refused(&self, reason: &dyn std::fmt::Display) {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        *rests = Some(Instant::now() + REST);
        drop(rests);
        if !self.is_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %reason,
                "positions cannot be written to {INDEX}: searches with min_lsn will not be answered; see that the user \
                 has create_index and write on it, and that its shards are there"
            );
        }
    }
}

/// A version's position as a document; nothing for a name that is no id.
fn position((index, version): &(IndexName, Version)) -> Option<Change> {
    let document = json!({ "position": version.position() }).to_string();
    Some(Change {
        id: DocumentId::try_from(index.as_str()).ok()?,
        routing: None,
        version: *version,
        over: true,
        action: Action::Index(Document::from_json(document.into())),
    })
}

async fn create(writer: &SearchWriter) -> Result<(), Error> {
    let index = json!({
        "settings": { "index": { "number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": true } },
        "mappings": { "dynamic": false, "properties": { "position": { "type": "long" } } },
    });
    let request = Request::put(format!("/{INDEX}")).json(index.to_string());
    match writer.client.send(request).await {
        Err(Error::Rejected { kind, .. }) if kind == "resource_already_exists_exception" => Ok(()),
        created => created.map(drop),
    }
}
