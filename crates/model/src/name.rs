//! Names that were checked once, where they came in.

use std::{borrow::Borrow, fmt, sync::Arc};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// The name of an index, cheap to clone. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexName(Arc<str>);

/// Who the changes belong to: the second token of every subject. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(Arc<str>);

/// A document's `_id`: 1 to 512 bytes of any text (the limit is the search engines').
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId(CompactString);

/// Why a text is no such name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// The name has no characters.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// Search engines refuse longer ids.
    #[error("the document id has {0} bytes; search engines take 512 at most")]
    IdTooLong(usize),
}

macro_rules! shared_name {
    ($name:ident, $what:literal) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                if text.is_empty() {
                    return Err(NameError::Empty($what));
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::try_from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

shared_name!(IndexName, "index name");
shared_name!(Tenant, "tenant");

impl DocumentId {
    /// The longest id that search engines accept, in bytes.
    pub const MAX_BYTES: usize = 512;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for DocumentId {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        match text.len() {
            0 => Err(NameError::Empty("document id")),
            1..=Self::MAX_BYTES => Ok(DocumentId(text.into())),
            long => Err(NameError::IdTooLong(long)),
        }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
