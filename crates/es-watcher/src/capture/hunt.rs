//! When to count a shard, and when a missing document may be called deleted. Pure.
//!
//! ```text
//! Resting ── due, or the shard has deleted something ──> count
//!    ^                                                     │ documents are missing
//!    │                                                     v
//!    └── look them up, publish what is gone <── ceiling ── Suspecting
//! ```
//!
//! A count may miss a document because it was deleted, or because it was changed after the global
//! checkpoint that was read. So the *ceiling* is taken: the highest number any operation had when
//! the count was over. Once the shard is read up to there, the ledger knows every change below it,
//! and every copy has it: a document that is still where the ledger says, and that nobody finds, was
//! deleted, and neither its last version nor the delete lies above the ceiling while every later
//! re-creation does. So the ceiling is the delete's version.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::cursor::{Copy, Standing};
use crate::ledger::Entry;

/// How many times the duration of a count is waited before the next: counting takes a fifth of the
/// time at most.
const REST: u32 = 4;

/// The search for deletes in one shard.
#[derive(Debug)]
pub(crate) struct Hunt {
    /// How often is counted without any reason.
    interval: Duration,
    due: Instant,
    not_before: Instant,
    /// What the shard said of its deletes when it was counted last.
    hint: Option<(Copy, u64)>,
    state: State,
    /// Whether everything was counted once, and nothing was left to look up.
    is_done: bool,
    /// Deletes that were handed on and may still be in the ledger.
    published: HashSet<Entry>,
}

#[derive(Debug)]
enum State {
    Resting,
    Suspecting {
        copy: Copy,
        since: Instant,
        ceiling: Option<i64>,
        suspects: Vec<Entry>,
    },
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Rest,
    Count,
    /// Look these up; what is gone was deleted, not above the ceiling.
    Ask {
        ceiling: u64,
        suspects: Vec<Entry>,
    },
}

impl Hunt {
    /// A hunt that begins with a count.
    pub(crate) fn new(now: Instant, interval: Duration) -> Hunt {
        Hunt {
            interval,
            due: now,
            not_before: now,
            hint: None,
            state: State::Resting,
            is_done: false,
            published: HashSet::new(),
        }
    }

    /// Whether the shard says that it has deleted nothing since it was counted last.
    pub(crate) fn is_quiet(&self, standing: &Standing) -> bool {
        let counted = self.hint.as_ref();
        counted
            .is_some_and(|(copy, deletes)| *copy == standing.copy && *deletes == standing.deletes)
    }

    /// Whether every delete that happened before the hunt began was found.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done && matches!(self.state, State::Resting)
    }

    /// What to do after a look, with everything up to `read` in the ledger.
    pub(crate) fn step(&mut self, now: Instant, standing: &Standing, read: i64) -> Step {
        match &mut self.state {
            // Numbers that the old primary had given may be given again.
            State::Suspecting { copy, .. } if *copy != standing.copy => {
                self.lost(now);
                Step::Rest
            }
            State::Suspecting {
                since,
                ceiling,
                suspects,
                ..
            } => {
                if ceiling.is_none() && standing.asked > *since {
                    *ceiling = Some(standing.max_seq_no);
                }
                match ceiling.and_then(|ceiling| u64::try_from(ceiling).ok()) {
                    Some(ceiling) if i64::try_from(ceiling).is_ok_and(|most| read >= most) => {
                        let suspects = std::mem::take(suspects);
                        self.state = State::Resting;
                        Step::Ask { ceiling, suspects }
                    }
                    _ => Step::Rest,
                }
            }
            State::Resting => {
                let hint = Some((standing.copy.clone(), standing.deletes));
                let hinted = hint != self.hint && now >= self.not_before;
                if read < standing.global_checkpoint || !(now >= self.due || hinted) {
                    return Step::Rest;
                }
                self.hint = hint;
                Step::Count
            }
        }
    }

    /// A count has taken `took` and misses `suspects`; `more` says that there are others.
    pub(crate) fn counted(
        &mut self,
        now: Instant,
        took: Duration,
        standing: &Standing,
        suspects: Vec<Entry>,
        more: bool,
    ) {
        self.not_before = now + took * REST;
        self.is_done |= !more;
        let pause = if more {
            took * REST
        } else {
            self.interval.max(took * REST)
        };
        self.due = now.checked_add(pause).unwrap_or(self.due);
        if !suspects.is_empty() {
            self.state = State::Suspecting {
                copy: standing.copy.clone(),
                since: now,
                ceiling: None,
                suspects,
            };
        }
    }

    /// Deletes were handed on.
    pub(crate) fn published(&mut self, gone: impl IntoIterator<Item = Entry>) {
        self.published.extend(gone);
    }

    /// Deletes that were handed on and are still under way.
    pub(crate) fn under_way(&mut self) -> &mut HashSet<Entry> {
        &mut self.published
    }

    /// What was counted says nothing any more: count again.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.state = State::Resting;
        self.due = now;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::DocumentId;
    use proptest::prelude::*;

    use super::*;

    /// A shard, the ledger of a watcher and the target, with a clock that events move.
    #[derive(Default)]
    struct World {
        /// Document -> its newest operation.
        alive: BTreeMap<u8, i64>,
        written: i64,
        /// What every copy has.
        checkpoint: i64,
        /// What a look-up sees: the slowest copy that has everything up to the checkpoint.
        copy: BTreeMap<u8, i64>,
        ledger: BTreeMap<u8, i64>,
        read: i64,
        /// One that keeps its tombstones, and one that has forgotten them.
        targets: [Target; 2],
        /// What is published, in order: document, version, whether it is there.
        log: Vec<(u8, i64, bool)>,
    }

    #[derive(Default)]
    struct Target {
        documents: BTreeMap<u8, i64>,
        tombstones: Option<BTreeMap<u8, i64>>,
    }

    impl Target {
        /// Strict for documents, not below for deletes.
        fn apply(&mut self, document: u8, version: i64, there: bool) {
            let tombstone = self.tombstones.as_ref().and_then(|t| t.get(&document));
            let held = self.documents.get(&document).max(tombstone).copied();
            if there && held.is_none_or(|held| version > held) {
                self.documents.insert(document, version);
            } else if !there && held.is_none_or(|held| version >= held) {
                self.documents.remove(&document);
                if let Some(tombstones) = &mut self.tombstones {
                    tombstones.insert(document, version);
                }
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Event {
        Write(u8),
        Delete(u8),
        Replicate,
        Look,
    }

    fn entry(document: u8, seq_no: i64) -> Entry {
        Entry {
            seq_no: seq_no as u64,
            id: DocumentId::try_from(document.to_string().as_str()).unwrap(),
            routing: None,
        }
    }

    impl World {
        fn standing(&self, asked: Instant) -> Standing {
            let copy = Copy {
                node: "n".into(),
                term: 1,
            };
            Standing {
                asked,
                copy,
                global_checkpoint: self.checkpoint,
                max_seq_no: self.written,
                refreshes: 0,
                deletes: 0,
            }
        }

        /// Reads the window up to the checkpoint.
        fn read(&mut self) {
            for (document, seq_no) in &self.alive {
                if *seq_no > self.read && *seq_no <= self.checkpoint {
                    self.ledger.insert(*document, *seq_no);
                    self.log.push((*document, *seq_no, true));
                }
            }
            self.read = self.checkpoint;
        }

        fn suspects(&self) -> Vec<Entry> {
            let missing = self
                .ledger
                .iter()
                .filter(|(document, seq_no)| self.alive.get(document) != Some(seq_no));
            missing
                .map(|(document, seq_no)| entry(*document, *seq_no))
                .collect()
        }

        fn ask(&mut self, ceiling: u64, suspects: Vec<Entry>) {
            for suspect in suspects {
                let document: u8 = suspect.id.as_str().parse().unwrap();
                let known = self.ledger.get(&document) == Some(&(suspect.seq_no as i64));
                if known && !self.copy.contains_key(&document) {
                    self.ledger.remove(&document);
                    self.log.push((document, ceiling as i64, false));
                }
            }
        }

        /// The targets take the log.
        fn apply(&mut self) {
            for (document, version, there) in self.log.drain(..) {
                for target in &mut self.targets {
                    target.apply(document, version, there);
                }
            }
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (0u8..6).prop_map(Event::Write),
            2 => (0u8..6).prop_map(Event::Delete),
            2 => Just(Event::Replicate),
            4 => Just(Event::Look),
        ];
        proptest::collection::vec(event, 0..120)
    }

    proptest! {
        /// Writes, deletes and re-creations fall between look, count, ceiling and look-up in every
        /// order; in the end, and whenever nothing moves, the target is what the source is.
        #[test]
        fn every_delete_arrives_and_none_beats_a_later_re_creation(events in events()) {
            let start = Instant::now();
            let mut world = World { written: -1, checkpoint: -1, read: -1, ..World::default() };
            world.targets[0].tombstones = Some(BTreeMap::new());
            let mut hunt = Hunt::new(start, Duration::ZERO);
            let quiet = std::iter::repeat_n([Event::Replicate, Event::Look], 6).flatten();
            for (tick, event) in events.into_iter().chain(quiet).enumerate() {
                let now = start + Duration::from_millis(10 * tick as u64);
                match event {
                    Event::Write(document) => {
                        world.written += 1;
                        world.alive.insert(document, world.written);
                    }
                    Event::Delete(document) => {
                        world.written += 1; // also where there is nothing to delete
                        world.alive.remove(&document);
                    }
                    Event::Replicate => {
                        world.checkpoint = world.written;
                        world.copy = world.alive.clone();
                    }
                    Event::Look => {
                        let standing = world.standing(now);
                        world.read();
                        match hunt.step(now, &standing, world.read) {
                            Step::Rest => {}
                            Step::Count => {
                                let suspects = world.suspects();
                                let took = Duration::from_millis(1);
                                hunt.counted(now + took, took, &standing, suspects, false);
                            }
                            Step::Ask { ceiling, suspects } => world.ask(ceiling, suspects),
                        }
                    }
                }
                world.apply();
                for (target, (document, version)) in
                    world.targets.iter().flat_map(|t| world.alive.iter().map(move |d| (t, d)))
                {
                    let held = target.documents.get(document);
                    prop_assert!(*version > world.read || held == Some(version),
                        "document {} is lost: {:?}", document, target.documents);
                }
            }
            for target in &world.targets {
                prop_assert_eq!(&target.documents, &world.alive);
            }
        }
    }

    #[test]
    fn a_hint_brings_a_count_forward_but_never_more_than_a_fifth_of_the_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut world = World::default();
        let mut hunt = Hunt::new(start, Duration::from_secs(60));
        let standing = world.standing(start);
        assert_eq!(hunt.step(start, &standing, 0), Step::Count);
        hunt.counted(
            at(10),
            Duration::from_millis(10),
            &standing,
            Vec::new(),
            false,
        );
        assert_eq!(hunt.step(at(20), &standing, 0), Step::Rest);
        world.written = 1;
        let mut hinted = world.standing(at(20));
        hinted.deletes = 1;
        assert_eq!(hunt.step(at(49), &hinted, 0), Step::Rest, "too early");
        assert_eq!(hunt.step(at(51), &hinted, 0), Step::Count);
        hunt.counted(
            at(102),
            Duration::from_millis(1),
            &hinted,
            Vec::new(),
            false,
        );
        assert_eq!(hunt.step(at(60_000), &hinted, 0), Step::Rest);
        assert_eq!(hunt.step(at(60_103), &hinted, 0), Step::Count, "due");
    }

    #[test]
    fn a_new_primary_ends_a_suspicion() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let world = World::default();
        let mut hunt = Hunt::new(start, Duration::from_secs(60));
        let standing = world.standing(start);
        hunt.step(start, &standing, 0);
        hunt.counted(at(1), Duration::ZERO, &standing, vec![entry(1, 0)], false);
        let mut moved = world.standing(at(2));
        moved.copy.term = 2;
        assert_eq!(hunt.step(at(2), &moved, 0), Step::Rest);
        assert_eq!(hunt.step(at(3), &moved, 0), Step::Count);
    }
}
