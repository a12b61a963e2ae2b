//! The source of a comparison: an index of a search cluster, or a collection.

use std::sync::Arc;

use model::{IndexDefinition, IndexName};
use search::Found;

use crate::{
    VerifyError,
    collection::SideCollection,
    index::SideIndex,
    look,
    scan::{Gather, scan},
    suspect::Suspect,
};

/// The side that is right.
#[derive(Clone)]
pub(crate) enum Source {
    Index(Arc<SideIndex>),
    Collection(Arc<SideCollection>),
}

impl Source {
    pub(crate) fn name(&self) -> &IndexName {
        match self {
            Source::Index(index) => &index.name,
            Source::Collection(side) => &side.name,
        }
    }

    /// What identifies it.
    pub(crate) fn uuid(&self) -> String {
        match self {
            Source::Index(index) => index.uuid.clone(),
            Source::Collection(side) => side.collection.identity(),
        }
    }

    /// How many shards it has.
    pub(crate) fn shards(&self) -> u32 {
        match self {
            Source::Index(index) => index.shards,
            Source::Collection(_) => 1,
        }
    }

    /// About how many documents it has.
    pub(crate) fn documents(&self) -> u64 {
        match self {
            Source::Index(index) => index.documents,
            Source::Collection(side) => side.collection.estimate(),
        }
    }

    /// How many documents are looked at together, at most.
    pub(crate) fn together(&self) -> usize {
        match self {
            Source::Index(_) => look::BATCH,
            Source::Collection(side) => side.collection.together(),
        }
    }

    /// Reads every document.
    pub(crate) async fn scan<G: Gather>(
        &self,
        new: impl Fn() -> G + Clone + Send + 'static,
    ) -> Result<G, VerifyError> {
        match self {
            Source::Index(index) => scan(index, new).await,
            Source::Collection(side) => side.scan(new).await,
        }
    }

    /// Waits until nothing that was opened for a scan is open any more.
    pub(crate) async fn ended(&self) {
        if let Source::Index(index) = self {
            index.scrolls.ended().await;
        }
    }

    /// Looks documents up.
    pub(crate) async fn find(
        &self,
        suspects: &[Suspect],
        content: bool,
    ) -> Result<Vec<Found>, VerifyError> {
        match self {
            Source::Index(index) => look::find(index, suspects, content).await,
            Source::Collection(side) => side.find(suspects).await,
        }
    }

    /// Looks documents up to write or delete them: what is found says with which position it is written,
    /// and nothing of what is not seen has a lower one.
    pub(crate) async fn find_to_repair(
        &self,
        suspects: &[Suspect],
        content: bool,
    ) -> Result<Vec<Found>, VerifyError> {
        match self {
            Source::Index(index) => look::find(index, suspects, content).await,
            Source::Collection(side) => side.find_at(suspects).await,
        }
    }

    /// What the index should look like at the target.
    pub(crate) async fn definition(&self) -> Result<IndexDefinition, VerifyError> {
        let (definition, lens) = match self {
            Source::Index(index) => {
                let definition = index.patiently(|| index.client.definition(&index.name));
                (definition.await?, &index.lens)
            }
            Source::Collection(side) => (side.collection.definition(), &side.lens),
        };
        Ok(match lens {
            None => definition,
            Some(lens) => lens.define(definition),
        })
    }
}
