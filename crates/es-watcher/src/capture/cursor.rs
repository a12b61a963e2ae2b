//! How far a shard has been read, and how much of that may be believed. Pure.
//!
//! A round reads up to the shard's global checkpoint G from the copy that was the primary when G was
//! read. If the primary moves during the round, the copy may have answered from the past: it may
//! have left and come back without the refresh this round relies on. So what was read counts as
//! *certain* only once a later look at the shard shows the same copy still in office; else the
//! cursor goes back and reads again. Reading twice is harmless, because versions make the second
//! write a no-op; moving the checkpoint too far would lose changes without a word.

use std::{collections::VecDeque, time::Instant};

use search::ShardStats;

/// What one look at a shard showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// When the look began.
    pub(crate) asked: Instant,
    /// Which copy is the primary.
    pub(crate) copy: Copy,
    /// The global checkpoint: everything up to here is on every copy and will not be rolled back.
    pub(crate) global_checkpoint: i64,
    /// The highest number given to an operation.
    pub(crate) max_seq_no: i64,
    /// How often the primary has refreshed.
    pub(crate) refreshes: u64,
    /// How many deletes it says it has carried out: a hint.
    pub(crate) deletes: u64,
}

impl Standing {
    /// What a look that began at `asked` says of a shard.
    pub(crate) fn new(asked: Instant, stats: &ShardStats) -> Standing {
        Standing {
            asked,
            copy: Copy {
                node: stats.node.clone(),
                term: stats.primary_term,
            },
            global_checkpoint: stats.global_checkpoint,
            max_seq_no: stats.max_seq_no,
            refreshes: stats.refreshes,
            deletes: stats.deletes,
        }
    }
}

/// A copy of a shard in its term of office. Nodes keep their id over a restart; the term is then
/// another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) node: String,
    pub(crate) term: u64,
}

/// The sequence numbers to read: above `after`, up to and including `upto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) after: i64,
    pub(crate) upto: i64,
}

/// A shard's reading position.
#[derive(Debug)]
pub(crate) struct Cursor {
    certain: i64,
    /// What was read above `certain` and from which copy: when each page was complete, and how far
    /// it reached.
    pages: VecDeque<(Instant, i64)>,
    copy: Option<Copy>,
    /// How often the copy had refreshed: it starts from nothing when the shard does.
    refreshes: u64,
}

impl Cursor {
    /// A cursor behind `checkpoint`; -1 is the beginning of the history.
    pub(crate) fn new(checkpoint: i64) -> Cursor {
        Cursor {
            certain: checkpoint,
            pages: VecDeque::new(),
            copy: None,
            refreshes: 0,
        }
    }

    /// Up to where nothing will have to be read again.
    pub(crate) fn certain(&self) -> i64 {
        self.certain
    }

    /// Up to where it was read.
    pub(crate) fn read(&self) -> i64 {
        self.pages.back().map_or(self.certain, |(_, upto)| *upto)
    }

    /// Learns where the shard stands. Pages that were complete before the look began become certain
    /// if the copy they came from is still the primary and has not started anew; otherwise all that is
    /// not certain is thrown away, and false is returned.
    pub(crate) fn look(&mut self, standing: &Standing) -> bool {
        let same = self.copy.as_ref().is_none_or(|copy| *copy == standing.copy)
            && self.refreshes <= standing.refreshes;
        if same {
            while let Some((_, upto)) = self
                .pages
                .pop_front_if(|(complete, _)| *complete < standing.asked)
            {
                self.certain = upto;
            }
        } else {
            self.pages.clear();
        }
        self.copy = Some(standing.copy.clone());
        self.refreshes = standing.refreshes;
        same
    }

    /// Whether the shard has fewer operations than were read of it. Every copy had those, so none can
    /// have lost them but by going back as a whole: the disk of a single copy was restored. What is
    /// written next gets numbers that were read before.
    pub(crate) fn was_taken_back(&self, standing: &Standing) -> bool {
        standing.max_seq_no < self.read()
    }

    /// What there is to read.
    pub(crate) fn missing(&self, standing: &Standing) -> Option<Range> {
        let range = Range {
            after: self.read(),
            upto: standing.global_checkpoint,
        };
        (range.upto > range.after).then_some(range)
    }

    /// Notes a page that is complete up to `upto`.
    pub(crate) fn advance(&mut self, complete: Instant, upto: i64) {
        self.pages.push_back((complete, upto));
    }

    /// Throws away what is not certain: the copy it came from is gone.
    pub(crate) fn rewind(&mut self) {
        self.pages.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn standing(asked: Instant, term: u64, global_checkpoint: i64) -> Standing {
        let copy = Copy {
            node: "n".into(),
            term,
        };
        Standing {
            asked,
            copy,
            global_checkpoint,
            max_seq_no: global_checkpoint,
            refreshes: 0,
            deletes: 0,
        }
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_page_becomes_certain_with_a_later_look_at_the_same_copy() {
        let start = Instant::now();
        let mut cursor = Cursor::new(-1);
        assert!(cursor.look(&standing(start, 1, 9)));
        assert_eq!(
            cursor.missing(&standing(start, 1, 9)),
            Some(Range { after: -1, upto: 9 })
        );
        cursor.advance(at(start, 10), 9);
        assert_eq!((cursor.certain(), cursor.read()), (-1, 9));
        cursor.look(&standing(at(start, 5), 1, 9));
        assert_eq!(
            cursor.certain(),
            -1,
            "the look began before the page was complete"
        );
        cursor.look(&standing(at(start, 11), 1, 9));
        assert_eq!(
            (cursor.certain(), cursor.missing(&standing(start, 1, 9))),
            (9, None)
        );
    }

    #[test]
    fn what_was_read_from_a_deposed_primary_is_read_again() {
        let start = Instant::now();
        let mut cursor = Cursor::new(3);
        cursor.look(&standing(start, 1, 9));
        cursor.advance(at(start, 1), 9);
        let after_failover = standing(at(start, 2), 2, 12);
        assert!(!cursor.look(&after_failover));
        assert_eq!(cursor.certain(), 3);
        assert_eq!(
            cursor.missing(&after_failover),
            Some(Range { after: 3, upto: 12 })
        );
    }

    #[test]
    fn a_shard_that_has_less_than_was_read_of_it_was_taken_back() {
        let start = Instant::now();
        let mut cursor = Cursor::new(39);
        // A new primary may not know yet how far its copies are; what they have, it has.
        let promoted = Standing {
            max_seq_no: 41,
            ..standing(start, 2, 12)
        };
        assert!(!cursor.was_taken_back(&promoted));
        assert!(!cursor.was_taken_back(&standing(start, 2, 39)));
        assert!(cursor.was_taken_back(&standing(start, 2, 38)));
        // Also of what was read and is not certain yet.
        cursor.advance(at(start, 1), 50);
        assert!(cursor.was_taken_back(&standing(at(start, 2), 2, 49)));
    }

    #[test]
    fn a_copy_that_counts_its_refreshes_anew_has_started_anew_in_its_old_term() {
        let start = Instant::now();
        let refreshed = |ms, refreshes| Standing {
            refreshes,
            ..standing(at(start, ms), 2, 9)
        };
        let mut cursor = Cursor::new(3);
        assert!(cursor.look(&refreshed(0, 7)));
        cursor.advance(at(start, 1), 9);
        assert!(!cursor.look(&refreshed(2, 1)));
        assert_eq!((cursor.certain(), cursor.read()), (3, 3));
        assert!(cursor.look(&refreshed(3, 2)));
    }

    /// One thing that happens to a shard that is watched.
    #[derive(Debug, Clone)]
    enum Event {
        Write(i64),
        Failover,
        Look,
        ReadPage(i64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (1i64..5).prop_map(Event::Write),
            Just(Event::Failover),
            Just(Event::Look),
            (1i64..4).prop_map(Event::ReadPage),
        ];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        /// The copy that is read goes blind at a failover: its pages miss everything. However the
        /// events interleave, nothing is certain that was not read from a copy that could see it.
        #[test]
        fn nothing_is_certain_that_was_not_read_from_the_copy_in_office(events in events()) {
            let start = Instant::now();
            let (mut clock, mut term, mut written) = (0, 1, -1);
            let mut cursor = Cursor::new(-1);
            let mut round: Option<(u64, Range)> = None;
            let mut seen = std::collections::BTreeSet::new();
            for event in events {
                clock += 1;
                match event {
                    Event::Write(count) => written += count,
                    Event::Failover => term += 1,
                    Event::Look => {
                        let now = standing(at(start, clock), term, written);
                        cursor.look(&now);
                        round = cursor.missing(&now).map(|range| (term, range));
                    }
                    Event::ReadPage(size) => if let Some((pinned, range)) = round.as_mut() {
                        let upto = (range.after + size).min(range.upto);
                        if *pinned == term {
                            seen.extend(range.after + 1..=upto);
                        }
                        cursor.advance(at(start, clock), upto);
                        range.after = upto;
                        round = round.take().filter(|(_, range)| range.after < range.upto);
                    },
                }
                for position in 0..=cursor.certain() {
                    prop_assert!(seen.contains(&position), "{} was lost", position);
                }
            }
        }
    }
}
