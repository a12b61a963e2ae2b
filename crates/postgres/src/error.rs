//! What can go wrong with a server.

use std::{fmt, io};

use postgres_protocol::message::backend::ErrorFields;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags or the URL do not say how to reach a server.
    #[error("{0}")]
    Config(String),
    /// The server cannot be reached, or the connection broke.
    #[error("PostgreSQL at {host}: {source}")]
    Io {
        /// Where.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The connection cannot be encrypted as was asked for.
    #[error("PostgreSQL at {host}: {reason}")]
    Tls {
        /// Where.
        host: String,
        /// Why, with the remedy.
        reason: String,
    },
    /// The server wants a way of authentication that is not there.
    #[error("PostgreSQL at {host}: {reason}")]
    Authentication {
        /// Where.
        host: String,
        /// Why, with the remedy.
        reason: String,
    },
    /// The server refuses.
    #[error("PostgreSQL at {host}: {error}")]
    Server {
        /// Where.
        host: String,
        /// What it says.
        error: Box<ServerError>,
    },
    /// The server says something that it should not.
    #[error("PostgreSQL at {host} sent what was not expected: {reason}")]
    Protocol {
        /// Where.
        host: String,
        /// What.
        reason: String,
    },
}

/// What a server says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The SQLSTATE, such as `42501`.
    pub code: String,
    /// In a sentence.
    pub message: String,
    /// More of it, if there is more.
    pub detail: Option<String>,
    /// What the server advises.
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for more in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl ServerError {
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> ServerError {
        use postgres_protocol::message::backend::ErrorField;
        let mut error = ServerError {
            code: String::new(),
            message: String::new(),
            detail: None,
            hint: None,
        };
        let text =
            |field: &ErrorField<'_>| String::from_utf8_lossy(field.value_bytes()).into_owned();
        while let Ok(Some(field)) = fallible(&mut fields) {
            match field.type_() {
                b'C' => error.code = text(&field),
                b'M' => error.message = text(&field),
                b'D' => error.detail = Some(text(&field)),
                b'H' => error.hint = Some(text(&field)),
                _ => {}
            }
        }
        error
    }
}

fn fallible<'a>(
    fields: &mut ErrorFields<'a>,
) -> io::Result<Option<postgres_protocol::message::backend::ErrorField<'a>>> {
    use fallible_iterator::FallibleIterator;
    fields.next()
}

impl Error {
    /// The SQLSTATE, where the server has refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Server { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Whether the server has refused with one of these SQLSTATEs.
    pub fn is_one_of(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether it may work later without anybody doing something.
    pub fn passes(&self) -> bool {
        match self {
            Error::Io { .. } => true,
            Error::Server { error, .. } => {
                let code = error.code.as_str();
                // Connection trouble, rolled back, resources, an operator's intervention (but not a
                // cancelled query of ours), a slot that another process still has.
                ["08", "40", "53", "58"].contains(&code.get(..2).unwrap_or_default())
                    || [
                        "57P01", "57P02", "57P03", "55006", "55P03", "57014", "XX000",
                    ]
                    .contains(&code)
            }
            Error::Config(_)
            | Error::Tls { .. }
            | Error::Authentication { .. }
            | Error::Protocol { .. } => false,
        }
    }
}
