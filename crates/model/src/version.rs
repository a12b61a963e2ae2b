//! The version under which a document is written into the target.
//!
//! Search engines take an external version from 0 to 2^63 - 1 and refuse a write whose version is
//! not above the one they hold, so that a repeated or late delivery changes nothing. The version is
//! the change's position in its source's history, with an epoch above it: when a history starts
//! again (an index was recreated, a database failed over), its positions start again too, and only
//! a higher epoch keeps the new writes above the old ones.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many bits of a version are the position. A PostgreSQL LSN needs 55 of them; 8 are left for
/// the epoch, and the sign bit stays clear.
const POSITION_BITS: u32 = 55;
const MAX_POSITION: u64 = (1 << POSITION_BITS) - 1;

/// Counts how often a source's history has started again: 0 to 255.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u8);

impl Epoch {
    /// The epoch of the history that follows this one.
    ///
    /// # Errors
    /// When all 256 epochs are used: the target index has to be built anew.
    pub fn next(self) -> Result<Epoch, VersionError> {
        self.0
            .checked_add(1)
            .map(Epoch)
            .ok_or(VersionError::EpochsExhausted)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A document's version at the target: epoch, then position. Always below 2^63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version(u64);

impl Version {
    /// The version of a change at `position` of the history numbered `epoch`.
    ///
    /// # Errors
    /// When the position needs more than 55 bits.
    pub fn new(epoch: Epoch, position: u64) -> Result<Version, VersionError> {
        if position > MAX_POSITION {
            return Err(VersionError::PositionTooLarge(position));
        }
        Ok(Version(u64::from(epoch.0) << POSITION_BITS | position))
    }

    /// The highest version of a history: above all of its changes, below all of the next history's.
    pub fn last_of(epoch: Epoch) -> Version {
        Version(u64::from(epoch.0) << POSITION_BITS | MAX_POSITION)
    }

    /// The history this version belongs to.
    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> POSITION_BITS) as u8)
    }

    /// The position within that history.
    pub fn position(self) -> u64 {
        self.0 & MAX_POSITION
    }

    /// The number that the target is given.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for Version {
    type Error = VersionError;

    fn try_from(value: u64) -> Result<Self, VersionError> {
        if value >> 63 != 0 {
            return Err(VersionError::TooLarge(value));
        }
        Ok(Version(value))
    }
}

impl From<Version> for u64 {
    fn from(version: Version) -> u64 {
        version.0
    }
}

/// Why a number is no version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VersionError {
    /// Search engines take versions below 2^63.
    #[error("version {0} is not below 2^63, the most a search engine accepts")]
    TooLarge(u64),
    /// The source counted further than a version can hold.
    #[error("position {0} needs more than {POSITION_BITS} bits and fits no version")]
    PositionTooLarge(u64),
    /// The source's history started again too often.
    #[error(
        "the source's history has started again 256 times and no version is left above the old ones; \
         sync into a new target index"
    )]
    EpochsExhausted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_version_gives_back_its_epoch_and_position(epoch: u8, position in 0..=MAX_POSITION) {
            let version = Version::new(Epoch(epoch), position).unwrap();
            prop_assert_eq!(version.epoch(), Epoch(epoch));
            prop_assert_eq!(version.position(), position);
            prop_assert_eq!(Version::try_from(version.get()), Ok(version));
        }

        #[test]
        fn any_change_of_a_later_epoch_is_above_every_change_of_an_earlier_one(
            epoch in 0u8..255, old in 0..=MAX_POSITION, new in 0..=MAX_POSITION,
        ) {
            let before = Version::new(Epoch(epoch), old).unwrap();
            let after = Version::new(Epoch(epoch).next().unwrap(), new).unwrap();
            prop_assert!(before < after);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(
            Version::new(Epoch(0), MAX_POSITION + 1),
            Err(VersionError::PositionTooLarge(MAX_POSITION + 1))
        );
        assert_eq!(
            Version::try_from(1 << 63),
            Err(VersionError::TooLarge(1 << 63))
        );
        assert_eq!(Epoch(255).next(), Err(VersionError::EpochsExhausted));
    }
}
