//! Compares indices of two clusters completely, in memory that does not grow with them.
//!
//! Equal means: the same documents by id and routing, each with an equal `_source` in the sense of
//! [`digest()`]. Nothing is sampled, and neither a sort by `_id` nor a point in time is needed: both
//! sides are read whole by sequence number, in whatever order their shards yield the documents.
//!
//! 1. Each document is added to one of 65,536 buckets by its id, as a sum (`buckets`). If all
//!    buckets are equal, so are the sides, and each was read once.
//! 2. Otherwise the buckets that differ are read again, divided further while they hold too much,
//!    and their documents are joined by id and routing (`suspect`).
//! 3. What differs then is looked at again by id, because it may have been on its way (`look`).
//! 4. If that is wanted, what only the target has is deleted there (`repair`).
//!
//! What is compared is what was there when the comparison began. A document that is written on both
//! sides while they are read may escape it: whoever needs proof for those stops writing, or compares
//! again.

mod buckets;
mod compare;
mod diff;
pub mod digest;
mod error;
mod gather;
mod index;
mod look;
mod progress;
mod repair;
mod report;
mod scan;
mod suspect;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::try_join;
use model::IndexName;
use search::Client;

pub use digest::{DigestError, digest};
pub use error::VerifyError;
pub use progress::{Pass, Progress, Side};
pub use report::{Difference, IndexReport, Key, Listing, Misrouted, Report};

use crate::{compare::Comparison, index::SideIndex};

/// How to compare.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Refresh both indices first. Without it only what is visible to searches is compared.
    pub refresh: bool,
    /// The most differences of each kind that are listed.
    pub limit: usize,
    /// For how many different documents a diff is made.
    pub diffs: usize,
    /// The most documents that are remembered at once while differences are looked for; each takes
    /// about 100 bytes.
    pub memory: usize,
    /// How many searches are in flight on each side.
    pub readers: usize,
    /// Delete what only the target has.
    pub delete_extra: bool,
}

impl Default for VerifyOptions {
    fn default() -> VerifyOptions {
        VerifyOptions {
            refresh: true,
            limit: 1_000,
            diffs: 3,
            memory: 200_000,
            readers: 4,
            delete_extra: false,
        }
    }
}

/// Compares indices of the source with indices of the target, one pair after the other.
///
/// An index that the target does not have counts as one without documents.
///
/// # Errors
/// When a pair cannot be compared completely.
pub async fn verify(
    source: &Client,
    target: &Client,
    pairs: &[(IndexName, IndexName)],
    options: &VerifyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Report, VerifyError> {
    let open = |side, client: &Client, name: &IndexName| {
        let index = SideIndex {
            side,
            client: client.clone(),
            name: name.clone(),
            parts: Vec::new(),
            exists: false,
            documents: 0,
            readers: options.readers,
            refresh: options.refresh,
            progress: Arc::clone(progress),
        };
        index.open()
    };
    let mut indices = Vec::with_capacity(pairs.len());
    for (ours, theirs) in pairs {
        let ours = open(Side::Source, source, ours);
        let theirs = open(Side::Target, target, theirs);
        let (ours, theirs) = try_join(ours, theirs).await?;
        let comparison = Comparison::new(ours, theirs, options, progress.as_ref());
        indices.push(comparison.run().await?);
    }
    Ok(Report { indices })
}
