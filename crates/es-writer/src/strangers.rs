//! Versions at the target that no change of ours explains: somebody else wrote there.
//!
//! A write loses against a higher version. Nearly always that is a later change of the same document,
//! which was written before a restart and comes again in the log. So a conflict is only suspected,
//! until the log brings a change at least as new. If it has brought everything and none was, the
//! version is not ours: the document is not what the source says, and later changes may lose too.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use model::{Change, DocumentId, IndexName, Version};
use xxhash_rust::xxh3::Xxh3Builder;

/// How many conflicts are remembered; what is beyond is not judged.
const MOST: usize = 10_000;

/// A document that somebody else has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// Where.
    pub(crate) index: IndexName,
    /// Which.
    pub(crate) id: DocumentId,
    /// The version that was written and lost.
    pub(crate) ours: Version,
    /// The version that the target holds.
    pub(crate) held: u64,
}

/// Conflicts that wait for an explanation.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// How many there are: without any, a change costs nothing.
    waiting: AtomicUsize,
    suspects: Mutex<HashMap<u64, Stranger>>,
}

impl Strangers {
    /// A change has lost against a higher version.
    pub(crate) fn lost(&self, index: &IndexName, change: &Change, held: u64) {
        let mut suspects = self.lock();
        if suspects.len() >= MOST {
            return;
        }
        let stranger = Stranger {
            index: index.clone(),
            id: change.id.clone(),
            ours: change.version,
            held,
        };
        suspects.insert(key(index, change), stranger);
        self.waiting.store(suspects.len(), Ordering::Release);
    }

    /// A change has been written, or was there already.
    pub(crate) fn written(&self, index: &IndexName, change: &Change) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let (mut suspects, key) = (self.lock(), key(index, change));
        let explains = |suspect: &Stranger| change.version.get() >= suspect.held;
        if suspects.get(&key).is_some_and(explains) {
            suspects.remove(&key);
            self.waiting.store(suspects.len(), Ordering::Release);
        }
    }

    /// Everything that the log had is written: what is not explained by now never will be.
    pub(crate) fn caught_up(&self) -> Vec<Stranger> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut suspects = self.lock();
        self.waiting.store(0, Ordering::Release);
        suspects.drain().map(|(_, stranger)| stranger).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Stranger>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(index: &IndexName, change: &Change) -> u64 {
    let document = (
        index.as_str(),
        change.id.as_str(),
        change.routing.as_deref(),
    );
    Xxh3Builder::new().hash_one(document)
}

#[cfg(test)]
mod tests {
    use model::{Action, Epoch};

    use super::*;

    fn change(id: &str, position: u64) -> Change {
        Change {
            id: id.try_into().unwrap(),
            routing: None,
            version: Version::new(Epoch(0), position).unwrap(),
            over: false,
            action: Action::Delete,
        }
    }

    #[test]
    fn a_conflict_is_explained_by_a_later_change_and_by_nothing_else() {
        let (index, strangers) = (IndexName::try_from("movies").unwrap(), Strangers::default());
        for id in ["a", "b", "c"] {
            strangers.lost(&index, &change(id, 5), 9);
        }
        strangers.written(&index, &change("a", 9));
        strangers.written(&index, &change("b", 8));
        strangers.written(&index, &change("d", 100));
        let mut found: Vec<String> = strangers
            .caught_up()
            .into_iter()
            .map(|s| s.id.as_str().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, ["b", "c"]);
        assert_eq!(strangers.caught_up(), [], "each is said once");
    }
}
