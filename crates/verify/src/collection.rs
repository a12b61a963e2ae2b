//! A source that is no search cluster: anything that can say which documents it has, such as a table.
//!
//! It is read in parts, side by side, and nothing has to stand still meanwhile: what moves between two
//! parts, or is in two of them, differs at first and is settled by a second look.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, future::try_join};
use model::{Document, DocumentId, IndexDefinition, IndexName};
use runtime::{backoff::Backoff, throttle::Throttle};
use search::{Found, Hit};
use tokio::sync::mpsc;

use crate::{
    Lens, Progress, Side, VerifyError,
    lens::{look_through, through},
    scan::{Gather, side_by_side},
    suspect::Suspect,
};

/// How often in a row something may fail that could pass by itself: half a minute or so.
const ATTEMPTS: u32 = 12;

/// What a source has as the documents of one index.
///
/// **Form.** A document is what the writer of the target would write for it, and has no routing.
/// **Ids.** One document has one id, everywhere.
pub trait Collection: Send + Sync + fmt::Debug {
    /// What tells it from one that is created anew under the same name.
    fn identity(&self) -> String;

    /// Where an index comes from that is filled from it, and the history that its positions belong to
    /// ([`model::Lineage`]): positions of another one say nothing about each other.
    fn origin(&self) -> (String, String);

    /// About how many documents it has.
    fn estimate(&self) -> u64;

    /// Into how many parts it is cut, the same in every pass. Every document that nobody changes is in
    /// exactly one.
    fn parts(&self) -> usize;

    /// Reads a part in pages, none of them larger than a megabyte or one document. Waits for the receiver.
    fn read(
        &self,
        part: usize,
        pages: mpsc::Sender<Vec<Record>>,
    ) -> BoxFuture<'_, Result<(), CollectionError>>;

    /// What it has under these ids now, in their order.
    fn find<'a>(
        &'a self,
        ids: &'a [&'a DocumentId],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, CollectionError>>;

    /// The same for a repair: what it had at a position of its history, which it takes after the call. A
    /// change belongs to what is returned exactly if its position is below that.
    fn find_at<'a>(
        &'a self,
        ids: &'a [&'a DocumentId],
    ) -> BoxFuture<'a, Result<At, CollectionError>>;

    /// How many ids are best looked up together.
    fn together(&self) -> usize;

    /// What its index should look like.
    fn definition(&self) -> IndexDefinition;
}

/// A document of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: DocumentId,
    /// Its JSON.
    pub source: Bytes,
}

impl From<(DocumentId, Document)> for Record {
    fn from((id, document): (DocumentId, Document)) -> Record {
        Record {
            id,
            source: document.into_bytes(),
        }
    }
}

/// What a collection had at a position of its history.
#[derive(Debug, Clone)]
pub struct At {
    /// The position.
    pub position: u64,
    /// The documents, in the order of the ids.
    pub documents: Vec<Option<Bytes>>,
}

/// Why a collection cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct CollectionError {
    /// Why, with the remedy.
    pub reason: String,
    /// Whether it may pass by itself.
    pub is_passing: bool,
}

/// The collection of a comparison.
pub(crate) struct SideCollection {
    pub(crate) name: IndexName,
    pub(crate) collection: Arc<dyn Collection>,
    pub(crate) readers: usize,
    pub(crate) throttle: Throttle,
    pub(crate) lens: Option<Arc<dyn Lens>>,
    pub(crate) progress: Arc<dyn Progress>,
}

impl SideCollection {
    /// Reads every document.
    pub(crate) async fn scan<G: Gather>(
        self: &Arc<Self>,
        new: impl Fn() -> G + Clone + Send + 'static,
    ) -> Result<G, VerifyError> {
        let parts = (0..self.collection.parts()).map({
            let new = new.clone();
            move |part| read_part(Arc::clone(self), part, new.clone())
        });
        side_by_side(self.readers, parts, new()).await
    }

    /// What it has of suspects, as a search cluster would say it.
    pub(crate) async fn find(&self, suspects: &[Suspect]) -> Result<Vec<Found>, VerifyError> {
        let ids: Vec<&DocumentId> = suspects.iter().map(|suspect| &suspect.id).collect();
        self.throttle.take(ids.len()).await;
        let documents = self.patiently(|| self.collection.find(&ids)).await?;
        Ok(self.found(suspects, documents, None))
    }

    /// The same with the position that a change of it now has.
    pub(crate) async fn find_at(&self, suspects: &[Suspect]) -> Result<Vec<Found>, VerifyError> {
        let ids: Vec<&DocumentId> = suspects.iter().map(|suspect| &suspect.id).collect();
        let at = self.patiently(|| self.collection.find_at(&ids)).await?;
        Ok(self.found(suspects, at.documents, Some(at.position)))
    }

    fn found(
        &self,
        suspects: &[Suspect],
        documents: Vec<Option<Bytes>>,
        position: Option<u64>,
    ) -> Vec<Found> {
        let documents = suspects.iter().zip(documents);
        documents
            .map(|(suspect, source)| {
                let found = Found {
                    found: source.is_some(),
                    seq_no: position,
                    source,
                    ..Found::default()
                };
                look_through(self.lens.as_deref(), &suspect.id, found)
            })
            .collect()
    }

    async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, VerifyError>
    where
        F: Future<Output = Result<T, CollectionError>>,
    {
        let mut backoff = backoff();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => self.wait(&mut backoff, self.failed(error)).await?,
            }
        }
    }

    fn failed(&self, error: CollectionError) -> VerifyError {
        VerifyError::Collection {
            index: self.name.to_string(),
            error,
        }
    }

    /// Waits before the next attempt, or gives the error back if there shall be none.
    async fn wait(&self, backoff: &mut Backoff, error: VerifyError) -> Result<(), VerifyError> {
        match &error {
            VerifyError::Collection { error, .. }
                if error.is_passing && backoff.attempts() < ATTEMPTS =>
            {
                let pause = backoff.next_delay();
                tracing::warn!(index = %self.name, %error, ?pause, "trying again");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn read_once<G: Gather>(&self, part: usize, mut gathered: G) -> Result<G, VerifyError> {
        let (pages, mut read) = mpsc::channel(1);
        let reading = async {
            let reading = self.collection.read(part, pages).await;
            reading.map_err(|error| self.failed(error))
        };
        let taking = async {
            while let Some(page) = read.recv().await {
                self.take(page, &mut gathered).await?;
            }
            Ok(())
        };
        try_join(reading, taking).await?;
        Ok(gathered)
    }

    async fn take<G: Gather>(
        &self,
        page: Vec<Record>,
        gathered: &mut G,
    ) -> Result<(), VerifyError> {
        let documents = page.len();
        let mut bytes = 0;
        for Record { id, source } in page {
            bytes += source.len() as u64;
            let hit = Hit {
                id,
                routing: None,
                seq_no: 0,
                version: 0,
                source,
            };
            let Some(hit) = through(self.lens.as_deref(), hit) else {
                continue;
            };
            gathered
                .add(hit)
                .map_err(|(id, error)| VerifyError::Document {
                    side: Side::Source,
                    index: self.name.to_string(),
                    id,
                    error,
                })?;
        }
        let read = documents as u64;
        self.progress.advance(Side::Source, read, bytes);
        self.throttle.take(documents).await;
        Ok(())
    }
}

/// Reads a part; from its beginning again after a failure that passes.
async fn read_part<G: Gather>(
    side: Arc<SideCollection>,
    part: usize,
    new: impl Fn() -> G,
) -> Result<G, VerifyError> {
    let mut backoff = backoff();
    loop {
        match side.read_once(part, new()).await {
            Ok(gathered) => return Ok(gathered),
            Err(error) => side.wait(&mut backoff, error).await?,
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
