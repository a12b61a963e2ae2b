//! How many documents stand in a block of numbers.

use std::collections::HashMap;

use super::{Book, block_of, word};

/// What a block of numbers holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Documents that stand there.
    pub(super) alive: u32,
    /// Values in its rows; those of documents that have moved away among them.
    pub(super) stored: u32,
}

impl Block {
    pub(super) fn from_bytes(bytes: &[u8]) -> Block {
        let both = word(bytes);
        Block {
            alive: (both >> 32) as u32,
            stored: both as u32,
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.alive) << 32 | u64::from(self.stored)).to_be_bytes()
    }

    pub(super) fn changed_by(self, delta: Delta) -> Block {
        Block {
            alive: self.alive.saturating_add_signed(delta.alive),
            stored: self.stored.saturating_add_signed(delta.stored),
        }
    }
}

/// How a block changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) alive: i32,
    pub(super) stored: i32,
}

/// How blocks change.
#[derive(Debug, Default)]
pub(super) struct Deltas(pub(super) HashMap<(Book, u64), Delta>);

impl Deltas {
    pub(super) fn of(&mut self, book: Book, seq_no: u64) -> &mut Delta {
        self.0.entry((book, block_of(seq_no))).or_default()
    }

    pub(super) fn add(&mut self, other: &Deltas) {
        self.0.extend(&other.0);
    }
}
