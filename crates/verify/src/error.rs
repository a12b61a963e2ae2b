//! What can end a comparison, each as one sentence with the remedy.

use model::IndexName;
use search::Uncapturable;

use crate::{DigestError, Side};

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
