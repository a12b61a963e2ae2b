//! What the headers of a letter say.

use async_nats::HeaderMap;
use model::{Change, Version, token};

use super::{About, Address};
use crate::sink::TOKEN_HEADER;

/// Why the letter was parked.
pub const REASON_HEADER: &str = "Syncline-Reason";
/// The number of the entry it came from, in the stream of [`STREAM_HEADER`].
pub const SEQUENCE_HEADER: &str = "Syncline-Sequence";
/// The stream it came from.
pub const STREAM_HEADER: &str = "Syncline-Stream";
/// The subject it stood under.
pub const SUBJECT_HEADER: &str = "Syncline-Subject";
/// When it was parked last, in milliseconds since 1970.
pub const PARKED_HEADER: &str = "Syncline-Parked";
/// When the document's first letter was parked, in milliseconds since 1970.
pub const FIRST_PARKED_HEADER: &str = "Syncline-First-Parked";
/// How often the target has refused the document since then.
pub const ATTEMPTS_HEADER: &str = "Syncline-Attempts";
/// The change's version; absent where the entry could not be read.
pub const VERSION_HEADER: &str = "Syncline-Version";
/// The document's id, encoded like a token of a subject.
pub const ID_HEADER: &str = "Syncline-Id";
/// Its routing, encoded alike; absent where it has none.
pub const ROUTING_HEADER: &str = "Syncline-Routing";
/// The size of the whole body, in bytes.
pub const SIZE_HEADER: &str = "Syncline-Size";

/// A letter, without its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    /// The subject it stands under.
    pub subject: String,
    /// What the subject says; `None` for a letter of an early build, which can only be looked at and
    /// removed.
    pub address: Option<Address>,
    /// The number of its last message in the stream of letters.
    pub at: u64,
    /// Of how many messages it consists.
    pub parts: u32,
    /// The document's id; `None` where the entry could not be read.
    pub id: Option<String>,
    /// The document's routing, if it has one.
    pub routing: Option<String>,
    /// The version of the change; `None` where the entry could not be read.
    pub version: Option<Version>,
    /// Why it was refused, last.
    pub reason: String,
    /// How often it was refused.
    pub attempts: u32,
    /// When it was refused first, in milliseconds since 1970.
    pub first_parked: u64,
    /// When it was refused last, in milliseconds since 1970.
    pub parked: u64,
    /// The stream it came from.
    pub stream: String,
    /// The entry of that stream.
    pub sequence: u64,
    /// The subject of that entry.
    pub original: String,
    /// The size of its body, in bytes.
    pub size: u64,
    /// The fencing token of the reader that parked it; 0 where it says none.
    pub token: u64,
}

impl Letter {
    /// Reads the headers of a letter's last message.
    pub(crate) fn read(subject: &str, at: u64, headers: &HeaderMap, body: usize) -> Letter {
        let text = |name: &str| headers.get_last(name).map(|value| value.as_str());
        let number = |name: &str| text(name).and_then(|value| value.parse().ok());
        let name = |name: &str| text(name).and_then(token::decode);
        let parts = text("Syncline-Part").and_then(|part| part.split_once('/')?.1.parse().ok());
        let parked = number(PARKED_HEADER).unwrap_or(0);
        Letter {
            subject: subject.to_owned(),
            address: subject.parse().ok(),
            at,
            parts: parts.unwrap_or(1),
            id: name(ID_HEADER),
            routing: name(ROUTING_HEADER),
            version: number(VERSION_HEADER).and_then(|version| Version::try_from(version).ok()),
            reason: text(REASON_HEADER).unwrap_or_default().to_owned(),
            attempts: number(ATTEMPTS_HEADER).unwrap_or(1) as u32,
            first_parked: number(FIRST_PARKED_HEADER).unwrap_or(parked),
            parked,
            stream: text(STREAM_HEADER).unwrap_or_default().to_owned(),
            sequence: number(SEQUENCE_HEADER).unwrap_or(0),
            original: text(SUBJECT_HEADER).unwrap_or_default().to_owned(),
            size: number(SIZE_HEADER)
                .or_else(|| number("Nats-Msg-Size"))
                .unwrap_or(body as u64),
            token: number(TOKEN_HEADER).unwrap_or(0),
        }
    }

    /// The index it is of, or the subject where even that could not be read.
    pub fn index(&self) -> &str {
        let address = self.address.as_ref();
        address.map_or(&self.original, |address| &address.index)
    }

    /// The reader whose target refuses it.
    pub fn reader(&self) -> Option<&str> {
        self.address.as_ref().map(|address| address.reader.as_str())
    }

    /// Whether it is about that document.
    pub fn is_about(&self, id: &str, routing: Option<&str>) -> bool {
        let about = self.address.as_ref().map(|address| address.about);
        about == Some(About::document(id, routing))
    }

    /// Whether the same entry of the log, read again, would become this letter.
    pub(crate) fn is_of(&self, sequence: u64, change: Option<&Change>) -> bool {
        self.sequence == sequence && self.version == change.map(|change| change.version)
    }
}
