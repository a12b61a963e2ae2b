//! What can end a comparison, each as one sentence with the remedy.

use model::IndexName;
use search::Uncapturable;

use crate::{CollectionError, DigestError, Side};

/// A comparison that could not be completed: nothing is known then.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is nothing to compare with.
    #[error("the source has no index {index:?}: check the name and the privileges")]
    NoIndex {
        /// The source's index.
        index: String,
    },
    /// The name stands for other indices.
    #[error(
        "{index:?} of the {side} is no index but a name for {meant}: compare those by their names"
    )]
    Alias {
        /// Where.
        side: Side,
        /// The alias or data stream.
        index: String,
        /// The indices behind it.
        meant: String,
    },
    /// The index cannot be read.
    #[error("index {index:?} of the {side} cannot be compared: {reason}")]
    Unreadable {
        /// Where.
        side: Side,
        /// The index.
        index: String,
        /// Why.
        reason: Uncapturable,
    },
    /// The index may not be refreshed.
    #[error(
        "index {index:?} of the {side} cannot be refreshed: {error}; or compare without a refresh what is visible there (--no-refresh)"
    )]
    Refresh {
        /// Where.
        side: Side,
        /// The index.
        index: String,
        /// What the cluster says.
        error: search::Error,
    },
    /// The index became another one.
    #[error(
        "index {index:?} of the {side} was deleted, recreated or restored meanwhile: compare it again"
    )]
    Replaced {
        /// Where.
        side: Side,
        /// The index.
        index: String,
    },
    /// The target's versions are not ours.
    #[error(
        "index {index:?} of the target cannot be compared by version: {foreign} of its {documents} documents have versions that no change of the source has given them, so something else than Syncline wrote them; compare the contents (--by content)"
    )]
    ForeignVersions {
        /// The target's index.
        index: String,
        /// How many documents.
        foreign: u64,
        /// Of how many.
        documents: u64,
    },
    /// A document that is no JSON.
    #[error(
        "document {id:?} of index {index:?} of the {side} cannot be compared: {error}; change or delete it there"
    )]
    Document {
        /// Where.
        side: Side,
        /// The index.
        index: String,
        /// The document.
        id: String,
        /// What is wrong with it.
        error: DigestError,
    },
    /// The source has no versions.
    #[error(
        "{index} of the source is no index of a search cluster, so its documents have no versions to compare: compare the contents (--by content)"
    )]
    NoVersions {
        /// The source's name for it.
        index: String,
    },
    /// The target's index is filled from something else.
    #[error(
        "index {index:?} of the target is filled from {known}, and this is {said}: a repair would give its documents versions of another history. Compare with {known}, or without a repair"
    )]
    Elsewhere {
        /// The target's index.
        index: String,
        /// What fills it, as its mapping says.
        known: String,
        /// What it was compared with.
        said: String,
    },
    /// A source that is no search cluster failed, for longer than we wait.
    #[error("{index} of the source cannot be read: {error}")]
    Collection {
        /// What was read.
        index: String,
        /// What it says.
        error: CollectionError,
    },
    /// A cluster failed, for longer than we wait.
    #[error("index {index:?} of the {side} cannot be read: {error}")]
    Search {
        /// Where.
        side: Side,
        /// The index.
        index: String,
        /// What the cluster says.
        error: search::Error,
    },
}

impl VerifyError {
    pub(crate) fn search(side: Side, index: &IndexName, error: search::Error) -> VerifyError {
        VerifyError::Search {
            side,
            index: index.to_string(),
            error,
        }
    }
}
