//! A batch as messages of a stream, and back.
//!
//! The body of a message is what `_bulk` takes, so that everyone who operates a search cluster can
//! read it: for each change a line of metadata and, unless it is a delete, a line with the document.
//!
//! ```text
//! {"index":{"_id":"7","version":41,"version_type":"external"}}
//! {"title":"Alien"}
//! {"delete":{"_id":"8","version":42,"version_type":"external_gte"}}
//! ```
//!
//! All changes of a message share one subject, which names index and operation. The headers
//! ([`Envelope`]) say the rest. What is larger than the server's message limit is cut into parts
//! that follow each other in the log; [`Assembler`] joins them again.
//!
//! Versions: a document is written with the strict `external`, a delete with `external_gte`,
//! because a delete found by counting can carry the very version its document had (ADR 0003). A
//! document that somebody has asked for again has `external_gte`, too (ADR 0013).

mod decode;
mod encode;
mod metadata;
mod parts;

use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Kind, NameError, Operation, Origin, Subject, Version, VersionError};

pub use decode::{decode, open, seal};
pub use encode::{Encoder, Packer, Packing, write_change, write_text};
pub use parts::Assembler;

/// The version type of a document: only a higher version than the target has is written.
const EXACT: &str = "external";
/// That of a delete, and of a document that somebody has asked for again: the very version, too.
const OVER: &str = "external_gte";

/// The newest format that this build reads and writes.
pub const FORMAT: u32 = 2;

impl Kind {
    /// The format that a message of this kind needs: a reader need not be upgraded before it has to be.
    fn format(self) -> u32 {
        match self {
            Kind::Operation(_) | Kind::Definition => 1,
            Kind::Clear => 2,
        }
    }
}

/// The most a compressed message may unpack to, in bytes: above the largest request a search engine
/// takes (100 MB), below what would hurt the reader.
pub const MAX_UNPACKED: u64 = 128 << 20;

const FORMAT_HEADER: &str = "Syncline-Format";
const COUNT_HEADER: &str = "Syncline-Count";
const PARTITION_HEADER: &str = "Syncline-Partition";
const CAPTURED_HEADER: &str = "Syncline-Captured";
const PART_HEADER: &str = "Syncline-Part";
/// A message of no changes that has it says how far its source has come. One that does not know it reads a
/// message of no changes, which means nothing: so it needs no other format.
const REACHED_HEADER: &str = "Syncline-Reached";
const ENCODING_HEADER: &str = "Content-Encoding";

/// One message: what to publish, or what was read.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it goes.
    pub subject: Subject,
    /// What its headers say.
    pub envelope: Envelope,
    /// Its body, compressed if the envelope says so.
    pub body: Bytes,
}

/// The body of a message that everything before it is gone.
#[derive(Serialize, Deserialize)]
struct Clear {
    /// Up to and including this version.
    upto: Version,
}

/// The headers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The format of the message; a reader that knows only lower ones stops at it.
    pub format: u32,
    /// How many changes the whole body holds; 0 for a definition.
    pub count: usize,
    /// What [`crate::Content::Reached`] says; then there are no changes.
    pub reached: Option<Version>,
    /// See [`Origin`].
    pub origin: Origin,
    /// Whether the body is compressed with zstd.
    pub compressed: bool,
    /// Which part of how many, from (1, 1). Parts are cut after compression.
    pub part: (u32, u32),
}

impl Envelope {
    /// The headers, by name.
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (FORMAT_HEADER, self.format.to_string()),
            (COUNT_HEADER, self.count.to_string()),
            (PARTITION_HEADER, self.origin.partition.to_string()),
            (CAPTURED_HEADER, self.origin.captured_ms.to_string()),
        ];
        if let Some(reached) = self.reached {
            headers.push((REACHED_HEADER, reached.get().to_string()));
        }
        if self.compressed {
            headers.push((ENCODING_HEADER, "zstd".to_owned()));
        }
        if self.part.1 > 1 {
            headers.push((PART_HEADER, format!("{}/{}", self.part.0, self.part.1)));
        }
        headers
    }

    /// Reads the headers through `header`, which looks one up by name.
    ///
    /// # Errors
    /// When a header is missing or makes no sense, or when the message was written by a newer
    /// Syncline.
    pub fn from_headers<'a>(
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Envelope, DecodeError> {
        fn number<T: FromStr>(name: &'static str, value: Option<&str>) -> Result<T, DecodeError> {
            let value = value.ok_or(DecodeError::MissingHeader(name))?;
            value.parse().map_err(|_| DecodeError::BadHeader {
                name,
                value: value.to_owned(),
            })
        }
        let format: u32 = number(FORMAT_HEADER, header(FORMAT_HEADER))?;
        if format > FORMAT {
            return Err(DecodeError::NewerFormat(format));
        }
        let compressed = match header(ENCODING_HEADER) {
            None => false,
            Some("zstd") => true,
            Some(value) => {
                let value = value.to_owned();
                return Err(DecodeError::BadHeader {
                    name: ENCODING_HEADER,
                    value,
                });
            }
        };
        let part = match header(PART_HEADER) {
            None => (1, 1),
            Some(value) => parse_part(value).ok_or_else(|| DecodeError::BadHeader {
                name: PART_HEADER,
                value: value.to_owned(),
            })?,
        };
        let reached = match header(REACHED_HEADER) {
            None => None,
            Some(value) => Some(Version::try_from(number::<u64>(
                REACHED_HEADER,
                Some(value),
            )?)?),
        };
        let partition =
            header(PARTITION_HEADER).ok_or(DecodeError::MissingHeader(PARTITION_HEADER))?;
        Ok(Envelope {
            format,
            count: number(COUNT_HEADER, header(COUNT_HEADER))?,
            reached,
            origin: Origin {
                partition: partition.into(),
                captured_ms: number(CAPTURED_HEADER, header(CAPTURED_HEADER))?,
                via: None,
            },
            compressed,
            part,
        })
    }
}

fn parse_part(value: &str) -> Option<(u32, u32)> {
    let (part, of) = value.split_once('/')?;
    let (part, of) = (part.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&part).then_some((part, of))
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DecodeError {
    #[error("the header {0} is missing: the message was not published by Syncline")]
    MissingHeader(&'static str),
    #[error("the header {name} has the value {value:?}, which makes no sense there")]
    BadHeader { name: &'static str, value: String },
    #[error(
        "the message has format {0}, this build reads up to {FORMAT}: upgrade the reader first"
    )]
    NewerFormat(u32),
    #[error("the body is not valid zstd: {0}")]
    Compression(std::io::Error),
    #[error("the body unpacks to more than {MAX_UNPACKED} bytes")]
    TooLarge,
    #[error("the body ends in the middle of a change")]
    Truncated,
    #[error("the metadata of change {number} is malformed: {source}")]
    Metadata {
        number: usize,
        source: serde_json::Error,
    },
    #[error("change {number} does not belong under the subject's operation {operation}")]
    WrongOperation { number: usize, operation: Operation },
    #[error("the header says {said} changes, the body has {found}")]
    Count { said: usize, found: usize },
    #[error("the index definition is malformed: {0}")]
    Definition(serde_json::Error),
    #[error("the message that everything is gone is malformed: {0}")]
    Clear(serde_json::Error),
    #[error("the message says how far its source has come, and has changes, too")]
    ReachedWithChanges,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Version(#[from] VersionError),
}

#[cfg(test)]
mod tests;
