//! How far the source of each index has come, in an index of the target: those who have written to the source
//! wait for it there ([ADR 0024](../../docs/adr/0024-positions-of-documents-and-marks.md)).
//!
//! A document by the name of the index it is about, under the version that the source has come to, so that an
//! older one never takes the place of a newer one, and a new history's of an old one's. It is a convenience:
//! a target that will not have it gets its documents all the same, and the log says once why.

use std::sync::atomic::{AtomicBool, Ordering};

use model::{Action, Change, Document, DocumentId, IndexName, Version};
use pipeline::{Fault, Outcome};
use search::{Error, Request};
use serde_json::json;

use crate::{SearchWriter, writer::fault};

/// The index.
const INDEX: &str = ".syncline-positions";

/// Writes positions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// Whether the index was seen to.
    is_ready: AtomicBool,
    /// Whether somebody was told that it does not work.
    is_refused: AtomicBool,
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
        let outcomes = writer.bulk(&index, &changes, None).await.map_err(fault)?;
        for outcome in outcomes {
            match outcome {
                Outcome::Applied | Outcome::AlreadyApplied | Outcome::Superseded(_) => {}
                Outcome::Retry(reason) => {
                    self.is_ready.store(false, Ordering::Relaxed);
                    return Err(Fault::retry(reason));
                }
                Outcome::Refused(reason) => self.refused(&reason),
            }
        }
        Ok(())
    }

    fn refused(&self, reason: &dyn std::fmt::Display) {
        if !self.is_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %reason,
                "positions cannot be written to {INDEX}: searches with min_lsn will not be answered; give the user \
                 create_index and write on it"
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
