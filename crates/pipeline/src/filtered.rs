//! A source of which only some changes go on.

use std::sync::Arc;

use model::{Batch, Content};

use crate::{Captured, ChangeSource, Fault, Filter, Verdict};

/// Another source's batches without the changes that a filter drops. Positions stay the source's:
/// what was dropped is settled with the batch it stood in. Definitions of indices always go on.
#[derive(Debug)]
pub struct Filtered<S, F> {
    source: S,
    filter: F,
}

impl<S, F> Filtered<S, F> {
    /// `source`, as far as `filter` lets it through.
    pub fn new(source: S, filter: F) -> Filtered<S, F> {
        Filtered { source, filter }
    }
}

impl<S: ChangeSource, F: Filter> ChangeSource for Filtered<S, F> {
    type Position = S::Position;

    async fn next(&mut self) -> Result<Option<Captured<S::Position>>, Fault> {
        let captured = self.source.next().await?;
        Ok(captured.map(|captured| {
            let batch = keep(&self.filter, captured.batch);
            Captured { batch, ..captured }
        }))
    }

    async fn confirm(&mut self, position: S::Position) -> Result<(), Fault> {
        self.source.confirm(position).await
    }
}

/// The batch without what is dropped; the very same where nothing is.
fn keep(filter: &impl Filter, batch: Arc<Batch>) -> Arc<Batch> {
    let goes_on = |change: &&model::Change| filter.evaluate(&batch.index, change) == Verdict::Keep;
    if batch.changes().iter().all(|change| goes_on(&change)) {
        return batch;
    }
    let kept = batch.changes().iter().filter(goes_on).cloned().collect();
    Arc::new(Batch {
        index: batch.index.clone(),
        origin: batch.origin.clone(),
        content: Content::Changes(kept),
    })
}
