//! Why watching cannot go on.

use model::IndexName;
use pipeline::Fault;
use search::{Error, Uncapturable, retry};

use crate::{CheckpointError, LedgerError};

/// A look at the source that failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The cluster did not answer as it should.
    #[error(transparent)]
    Search(#[from] Error),
    /// There is nothing to watch.
    #[error(
        "no open index of the cluster {cluster:?} matches {patterns:?}; check the patterns \
         (hidden indices and those that begin with a dot have to be named)"
    )]
    NoIndex {
        /// What was asked for.
        patterns: String,
        /// Where.
        cluster: String,
        /// Whether one may still appear.
        waits: bool,
    },
    /// An index that was asked for by name cannot be captured.
    #[error("index {:?} cannot be captured: {reason}", index.as_str())]
    Uncapturable {
        /// The index.
        index: IndexName,
        /// Why.
        reason: Uncapturable,
    },
    /// An index went away in the middle of a copy that does not follow.
    #[error(
        "index {:?} was deleted while it was copied, or deleted and created anew: the target has a part of it; run \
         again if there is another one now",
        index.as_str()
    )]
    Gone {
        /// The index.
        index: IndexName,
    },
}

/// A disk that is full has room again some day.
impl From<CheckpointError> for Fault {
    fn from(error: CheckpointError) -> Fault {
        match error {
            CheckpointError::Write { .. } => Fault::retry(error),
            error => Fault::fatal(error),
        }
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Fault {
        match error {
            LedgerError::Write { .. } => Fault::retry(error),
            error => Fault::fatal(error),
        }
    }
}

/// What a cluster's error means for the capture. What can be done without comes with the way around it.
pub(crate) fn fault(error: Error) -> Fault {
    match (retry::classify(&error), &error) {
        (retry::Decision::Retry, _) => Fault::retry(error),
        (_, Error::Forbidden { action, .. }) if action.contains("refresh") => {
            Fault::fatal(format!(
                "{error}. Without it, run with --source-refresh natural: changes then arrive when the \
             index refreshes by itself"
            ))
        }
        (_, Error::Forbidden { action, .. }) if action.contains("mget") => Fault::fatal(format!(
            "{error}. Without it, run with --deletes off: what is deleted at the source then stays at \
             the target"
        )),
        _ => Fault::fatal(error),
    }
}
