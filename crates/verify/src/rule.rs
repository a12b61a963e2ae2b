//! What is compared of a document: its content, or the version that says which change it is.
//!
//! A target that Syncline writes holds every document under a version made of an epoch and the
//! source's `_seq_no` ([`Version`]). All shards of an index share an epoch, so all that is to be
//! known of the versions besides is which epochs there are.

use std::{fmt, str::FromStr};

use model::{Epoch, Version};
use search::Hit;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{DigestError, Side, digest::Digester};

/// What is compared of each document, besides its id and routing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Its content.
    #[default]
    Content,
    /// The source's `_seq_no` and the target's `_version`: whether its newest change has arrived.
    Version,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Content => "content",
            By::Version => "version",
        })
    }
}

impl FromStr for By {
    type Err = String;

    fn from_str(text: &str) -> Result<By, String> {
        match text {
            "content" => Ok(By::Content),
            "version" => Ok(By::Version),
            _ => Err("use content or version".to_owned()),
        }
    }
}

/// By what documents fall into buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// By their id, so that the same id under another routing is found in the same place.
    Id,
    /// By the position of their change, which can be read for a fifth of what ids cost.
    Position,
}

/// How a comparison takes its documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) by: By,
    /// By content: byte for byte. What is written alike is alike, and is found to be so in a tenth of the
    /// time; what is not may be still.
    pub(crate) as_written: bool,
    pub(crate) key: Key,
    /// The epoch that the target's versions have to have; any as long as it is not known.
    pub(crate) epoch: Option<Epoch>,
}

impl Rule {
    /// What a document is compared by on this side. Documents that are equal in the sense of the
    /// rule have the same.
    pub(crate) fn digest(
        self,
        side: Side,
        hit: &Hit,
        digester: &mut Digester,
    ) -> Result<u128, DigestError> {
        match self.by {
            By::Content if self.as_written => Ok(xxh3_128(&hit.source)),
            By::Content => digester.digest(&hit.source),
            By::Version => Ok(self
                .stamp(side, number(side, hit.seq_no, hit.version))
                .into()),
        }
    }

    /// A version as it is compared: the source's `number` is a `_seq_no`, the target's a `_version`.
    pub(crate) fn stamp(self, side: Side, number: u64) -> u64 {
        match (self.epoch, side) {
            (None, _) => position(number),
            (Some(_), Side::Target) => number,
            (Some(epoch), Side::Source) => version(epoch, number),
        }
    }
}

/// The number of a document that its version is made of on this side.
pub(crate) fn number(side: Side, seq_no: u64, version: u64) -> u64 {
    match side {
        Side::Source => seq_no,
        Side::Target => version,
    }
}

/// The position of a change in its source's history.
pub(crate) fn position(number: u64) -> u64 {
    Version::try_from(number).map_or(number, Version::position)
}

/// The version that a document has at the target in this epoch; a number too large for one, which no
/// server gives, equals nothing.
fn version(epoch: Epoch, seq_no: u64) -> u64 {
    Version::new(epoch, seq_no).map_or(u64::MAX, Version::get)
}

/// Which versions the target has.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    /// How many documents are in each epoch.
    epochs: [u64; 256],
    /// How many have each of the lowest versions.
    lowest: [u64; LOWEST],
}

/// Versions that a cluster gives by itself begin at 1 for each document; few are changed more often.
const LOWEST: usize = 64;

impl Default for Versions {
    fn default() -> Versions {
        Versions {
            epochs: [0; 256],
            lowest: [0; LOWEST],
        }
    }
}

impl Versions {
    pub(crate) fn add(&mut self, version: u64) {
        if let Ok(version) = Version::try_from(version) {
            self.epochs[usize::from(version.epoch().0)] += 1;
        }
        if let Some(count) = usize::try_from(version)
            .ok()
            .and_then(|v| self.lowest.get_mut(v))
        {
            *count += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Versions) {
        let add = |own: &mut [u64], other: &[u64]| {
            own.iter_mut()
                .zip(other)
                .for_each(|(own, other)| *own += other);
        };
        add(&mut self.epochs, &other.epochs);
        add(&mut self.lowest, &other.lowest);
    }

    /// The newest epoch, and whether there are others.
    pub(crate) fn newest(&self) -> Option<(Epoch, bool)> {
        let mut found = (0..=u8::MAX)
            .rev()
            .filter(|epoch| self.epochs[usize::from(*epoch)] > 0);
        let newest = found.next()?;
        Some((Epoch(newest), found.next().is_some()))
    }

    /// The epoch of most documents. What is repaired gets this one and not the newest: a single
    /// document that somebody wrote with a version of another sort could make that one any, and
    /// all changes to come would lie below what was repaired. Too low an epoch does no harm.
    pub(crate) fn usual(&self) -> Option<Epoch> {
        let epochs = (0..=u8::MAX).filter(|epoch| self.epochs[usize::from(*epoch)] > 0);
        epochs
            .max_by_key(|epoch| self.epochs[usize::from(*epoch)])
            .map(Epoch)
    }

    /// How many documents, of a majority, cannot have a version of ours: a shard of the source gives
    /// each number to one document, so no more than `shards` can have the same.
    pub(crate) fn foreign(&self, shards: u32) -> Option<u64> {
        let shared = self
            .lowest
            .iter()
            .map(|count| count.saturating_sub(shards.into()));
        let foreign: u64 = shared.sum();
        let documents: u64 = self.epochs.iter().sum();
        (foreign * 2 > documents).then_some(foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(all: impl IntoIterator<Item = u64>) -> Versions {
        let mut versions = Versions::default();
        all.into_iter().for_each(|version| versions.add(version));
        versions
    }

    fn of(epoch: u8, position: u64) -> u64 {
        version(Epoch(epoch), position)
    }

    #[test]
    fn an_epoch_that_is_not_known_is_any_and_a_known_one_has_to_be_right() {
        let rule = |epoch| Rule {
            by: By::Version,
            as_written: false,
            key: Key::Id,
            epoch,
        };
        for (epoch, target, equal) in [
            (None, of(2, 7), true),
            (None, of(2, 8), false),
            (Some(Epoch(2)), of(2, 7), true),
            (Some(Epoch(3)), of(2, 7), false),
            (Some(Epoch(2)), of(2, 8), false),
        ] {
            let stamps = (
                rule(epoch).stamp(Side::Source, 7),
                rule(epoch).stamp(Side::Target, target),
            );
            assert_eq!(stamps.0 == stamps.1, equal, "{epoch:?} {target}");
        }
    }

    #[test]
    fn the_newest_epoch_is_compared_with_and_that_of_most_is_repaired_with() {
        assert_eq!(versions([]).newest(), None);
        assert_eq!(
            versions([of(3, 1), of(3, 9)]).newest(),
            Some((Epoch(3), false))
        );
        let mixed = versions([of(1, 1), of(1, 9), of(40, 7)]);
        assert_eq!(mixed.newest(), Some((Epoch(40), true)));
        assert_eq!(
            (mixed.usual(), versions([]).usual()),
            (Some(Epoch(1)), None)
        );
    }

    #[test]
    fn versions_that_a_cluster_gave_itself_are_told_from_ours() {
        let ours = (0..500).chain(0..500);
        assert_eq!(versions(ours).foreign(2), None);
        assert_eq!(
            versions((0..1_000).map(|n| 1 + n % 3)).foreign(2),
            Some(994)
        );
        // A few that somebody wrote there by hand are no majority.
        assert_eq!(versions((0..500).chain([1; 100])).foreign(1), None);
        assert_eq!(versions([1]).foreign(1), None);
        assert_eq!(versions([]).foreign(1), None);
    }
}
