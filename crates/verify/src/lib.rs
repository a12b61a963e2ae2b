//! Compares indices of two clusters completely, in memory that does not grow with them.
//!
//! Equal means: the same documents by id and routing, each with an equal `_source` in the sense of
//! [`digest()`], or, by version, each written at the target for its newest change at the source
//! ([`By`]). Nothing is sampled, and neither a sort by `_id` nor a point in time is needed: both
//! sides are read whole, in whatever order their shards yield the documents: in that in which they
//! are stored where that is to be had (`scroll`), by sequence number otherwise.
//!
//! 1. Each document is added to one of 65,536 buckets, as a sum (`buckets`, `rule`). If all buckets
//!    are equal, so are the sides, and each was read once. By content the sum is of bytes: documents
//!    that are written differently and mean the same are found to be equal in what follows.
//! 2. Otherwise the buckets that differ are read again, divided further while they hold too much,
//!    and their documents are joined by id and routing (`suspect`).
//! 3. What differs then is looked at again by id, at once and after a while, because it may have
//!    been on its way (`look`); what stands still is different, the rest is still changing.
//! 4. If that is wanted, what is different is made equal (`repair`), and looked at once more.
//!
//! What is compared is what was there when the comparison began. A document that is written on both
//! sides while they are read may escape it: whoever needs proof for those stops writing, or compares
//! again.
//!
//! By version no document is read. A bucket is chosen by a document's position where that is enough
//! to tell documents apart, for then not even ids have to be read (`headers` of crate `search`): the
//! target's version *is* the source's `_seq_no`, each of which a shard gives once.

mod buckets;
mod collection;
mod compare;
mod diff;
pub mod digest;
mod error;
mod gather;
mod index;
mod lens;
mod look;
mod progress;
mod repair;
mod report;
mod rule;
mod scan;
mod scroll;
mod source;
mod suspect;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use futures::future::try_join;
use model::IndexName;
use search::Client;

pub use collection::{At, Collection, CollectionError, Record};
pub use digest::{DigestError, digest};
pub use error::VerifyError;
pub use lens::{Lens, Sight};
pub use progress::{Pass, Progress, Side};
pub use repair::Repair;
pub use report::{
    Changes, Difference, IndexReport, Key, Listing, Misrouted, Plan, Refused, Repaired, Report,
};
pub use rule::By;

use runtime::throttle::Throttle;

use crate::{
    collection::SideCollection, compare::Comparison, index::SideIndex, scroll::Scrolls,
    source::Source,
};

/// How to compare.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// What is compared of each document.
    pub by: By,
    /// Refresh both indices first. Without it only what is visible to searches is compared.
    pub refresh: bool,
    /// The most differences of each kind that are listed.
    pub limit: usize,
    /// For how many different documents a diff is made.
    pub diffs: usize,
    /// The most documents that are remembered at once while differences are looked for; each takes
    /// about 100 bytes.
    pub memory: usize,
    /// How many searches are in flight on each side; half as many scrolls, each a page ahead.
    pub readers: usize,
    /// The most documents that are read on each side in a second.
    pub max_rate: Option<NonZeroU64>,
    /// After how long what differs is looked at again: longer than a change is on its way.
    pub lag: Duration,
    /// What is done about differences.
    pub repair: Repair,
    /// From how many documents on an index is large: by version their positions are compared without
    /// their ids, by content they are read by scrolls.
    pub many: u64,
    /// What stands between the two sides; for a comparison by content.
    pub lens: Option<Arc<dyn Lens>>,
}

impl Default for VerifyOptions {
    fn default() -> VerifyOptions {
        VerifyOptions {
            by: By::Content,
            refresh: true,
            limit: 1_000,
            diffs: 3,
            memory: 200_000,
            readers: 4,
            max_rate: None,
            lag: Duration::from_secs(10),
            repair: Repair::No,
            many: 10_000,
            lens: None,
        }
    }
}

/// Compares indices of the source with indices of the target, one pair after the other.
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
    let mut indices = Vec::with_capacity(pairs.len());
    for (ours, theirs) in pairs {
        indices.push(verify_index(source, target, (ours, theirs), options, progress).await?);
    }
    Ok(Report { indices })
}

/// Compares an index of the source with one of the target.
///
/// An index that the target does not have counts as one without documents; where everything is to
/// be repaired, it is created like the source's.
///
/// # Errors
/// When they cannot be compared completely.
pub async fn verify_index(
    source: &Client,
    target: &Client,
    (ours, theirs): (&IndexName, &IndexName),
    options: &VerifyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<IndexReport, VerifyError> {
    let found = open(Side::Target, target, theirs, options, progress);
    let ours = open(Side::Source, source, ours, options, progress);
    let (ours, found) = try_join(ours, found).await?;
    compare(Source::Index(Arc::new(ours)), found, options, progress).await
}

/// Compares a collection of a source that is no search cluster with an index of the target, like
/// [`verify_index`] and by content.
///
/// # Errors
/// When they cannot be compared completely.
pub async fn verify_collection(
    source: Arc<dyn Collection>,
    target: &Client,
    (ours, theirs): (&IndexName, &IndexName),
    options: &VerifyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<IndexReport, VerifyError> {
    if options.by == By::Version {
        let index = ours.to_string();
        return Err(VerifyError::NoVersions { index });
    }
    let ours = SideCollection {
        name: ours.clone(),
        collection: source,
        readers: options.readers,
        throttle: Throttle::new(options.max_rate),
        lens: options.lens.clone(),
        progress: Arc::clone(progress),
    };
    let found = open(Side::Target, target, theirs, options, progress).await?;
    compare(Source::Collection(Arc::new(ours)), found, options, progress).await
}

/// What there is to read of an index of a cluster.
async fn open(
    side: Side,
    client: &Client,
    name: &IndexName,
    options: &VerifyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<SideIndex, VerifyError> {
    let index = SideIndex {
        side,
        client: client.clone(),
        name: name.clone(),
        parts: Vec::new(),
        exists: false,
        uuid: String::new(),
        shards: 0,
        documents: 0,
        readers: options.readers,
        refresh: options.refresh,
        throttle: Throttle::new(options.max_rate),
        lens: options.lens.clone().filter(|_| side == Side::Source),
        progress: Arc::clone(progress),
        scrolls: Scrolls::new(options),
    };
    index.open().await
}

async fn compare(
    ours: Source,
    mut found: SideIndex,
    options: &VerifyOptions,
    progress: &Arc<dyn Progress>,
) -> Result<IndexReport, VerifyError> {
    let create = !found.exists && options.repair == Repair::All;
    if create {
        repair::create(&ours, &found).await?;
        let (client, name) = (found.client.clone(), found.name.clone());
        found = open(Side::Target, &client, &name, options, progress).await?;
    }
    let comparison = Comparison::new(ours, found, options, progress.as_ref());
    let mut report = comparison.run().await?;
    report.repaired.created = create;
    Ok(report)
}
