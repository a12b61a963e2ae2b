//! Why a round of a shard ends before its end.

use pipeline::Fault;
use search::Error;

use crate::{error::fault, ledger::LedgerError};

/// Why a round ends early.
pub(crate) enum Stop {
    /// It has to be repeated.
    Lost(Error),
    /// The shard is not what was read of it: it has to be read from its beginning.
    TakenBack,
    /// The index is no more.
    Gone,
    /// Somebody has to act.
    Failed(Fault),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match (search::retry::classify(&error), &error) {
            (_, Error::IndexNotFound { .. }) => Stop::Gone,
            // It is not looked at until it is opened.
            (_, Error::IndexClosed { .. }) => Stop::Lost(error),
            (search::retry::Decision::Retry, _) => Stop::Lost(error),
            (search::retry::Decision::Fatal, _) => Stop::Failed(fault(error)),
        }
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Stop {
        Stop::Failed(Fault::fatal(error))
    }
}
