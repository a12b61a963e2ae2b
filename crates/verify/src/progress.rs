//! What a comparison says while it runs.

use std::fmt;

use model::IndexName;

/// One of the two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that is right.
    Source,
    /// The one that is to be equal to it.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// Why both sides of an index are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// To find out whether they are equal; the only pass when they are.
    Compare,
    /// To narrow down where they differ.
    Narrow,
    /// To find the documents that differ.
    Find,
}

/// Is told how a comparison goes on. Its methods are called from several tasks and must not block.
pub trait Progress: Send + Sync {
    /// Both sides of an index (by the source's name) begin to be read; they have about so many
    /// documents together.
    fn begin(&self, index: &IndexName, pass: Pass, documents: u64) {
        let _ = (index, pass, documents);
    }

    /// More documents were read, with so many bytes of answers. A part that has to be read again is
    /// counted again.
    fn advance(&self, side: Side, documents: u64, bytes: u64) {
        let _ = (side, documents, bytes);
    }
}

/// Nobody is told.
impl Progress for () {}
