//! What was forgotten in the last minutes, so that it can be known again.
//!
//! A document is forgotten when the log has its delete. A log that loses its end loses the delete
//! with it, and then the document has to be found missing once more.

use super::Book;

/// Entries that were forgotten together: when, in milliseconds since 1970, and each as it stood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) at: u64,
    pub(super) entries: Vec<(u64, Vec<u8>)>,
}

impl Row {
    /// When, and for each entry its sequence number, the length of its value, and the value.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.at.to_be_bytes().to_vec();
        for (seq_no, value) in &self.entries {
            bytes.extend_from_slice(&seq_no.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Row> {
        let (at, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (seq_no, after) = rest.split_first_chunk::<8>()?;
            let (length, after) = after.split_first_chunk::<4>()?;
            let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            entries.push((u64::from_be_bytes(*seq_no), value.to_vec()));
            rest = after;
        }
        Some(Row {
            at: u64::from_be_bytes(*at),
            entries,
        })
    }
}

/// The key of a row: the number of the log's newest message then, the book, the first entry.
pub(super) fn key(sequence: u64, book: Book, first: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&sequence.to_be_bytes());
    key[8..12].copy_from_slice(&book.0.to_be_bytes());
    key[12..].copy_from_slice(&first.to_be_bytes());
    key
}

/// The message and the book of a key.
pub(super) fn of_key(key: &[u8]) -> Option<(u64, Book)> {
    let (sequence, rest) = key.split_first_chunk::<8>()?;
    let (book, _) = rest.split_first_chunk::<4>()?;
    Some((
        u64::from_be_bytes(*sequence),
        Book(u32::from_be_bytes(*book)),
    ))
}
