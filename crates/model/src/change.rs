//! One change of one document.

use std::{fmt, str::FromStr};

use bytes::{Bytes, BytesMut};

use crate::{DocumentId, Version};

/// A document as it is at a position of its source's history, or the fact that it is gone there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The document's `_id`.
    pub id: DocumentId,
    /// The custom routing the document was written with. It is part of where the document lives:
    /// the same id under another routing can be another document.
    pub routing: Option<Box<str>>,
    /// The position in the source's history; what makes a late or repeated delivery harmless.
    pub version: Version,
    /// Whether it replaces a document of its very version, too: somebody has asked for it again, or
    /// the source's changes share a version, as those of a database's transaction do. A delete always
    /// does.
    pub over: bool,
    /// What happened.
    pub action: Action,
}

impl Change {
    /// Which operation this is, as subjects and filters name it.
    pub fn operation(&self) -> Operation {
        match self.action {
            Action::Index(_) => Operation::Index,
            Action::Update(_) => Operation::Update,
            Action::Delete => Operation::Delete,
        }
    }

    /// The document; a delete has none.
    pub fn document(&self) -> Option<&Document> {
        match &self.action {
            Action::Index(document) | Action::Update(document) => Some(document),
            Action::Delete => None,
        }
    }

    /// Roughly what the change occupies on its way, in bytes.
    pub fn size(&self) -> usize {
        const OVERHEAD: usize = 96;
        OVERHEAD + self.id.as_str().len() + self.document().map_or(0, |d| d.as_bytes().len())
    }
}

/// What a change does. `Index` and `Update` both carry the whole document and are written alike;
/// the difference is for people who filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The document was created.
    Index(Document),
    /// The document had been there before and was changed or replaced.
    Update(Document),
    /// The document is gone.
    Delete,
}

/// The kinds of change, as the third part of a subject names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Created.
    Index,
    /// Changed or replaced.
    Update,
    /// Deleted.
    Delete,
}

impl Operation {
    /// All of them, in the order of their lifecycle.
    pub const ALL: [Operation; 3] = [Operation::Index, Operation::Update, Operation::Delete];

    /// The name in subjects, flags and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Index => "index",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Operation {
    type Err = UnknownOperation;

    fn from_str(text: &str) -> Result<Self, UnknownOperation> {
        Operation::ALL
            .into_iter()
            .find(|operation| operation.as_str() == text)
            .ok_or_else(|| UnknownOperation(text.to_owned()))
    }
}

/// A text that names no operation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown operation {0:?}: use index, update or delete")]
pub struct UnknownOperation(String);

/// A document: the bytes of one JSON value without a line break, so that it can stand on a line of
/// its own in a batch and in a bulk request.
///
/// A source may hold a document with line breaks in it. JSON allows a raw line break only between
/// tokens, never inside a string, so a space in its place leaves the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Bytes);

impl Document {
    /// Takes the bytes of one JSON value. They are neither parsed nor copied unless they contain a
    /// line break. The caller vouches that they are one JSON value: sources send nothing else.
    pub fn from_json(bytes: Bytes) -> Document {
        if memchr::memchr2(b'\n', b'\r', &bytes).is_none() {
            return Document(bytes);
        }
        let mut line = BytesMut::from(&bytes[..]);
        for byte in line.iter_mut().filter(|b| matches!(**b, b'\n' | b'\r')) {
            *byte = b' ';
        }
        Document(line.freeze())
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON text.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_on_one_line_is_taken_without_a_copy() {
        let bytes = Bytes::from_static(b"{\"a\": \"line\\nbreak\"}");
        let document = Document::from_json(bytes.clone());
        assert_eq!(document.as_bytes().as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn a_line_break_between_tokens_becomes_a_space_and_the_value_stays_the_same() {
        let pretty = b"{\r\n  \"a\": [1,\n2],\n  \"b\": \"x\\ny\"\n}";
        let document = Document::from_json(Bytes::from_static(pretty));
        assert!(!document.as_bytes().contains(&b'\n'));
        let before: serde_json::Value = serde_json::from_slice(pretty).unwrap();
        let after: serde_json::Value = serde_json::from_slice(document.as_bytes()).unwrap();
        assert_eq!(before, after);
    }
}
