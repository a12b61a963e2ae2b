//! The first, bounded half of the comparison: documents become sums in buckets, and only buckets
//! whose sums differ have to be looked into.
//!
//! A document falls into a bucket by the hash of its key: its id, or the position of its change (see
//! `rule`). A bucket keeps how many documents it has and the sum of a hash of each one's key, place
//! and digest: it does not depend on the order in which they come, so the shards of both sides may
//! be cut and read in any way. Equal sums of different documents would need a collision of 128
//! bits.
//!
//! Where the documents of the differing buckets are still too many to be held, those buckets are
//! divided again by other bits of the key's hash: that is a [`Filter`] with one more level.

use xxhash_rust::xxh3::xxh3_128;

/// How many buckets there are.
const BUCKETS: usize = 1 << BITS;
const BITS: usize = 16;
/// How often buckets can be divided: each level takes other bits of a hash of 128.
pub(crate) const LEVELS: usize = 4;

/// Which documents a pass is about: those whose buckets are chosen on every level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    levels: Vec<Box<[bool]>>,
}

impl Filter {
    /// How often buckets were divided.
    pub(crate) fn level(&self) -> usize {
        self.levels.len()
    }

    /// The documents of these buckets among those of the filter.
    pub(crate) fn within(&self, buckets: impl IntoIterator<Item = usize>) -> Filter {
        let mut chosen = vec![false; BUCKETS].into_boxed_slice();
        for bucket in buckets {
            chosen[bucket] = true;
        }
        let mut levels = self.levels.clone();
        levels.push(chosen);
        Filter { levels }
    }

    /// Whether the documents whose key has this hash are meant.
    pub(crate) fn accept(&self, hash: u128) -> bool {
        let mut levels = self.levels.iter().enumerate();
        levels.all(|(level, chosen)| chosen[bucket(hash, level)])
    }
}

fn bucket(hash: u128, level: usize) -> usize {
    (hash >> (level * BITS)) as usize % BUCKETS
}

/// The buckets of one side, or of a part of one: of each a sum and how many documents it holds, in
/// columns, because a pair of both would be padded by half.
#[derive(Debug)]
pub(crate) struct Buckets {
    level: usize,
    sums: Box<[u128]>,
    documents: Box<[u64]>,
}

impl Buckets {
    pub(crate) fn new(level: usize) -> Buckets {
        Buckets {
            level,
            sums: vec![0; BUCKETS].into_boxed_slice(),
            documents: vec![0; BUCKETS].into_boxed_slice(),
        }
    }

    /// Adds a document with the hash of its key.
    pub(crate) fn add(&mut self, hash: u128, place: u128, digest: u128) {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&hash.to_le_bytes());
        bytes[16..32].copy_from_slice(&place.to_le_bytes());
        bytes[32..].copy_from_slice(&digest.to_le_bytes());
        let bucket = bucket(hash, self.level);
        self.sums[bucket] = self.sums[bucket].wrapping_add(xxh3_128(&bytes));
        self.documents[bucket] += 1;
    }

    /// Adds the documents of another part.
    pub(crate) fn merge(&mut self, other: &Buckets) {
        for (own, other) in self.sums.iter_mut().zip(&other.sums) {
            *own = own.wrapping_add(*other);
        }
        for (own, other) in self.documents.iter_mut().zip(&other.documents) {
            *own += other;
        }
    }

    /// How many buckets hold documents on one of the sides.
    pub(crate) fn occupied(&self, target: &Buckets) -> usize {
        let both = self.documents.iter().zip(&target.documents);
        both.filter(|(source, target)| **source + **target > 0)
            .count()
    }

    /// The buckets that do not hold the same documents.
    pub(crate) fn differing(&self, target: &Buckets) -> Vec<Differing> {
        let differs = |bucket: &usize| {
            let same_sum = self.sums[*bucket] == target.sums[*bucket];
            !same_sum || self.documents[*bucket] != target.documents[*bucket]
        };
        let differing = (0..BUCKETS).filter(differs);
        differing
            .map(|bucket| Differing {
                bucket,
                source: self.documents[bucket],
                target: target.documents[bucket],
            })
            .collect()
    }
}

/// A bucket that holds other documents at the source than at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Differing {
    pub(crate) bucket: usize,
    /// How many documents the source has there.
    pub(crate) source: u64,
    /// How many documents the target has there.
    pub(crate) target: u64,
}

impl Differing {
    /// How many documents have to be held to look into it.
    pub(crate) fn documents(&self) -> usize {
        usize::try_from(self.source + self.target).unwrap_or(usize::MAX)
    }
}

/// Whether documents that are too many to be held may differ only in how they are written: most buckets
/// have as many on both sides.
pub(crate) fn are_rewritten(differing: &[Differing], memory: usize) -> bool {
    let same = |bucket: &&Differing| bucket.source == bucket.target;
    let alike = differing.iter().filter(same).count();
    alike * 2 > differing.len() && fit(differing, memory) < differing.len()
}

/// How many of the buckets, from the first, can be looked into when `memory` documents can be held;
/// one at least.
pub(crate) fn fit(differing: &[Differing], memory: usize) -> usize {
    let mut held = 0usize;
    let fit = differing.iter().take_while(|bucket| {
        held = held.saturating_add(bucket.documents());
        held <= memory
    });
    fit.count().max(1).min(differing.len())
}

/// Whether buckets that were divided `level` times should be divided again: their documents are too
/// many to be held. Where most buckets differ, so may most documents, and dividing would leave none
/// out.
pub(crate) fn divide(differing: &[Differing], level: usize, memory: usize) -> bool {
    level + 1 < LEVELS && differing.len() <= BUCKETS / 2 && fit(differing, memory) < differing.len()
}
