//! What can go wrong at a seam, reduced to what the loops have to know.

use std::{error::Error, fmt};

type Cause = Box<dyn Error + Send + Sync>;

/// A failed operation, and whether it is worth another try.
#[derive(Debug)]
pub enum Fault {
    /// It may work later: the loop tries again with growing pauses, for as long as it takes.
    Retry(Cause),
    /// It will not work until an operator does something; the cause says what. The loop ends.
    Fatal(Cause),
}

impl Fault {
    /// A fault that is worth another try.
    pub fn retry(cause: impl Into<Cause>) -> Fault {
        Fault::Retry(cause.into())
    }

    /// A fault that is not.
    pub fn fatal(cause: impl Into<Cause>) -> Fault {
        Fault::Fatal(cause.into())
    }

    /// Whether another try makes sense.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Fault::Retry(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Retry(cause) | Fault::Fatal(cause) => cause.fmt(f),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Fault::Retry(cause) | Fault::Fatal(cause) => cause.source(),
        }
    }
}
