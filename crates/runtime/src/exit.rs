//! The last words of a process: one sentence and an exit code.

use std::{error::Error, process::ExitCode};

use crate::{shutdown::DrainTimeout, supervise::TaskError};

/// What an exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or stopped in order.
    Success,
    /// 1: it could not go on.
    Failure,
    /// 2: the flags, the environment or the file are wrong.
    Usage,
    /// 3: a comparison was complete and found differences.
    Different,
    /// 70 (`EX_SOFTWARE`): a panic, so a bug.
    Bug,
    /// 124, as timeout(1): the drain was cut off at its deadline.
    DrainTimeout,
    /// 130, as a shell: a second signal ended it at once.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Different => 3,
            Self::Bug => 70,
            Self::DrainTimeout => 124,
            Self::Interrupted => 130,
        }
    }

    /// The code for an error: that of the first cause in its chain that has one of its own.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error).find_map(special).unwrap_or(Self::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

fn special(error: &(dyn Error + 'static)) -> Option<Exit> {
    if error.is::<DrainTimeout>() {
        return Some(Exit::DrainTimeout);
    }
    match error.downcast_ref()? {
        TaskError::Panicked { .. } => Some(Exit::Bug),
        TaskError::Stuck { .. } => Some(Exit::DrainTimeout),
        TaskError::Failed { .. } => None,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// An error and its causes as one sentence: `a: caused by b: caused by c`.
///
/// A cause that the text before it already tells is not told again.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut sentence = String::new();
    for cause in causes(error) {
        let text = cause.to_string();
        let text = text.trim();
        if sentence.is_empty() {
            sentence.push_str(text);
        } else if !text.is_empty() && !sentence.contains(text) {
            sentence.push_str(": caused by ");
            sentence.push_str(text);
        }
    }
    sentence
}

/// Prints `error: …` on standard error and gives the exit code.
pub fn report(error: &(dyn Error + 'static)) -> Exit {
    eprintln!("error: {}", sentence(error));
    Exit::of(error)
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: Box<dyn Error + Send + Sync>,
    }

    fn outer(text: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Outer {
        Outer {
            text,
            source: source.into(),
        }
    }

    #[test]
    fn a_chain_is_one_sentence_without_repetition() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let plain = outer("cannot publish", outer("stream ES_CHANGES", refused()));
        let told = "cannot publish: caused by stream ES_CHANGES: caused by refused";
        assert_eq!(sentence(&plain), told);
        let repeated = outer("host a:9200: refused; start it", refused());
        assert_eq!(sentence(&repeated), "host a:9200: refused; start it");
    }

    #[test]
    fn the_code_is_that_of_the_cause_that_has_one() {
        let drain = Duration::from_secs(1);
        let panicked = TaskError::Panicked {
            name: "a".to_owned(),
            message: "b".to_owned(),
        };
        let stuck = TaskError::Stuck {
            names: vec![],
            drain,
        };
        for (error, exit) in [
            (outer("x", panicked), Exit::Bug),
            (outer("x", stuck), Exit::DrainTimeout),
            (outer("x", DrainTimeout { drain }), Exit::DrainTimeout),
            (outer("x", "y"), Exit::Failure),
        ] {
            assert_eq!(Exit::of(&error), exit, "{error:?}");
        }
    }
}
