//! Versions at the target that no change of ours explains: somebody else wrote there.
//!
//! A write loses against a higher version. Nearly always that is a later change of the same document, which
//! was written before a restart and comes again in the log. So a conflict is only suspected, until the log
//! brings a change at least as new. The version is not ours if the document's shard has come past it and
//! the change was not among what it brought. A shard that has not come so far may yet: its watcher may
//! have died in the middle of a repetition. That is waited for, and not for ever: a version far above
//! everything of the source is the worst, because later changes lose against it too.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Batch, Change, DocumentId, IndexName, Version};
use xxhash_rust::xxh3::Xxh3Builder;

/// How many conflicts are remembered; what is beyond is not judged.
const MOST: usize = 10_000;
/// How long a shard has to come past a version. A watcher is back before, or its absence is known.
const PATIENCE: Duration = Duration::from_secs(60);

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

#[derive(Debug)]
struct Suspect {
    stranger: Stranger,
    since: Instant,
    /// Where the change came from.
    partition: Arc<str>,
}

/// Conflicts that wait for an explanation.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// How many there are: without any, a change costs nothing.
    waiting: AtomicUsize,
    suspects: Mutex<Suspects>,
}

#[derive(Debug, Default)]
struct Suspects {
    by_document: HashMap<u64, Suspect>,
    /// Up to where each of their partitions has come since.
    newest: HashMap<Arc<str>, Version>,
}

impl Strangers {
    /// A change has lost against a higher version.
    pub(crate) fn lost(&self, batch: &Batch, change: &Change, held: u64) {
        // The last word of a history that another has followed loses against that one, as it should.
        if change.version == Version::last_of(change.version.epoch()) {
            return;
        }
        let mut suspects = self.lock();
        if suspects.by_document.len() >= MOST {
            return;
        }
        let suspect = Suspect {
            stranger: Stranger {
                index: batch.index.clone(),
                id: change.id.clone(),
                ours: change.version,
                held,
            },
            since: Instant::now(),
            partition: Arc::clone(&batch.origin.partition),
        };
        let partition = Arc::clone(&suspect.partition);
        suspects.newest.entry(partition).or_insert(change.version);
        suspects
            .by_document
            .insert(key(&batch.index, change), suspect);
        let waiting = suspects.by_document.len();
        self.waiting.store(waiting, Ordering::Release);
    }

    /// A change has been answered for.
    pub(crate) fn settled(&self, batch: &Batch, change: &Change) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let (mut suspects, key) = (self.lock(), key(&batch.index, change));
        if let Some(newest) = suspects.newest.get_mut(&batch.origin.partition) {
            *newest = change.version.max(*newest);
        }
        let explains = |suspect: &Suspect| change.version.get() >= suspect.stranger.held;
        if suspects.by_document.get(&key).is_some_and(explains) {
            suspects.by_document.remove(&key);
            self.tidy(&mut suspects);
        }
    }

    /// Everything that the log had is written. Returns what will not be explained any more.
    pub(crate) fn caught_up(&self, now: Instant) -> Vec<Stranger> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut suspects = self.lock();
        let Suspects {
            by_document,
            newest,
        } = &mut *suspects;
        let is_judged = |_: &u64, suspect: &mut Suspect| {
            let newest = newest.get(&suspect.partition);
            newest.is_some_and(|newest| newest.get() > suspect.stranger.held)
                || now.saturating_duration_since(suspect.since) >= PATIENCE
        };
        let judged = by_document.extract_if(is_judged);
        let strangers = judged.map(|(_, suspect)| suspect.stranger).collect();
        self.tidy(&mut suspects);
        strangers
    }

    fn tidy(&self, suspects: &mut Suspects) {
        if suspects.by_document.is_empty() {
            suspects.newest.clear();
        }
        let waiting = suspects.by_document.len();
        self.waiting.store(waiting, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Suspects> {
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
    use model::{Action, Content, Epoch, Origin};

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

    fn batch(partition: &str) -> Batch {
        Batch {
            index: IndexName::try_from("movies").unwrap(),
            origin: Origin::now(partition.into()),
            content: Content::Changes(Vec::new()),
        }
    }

    fn found(strangers: &Strangers, now: Instant) -> Vec<String> {
        let judged = strangers.caught_up(now).into_iter();
        let mut found: Vec<String> = judged.map(|s| s.id.as_str().to_owned()).collect();
        found.sort();
        found
    }

    #[test]
    fn a_conflict_is_explained_by_a_later_change_and_by_nothing_else() {
        let (shard, strangers) = (batch("0"), Strangers::default());
        for id in ["a", "b", "c"] {
            strangers.lost(&shard, &change(id, 5), 9);
        }
        strangers.settled(&shard, &change("a", 9));
        strangers.settled(&shard, &change("b", 8));
        strangers.settled(&shard, &change("d", 100));
        assert_eq!(found(&strangers, Instant::now()), ["b", "c"]);
        assert!(
            found(&strangers, Instant::now()).is_empty(),
            "each is said once"
        );
    }

    #[test]
    fn a_shard_that_has_not_come_so_far_is_waited_for_and_not_for_ever() {
        let (shard, strangers) = (batch("0"), Strangers::default());
        let now = Instant::now();
        strangers.lost(&shard, &change("a", 5), 9);
        strangers.settled(&shard, &change("b", 8));
        strangers.settled(&batch("1"), &change("c", 100));
        assert!(found(&strangers, now).is_empty());
        // The watcher is back, and goes on where it had died.
        strangers.settled(&shard, &change("a", 9));
        strangers.settled(&shard, &change("b", 12));
        assert!(found(&strangers, now + 2 * PATIENCE).is_empty());

        strangers.lost(&shard, &change("a", 13), 1_000_000);
        assert!(found(&strangers, now).is_empty());
        assert_eq!(found(&strangers, now + 2 * PATIENCE), ["a"]);
    }

    #[test]
    fn the_last_word_of_an_earlier_history_accuses_nobody() {
        let strangers = Strangers::default();
        let mut last = change("a", 5);
        last.version = Version::last_of(Epoch(0));
        strangers.lost(&batch("0"), &last, Version::new(Epoch(1), 3).unwrap().get());
        assert!(found(&strangers, Instant::now() + 2 * PATIENCE).is_empty());
    }
}
