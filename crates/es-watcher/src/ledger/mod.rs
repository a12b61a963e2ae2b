//! Which documents the target was given, so that a delete can be noticed.
//!
//! A search never shows a delete, so a watcher counts: after a shard is read up to its global
//! checkpoint, every block of sequence numbers holds as many live documents as the ledger has
//! entries for it, unless a document was deleted, or changed since. `capture/deletes.rs` compares.
//!
//! ```text
//! journal                              what was entered lately; durable at once
//!    │ some ten thousand together
//!    ▼
//! places   hash of id -> number        where a document stands now
//! rows     number -> ids, routing      what to look up when a block differs
//! blocks   block -> how many stand     what is compared
//! trail    message -> documents        what was forgotten lately, in case the log loses the delete
//! ```
//!
//! An entry is durable before its document is published ([`stage`]), and goes only after the log
//! has the delete: whatever dies in between, the document is still known.

mod blocks;
mod document;
mod entered;
mod forget;
mod journal;
mod look;
mod places;
mod rows;
mod stage;
mod store;
mod trail;
mod visit;

use std::path::PathBuf;

use model::{Action, Change, DocumentId, Epoch, Version};

use crate::{History, ShardKey};

pub(crate) use stage::{Noted, Stage, Staged};
pub use store::Ledger;
pub use visit::{Forgotten, Remembered, Stood, remembered};

/// How many sequence numbers are counted together, as a power of two. Smaller blocks mean more to
/// count, larger ones more to read when one differs.
const BLOCK_BITS: u32 = 8;
/// Bits of a sequence number; the rest of a key is the book.
const SEQ_NO_BITS: u32 = 44;
const SEQ_NO: u64 = (1 << SEQ_NO_BITS) - 1;

/// The part of a ledger that belongs to one history of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Book(u32);

/// A document as the ledger knows it. In an index that was made by `_shrink`, documents of what were
/// several shards share their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    /// The number of the operation that wrote it last.
    pub(crate) seq_no: u64,
    pub(crate) id: DocumentId,
    pub(crate) routing: Option<Box<str>>,
}

impl Entry {
    /// The delete of the document, as of a version.
    pub(crate) fn delete(&self, version: Version) -> Change {
        Change {
            id: self.id.clone(),
            routing: self.routing.clone(),
            version,
            over: false,
            action: Action::Delete,
        }
    }
}

/// How many deletes are handed on in one batch.
pub(crate) const TOGETHER: usize = 1000;

/// An open book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) book: Book,
    /// Everything up to here is in it; -1 is nothing.
    pub(crate) upto: i64,
    /// Whether it was begun before anything of the history was published.
    pub(crate) whole: bool,
    /// Under which epoch its documents were published.
    pub(crate) epoch: Epoch,
}

/// A book on the shelf: of a history that is read now, or of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelved {
    pub(crate) book: Book,
    pub(crate) shard: u32,
    pub(crate) index_uuid: String,
}

/// Deletes the log has: their entries may go.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) book: Book,
    pub(crate) entries: Vec<Entry>,
}

/// Counts of blocks, lowest first.
pub(crate) type Counts = Vec<(u64, u32)>;

/// The block a sequence number lies in.
pub(crate) fn block_of(seq_no: u64) -> u64 {
    seq_no >> BLOCK_BITS
}

/// The sequence numbers of a block.
pub(crate) fn numbers_of(block: u64) -> std::ops::RangeInclusive<u64> {
    block << BLOCK_BITS..=((block + 1) << BLOCK_BITS) - 1
}

/// How many sequence numbers a block has.
pub(crate) const BLOCK: u64 = 1 << BLOCK_BITS;

/// The key of a sequence number, a block or a row of a book. Big-endian, so that neighbours are neighbours.
fn key_of(book: Book, number: u64) -> [u8; 8] {
    (u64::from(book.0) << SEQ_NO_BITS | number.min(SEQ_NO)).to_be_bytes()
}

/// The sequence number, block or row of such a key.
fn number_of(key: &[u8]) -> u64 {
    word(key) & SEQ_NO
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// Under what name a book is kept.
pub(crate) fn title(shard: &ShardKey, history: &History) -> String {
    format!(
        "{}\0{}\0{}\0{}",
        shard.index, shard.shard, history.index_uuid, history.history_uuid
    )
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be opened.
    #[error("cannot open the ledger {path:?}: {reason}; {remedy}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It is damaged.
    #[error(
        "the ledger {path:?} is damaged: {reason}; restore the folder from a copy, or move it away: the source is then \
         read again from the beginning, and what was deleted since the ledger was last whole stays at the target until \
         `syncline verify --delete-extra` removes it"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A write failed.
    #[error(
        "cannot write the ledger {path:?}: {reason}; free space there or correct its permissions, or run without it (--deletes off)"
    )]
    Write {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A write has failed in its last step: until it is opened anew, LMDB takes no other.
    #[error("the ledger {path:?} was being written when its disk failed, and is opened anew")]
    Broken {
        /// The folder.
        path: PathBuf,
    },
    /// More than it can number.
    #[error("the ledger {path:?} is full: {what}; move it away to begin another")]
    Full {
        /// The folder.
        path: PathBuf,
        /// Of what there is too much.
        what: &'static str,
    },
}
