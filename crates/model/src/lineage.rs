//! Which source an index is filled from, and which epoch each of its histories was given.
//!
//! An epoch keeps the writes of a new history above those of the old ones, so it may not be lost:
//! a watcher that counted from 0 again would write below what the target holds, and nothing would
//! say so. So the lineage is kept in three places: with the checkpoints, in the log's bucket, and in
//! the target index itself. Whichever of them is lost, the others say how far the epochs are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Epoch, IndexName, VersionError};

/// How many histories are remembered; the oldest go first.
const MOST: usize = 300;

/// Where an index comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The source, as no other is called: [`source_of`].
    pub source: String,
    /// By history UUID.
    pub histories: BTreeMap<String, Generation>,
}

/// What an index of a cluster is called as a source.
pub fn source_of(cluster_uuid: &str, index: &IndexName) -> String {
    format!("{cluster_uuid}/{index}")
}

/// One history of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// The UUID of the index it belongs to.
    pub index: String,
    /// The shard's number.
    pub shard: u32,
    /// What its versions begin with.
    pub epoch: Epoch,
}

/// What a target makes of what a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// What the target has to remember.
    pub lineage: Lineage,
    /// Whether the source counts from an epoch that is too low: it has to be told.
    pub is_ahead: bool,
}

/// Two sources for one index.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it is filled from {known}, and this comes from {said}")]
pub struct AnotherSource {
    /// Which one fills it.
    pub known: String,
    /// Which other wants to.
    pub said: String,
}

impl Lineage {
    /// A lineage without any history.
    pub fn of(source: String) -> Lineage {
        Lineage {
            source,
            histories: BTreeMap::new(),
        }
    }

    /// The epoch of a history that is known.
    pub fn epoch_of(&self, history: &str) -> Option<Epoch> {
        self.histories.get(history).map(|known| known.epoch)
    }

    /// The epoch of a history of a shard of an index: its own, or for a new one an epoch above every
    /// history that it follows. The shards of one index share an epoch.
    ///
    /// # Errors
    /// When all epochs are used.
    pub fn epoch_for(&self, history: &str, index: &str, shard: u32) -> Result<Epoch, VersionError> {
        if let Some(epoch) = self.epoch_of(history) {
            return Ok(epoch);
        }
        match self.newest() {
            None => Ok(Epoch(0)),
            Some(newest) if self.may_share(newest, index, shard) => Ok(newest),
            Some(newest) => newest.next(),
        }
    }

    /// Gives a history that is known an epoch above all: its numbers begin again.
    ///
    /// # Errors
    /// When all epochs are used.
    pub fn renew(&mut self, history: &str) -> Result<(), VersionError> {
        let next = self.newest().unwrap_or_default().next()?;
        if let Some(known) = self.histories.get_mut(history) {
            known.epoch = next;
        }
        Ok(())
    }

    /// Adds what another place knows; of two epochs the higher one counts.
    pub fn merge(&mut self, other: &Lineage) {
        for (history, found) in &other.histories {
            let known = self
                .histories
                .entry(history.clone())
                .or_insert_with(|| found.clone());
            known.epoch = known.epoch.max(found.epoch);
        }
        while self.histories.len() > MOST {
            let oldest = self.histories.iter().min_by_key(|(_, known)| known.epoch);
            let Some(oldest) = oldest.map(|(history, _)| history.clone()) else {
                return;
            };
            self.histories.remove(&oldest);
        }
    }

    /// What a target with this lineage makes of a source's. A history that the source has given a
    /// lower epoch than the target knows, or none above its predecessors, gets the right one.
    ///
    /// # Errors
    /// When the index is filled from another source, or all epochs are used (as `None`).
    pub fn join(&self, said: &Lineage) -> Result<Joined, JoinError> {
        let Some(newest) = self.newest() else {
            return Ok(Joined {
                lineage: said.clone(),
                is_ahead: false,
            });
        };
        if self.source != said.source {
            return Err(JoinError::AnotherSource(AnotherSource {
                known: self.source.clone(),
                said: said.source.clone(),
            }));
        }
        let above = said.newest().unwrap_or_default().max(newest);
        let mut joined = Joined {
            lineage: self.clone(),
            is_ahead: false,
        };
        let mut new = Lineage::of(said.source.clone());
        for (history, found) in &said.histories {
            let mut found = found.clone();
            let right = match self.epoch_of(history) {
                Some(known) => known.max(found.epoch),
                None if found.epoch > newest => found.epoch,
                None if found.epoch == newest
                    && self.may_share(newest, &found.index, found.shard) =>
                {
                    newest
                }
                None => above.next()?,
            };
            joined.is_ahead |= right > found.epoch;
            found.epoch = right;
            new.histories.insert(history.clone(), found);
        }
        joined.lineage.merge(&new);
        Ok(joined)
    }

    fn newest(&self) -> Option<Epoch> {
        self.histories.values().map(|known| known.epoch).max()
    }

    /// Whether a new history of a shard may have the newest epoch: only histories of the same index have
    /// it, and none of them is of that shard. Then every history before it has an epoch below.
    fn may_share(&self, newest: Epoch, index: &str, shard: u32) -> bool {
        let mut of_newest = self
            .histories
            .values()
            .filter(|known| known.epoch == newest);
        of_newest.all(|known| known.index == index && known.shard != shard)
    }
}

/// Why a lineage does not go with a target's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// The index has another source.
    #[error(transparent)]
    AnotherSource(#[from] AnotherSource),
    /// No epoch is left.
    #[error(transparent)]
    Epoch(#[from] VersionError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a source would say that knows `known` and has these histories of the index: (uuid, shard,
    /// index).
    fn said(known: &Lineage, histories: &[(&str, u32, &str)]) -> Lineage {
        let (mut all, mut said) = (known.clone(), Lineage::of("c/movies".into()));
        for (history, shard, index) in histories {
            let generation = Generation {
                index: (*index).into(),
                shard: *shard,
                epoch: all.epoch_for(history, index, *shard).unwrap(),
            };
            let mut one = Lineage::of("c/movies".into());
            one.histories.insert((*history).into(), generation);
            all.merge(&one);
            said.merge(&one);
        }
        said
    }

    fn nothing() -> Lineage {
        Lineage::of("c/movies".into())
    }

    fn epochs(lineage: &Lineage) -> Vec<(&str, u8)> {
        let epochs = lineage.histories.iter();
        epochs
            .map(|(history, known)| (history.as_str(), known.epoch.0))
            .collect()
    }

    #[test]
    fn a_recreated_index_and_a_forced_shard_get_epochs_above_all() {
        let first = said(&nothing(), &[("h0", 0, "a"), ("h1", 1, "a")]);
        assert_eq!(epochs(&first), [("h0", 0), ("h1", 0)]);
        let forced = said(&first, &[("h0", 0, "a"), ("h2", 1, "a")]);
        assert_eq!(epochs(&forced), [("h0", 0), ("h2", 1)]);
        let recreated = said(&first, &[("i0", 0, "b"), ("i1", 1, "b"), ("i2", 2, "b")]);
        assert_eq!(epochs(&recreated), [("i0", 1), ("i1", 1), ("i2", 1)]);
    }

    #[test]
    fn a_source_that_has_forgotten_its_epochs_is_told() {
        let mut target = said(&nothing(), &[("h0", 0, "a")]);
        target.merge(&said(&target, &[("i0", 0, "b")]));
        // Checkpoints and bucket are lost, the index is as it was.
        let anew = said(&nothing(), &[("i0", 0, "b")]);
        let joined = target.join(&anew).unwrap();
        assert!(joined.is_ahead);
        assert_eq!(joined.lineage.epoch_of("i0"), Some(Epoch(1)));
        // And it was created a third time meanwhile.
        let anew = said(&nothing(), &[("j0", 0, "c")]);
        let joined = target.join(&anew).unwrap();
        assert!(joined.is_ahead);
        assert_eq!(joined.lineage.epoch_of("j0"), Some(Epoch(2)));
        // A snapshot was restored over it: the same index, another history.
        let anew = said(&nothing(), &[("k0", 0, "a")]);
        let target = said(&nothing(), &[("h0", 0, "a")]);
        let joined = target.join(&anew).unwrap();
        assert!(joined.is_ahead);
        assert_eq!(joined.lineage.epoch_of("k0"), Some(Epoch(1)));
    }

    #[test]
    fn a_history_that_begins_again_gets_an_epoch_above_all_and_the_target_follows() {
        let target = said(
            &nothing(),
            &[("h0", 0, "a"), ("h1", 1, "a"), ("h2", 0, "a")],
        );
        assert_eq!(epochs(&target), [("h0", 0), ("h1", 0), ("h2", 1)]);
        let mut source = target.clone();
        source.renew("h1").unwrap();
        assert_eq!(epochs(&source), [("h0", 0), ("h1", 2), ("h2", 1)]);
        let joined = target.join(&source).unwrap();
        assert!(!joined.is_ahead);
        assert_eq!(joined.lineage, source);
        // One that has forgotten it is told.
        let anew = said(&nothing(), &[("h1", 1, "a")]);
        assert!(joined.lineage.join(&anew).unwrap().is_ahead);
    }

    #[test]
    fn a_second_source_is_refused() {
        let target = said(&nothing(), &[("h0", 0, "a")]);
        let mut other = said(&nothing(), &[("x0", 0, "x")]);
        other.source = "d/movies".into();
        assert!(matches!(
            target.join(&other),
            Err(JoinError::AnotherSource(_))
        ));
    }

    proptest! {
        /// Whatever of its memory a source loses between two histories, the target brings it above
        /// everything it holds, and no epoch ever falls.
        #[test]
        fn no_new_history_ends_below_what_the_target_holds(
            steps in prop::collection::vec((0u8..3, 0u32..2, any::<bool>()), 1..20),
        ) {
            let (mut target, mut source) = (nothing(), nothing());
            let (mut index, mut shards) = (0, [0, 0]);
            for (number, (what, shard, forgets)) in steps.into_iter().enumerate() {
                match what {
                    0 => {} // a restart
                    1 => shards[shard as usize] = number + 1,
                    _ => (index, shards) = (index + 1, [100 * (number + 1), 100 * (number + 1) + 1]),
                }
                if forgets {
                    source = nothing();
                }
                let uuid = index.to_string();
                let names: Vec<String> = shards.iter().enumerate().map(|(s, h)| format!("{s}-{h}")).collect();
                let histories: Vec<(&str, u32, &str)> =
                    names.iter().enumerate().map(|(s, name)| (name.as_str(), s as u32, uuid.as_str())).collect();
                let before = target.clone();
                let mut says = said(&source, &histories);
                let joined = target.join(&says).unwrap();
                if joined.is_ahead {
                    // It is told, and says it anew.
                    source.merge(&joined.lineage);
                    says = said(&source, &histories);
                }
                let again = joined.lineage.join(&says).unwrap();
                prop_assert!(!again.is_ahead, "{before:?} {says:?}");
                target = again.lineage;
                source.merge(&says);
                for (history, known) in &before.histories {
                    prop_assert!(target.histories[history].epoch >= known.epoch);
                }
                for (name, shard, _) in &histories {
                    let own = target.histories[*name].epoch;
                    let replaced = before.histories.iter().filter(|(other, known)| {
                        other != name && (known.index != uuid || known.shard == *shard)
                    });
                    for (other, known) in replaced {
                        // What came after it is not replaced by it.
                        let is_current = names.contains(other);
                        prop_assert!(is_current || own > known.epoch || before.histories.contains_key(*name),
                            "{name} {own} is not above {other} {known:?}");
                    }
                }
            }
        }
    }
}
