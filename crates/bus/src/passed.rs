//! How far a reader that passes on what it reads has come in its output, and going back there.
//!
//! A gateway's floor says that the *output* has everything up to it. An output that loses its end, as
//! after a power failure, makes that untrue. So next to the floor is kept which message was the newest
//! of the output at some floors of the last minutes; the input keeps what lies above the oldest of them
//! ([`crate::purge_settled`]). With a floor go the fences of its time: fences of a later time would have
//! the reader take for stragglers what it has to read again.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{Bus, Ending, Error, Stored, StreamInfo, ending, lease::Mark};

/// How far apart floors are kept, in milliseconds.
const APART_MS: u64 = 15_000;
/// How long they are kept: nats-server syncs every two minutes unless `sync_interval` says otherwise.
const KEPT_MS: u64 = 5 * 60_000;

/// A publisher's token and attempt.
type Fence = (u64, u64);

/// Where a reader passes on what it reads.
#[derive(Debug, Clone)]
pub struct Output {
    /// The connection to the output's server.
    pub bus: Bus,
    /// The stream.
    pub stream: StreamInfo,
}

/// That an output does not have what it had acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBack {
    /// What is there instead.
    pub what: String,
    /// The floor before.
    pub from: u64,
    /// The floor now; `None` where more was lost than is remembered, and everything there is has to be read again.
    pub to: Option<u64>,
}

/// Takes a mark back to where the output still has everything, if it has lost something.
///
/// # Errors
/// When the output's server does not answer.
pub(crate) async fn compare(mark: &mut Mark, output: &Output) -> Result<Option<TakenBack>, Error> {
    let (name, created) = (&output.stream.name, output.stream.created);
    let from = mark.floor;
    let lost = match &mark.passed {
        Some(passed) if passed.is_about(name, created) => match passed.newest() {
            None => None,
            newest => match ending::look(&output.bus, (name, created), newest).await? {
                Ending::Whole => None,
                Ending::Lost { upto, what } => Some((upto, what)),
            },
        },
        Some(passed) if passed.stream == *name => {
            Some((0, "was deleted and created again".to_owned()))
        }
        // Another stream, by the operator's wish: the one before still has what it was given.
        _ => {
            mark.passed = Some(Passed::new(name, created));
            None
        }
    };
    let Some((upto, what)) = lost else {
        return Ok(None);
    };
    let is_known = take_back(mark, upto);
    if !is_known {
        mark.passed = Some(Passed::new(name, created));
    }
    let to = is_known.then_some(mark.floor);
    Ok(Some(TakenBack { what, from, to }))
}

/// What a reader has passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passed {
    /// The stream it was passed on to.
    stream: String,
    /// When that stream was created, in nanoseconds since 1970.
    created: u64,
    /// The newest message of the output that has to be there.
    newest: Option<Stored>,
    /// Floors of the last minutes, oldest first.
    steps: VecDeque<Step>,
}

/// A floor, and what of the output it relies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    /// The newest message of the output then.
    upto: u64,
    /// When, in milliseconds since 1970 by the reader's own clock.
    at: u64,
    floor: u64,
    floor_time: u64,
    /// What the fences were then, of those that have risen since, up to the next step.
    fences: BTreeMap<String, Option<Fence>>,
}

impl Passed {
    /// Nothing yet, into this stream.
    pub(crate) fn new(stream: &str, created: u64) -> Passed {
        Passed {
            stream: stream.to_owned(),
            created,
            ..Passed::default()
        }
    }

    /// Notes where the reader starts: up to there the output has everything, whatever it loses.
    pub(crate) fn begin(&mut self, floor: u64, floor_time: u64, now: u64) {
        if self.steps.is_empty() {
            self.steps.push_back(Step {
                upto: self.newest.as_ref().map_or(0, |newest| newest.sequence),
                at: now,
                floor,
                floor_time,
                fences: BTreeMap::new(),
            });
        }
    }

    /// Whether it is about this stream.
    pub(crate) fn is_about(&self, stream: &str, created: u64) -> bool {
        self.stream == stream && self.created == created
    }

    /// The newest message of the output that has to be there.
    pub(crate) fn newest(&self) -> Option<&Stored> {
        self.newest.as_ref()
    }

    /// Above this floor the reader may have to read again.
    pub(crate) fn kept(&self) -> Option<u64> {
        self.steps.front().map(|step| step.floor)
    }

    /// Notes that fences rise beyond what they were when the newest step was made.
    pub(crate) fn raise<'a>(
        &mut self,
        known: &BTreeMap<String, Fence>,
        raised: impl Iterator<Item = &'a str>,
    ) {
        let Some(step) = self.steps.back_mut() else {
            return;
        };
        for partition in raised {
            if !step.fences.contains_key(partition) {
                let before = known.get(partition).copied();
                step.fences.insert(partition.to_owned(), before);
            }
        }
    }

    /// Notes the newest message of the output at a floor.
    pub(crate) fn reach(&mut self, floor: u64, floor_time: u64, newest: Option<Stored>, now: u64) {
        let Some(newest) = newest else { return };
        let upto = newest.sequence;
        self.newest = Some(newest);
        let recent = self.steps.back().is_some_and(|step| {
            // A clock that was set back makes no step recent for ever.
            step.at <= now && now - step.at < APART_MS
        });
        if recent {
            return;
        }
        self.steps.push_back(Step {
            upto,
            at: now,
            floor,
            floor_time,
            fences: BTreeMap::new(),
        });
        // The one before the oldest that is young enough stays: it is what the output surely has.
        while self
            .steps
            .get(1)
            .is_some_and(|second| now.saturating_sub(second.at) > KEPT_MS)
        {
            self.steps.pop_front();
        }
    }
}

/// Takes a mark back to where the output still has everything, if it has up to `upto`. False where that is
/// further back than is known: the mark says then that nothing is settled.
pub(crate) fn take_back(mark: &mut Mark, upto: u64) -> bool {
    let Some(passed) = &mut mark.passed else {
        return true;
    };
    passed.newest = None;
    while let Some(step) = passed.steps.back() {
        for (partition, before) in &step.fences {
            match before {
                Some(fence) => mark.fences.insert(partition.clone(), *fence),
                None => mark.fences.remove(partition),
            };
        }
        if step.upto <= upto {
            (mark.floor, mark.floor_time) = (step.floor, step.floor_time);
            return true;
        }
        passed.steps.pop_back();
    }
    (mark.floor, mark.floor_time) = (0, 0);
    mark.fences.clear();
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(sequence: u64) -> Option<Stored> {
        Some(Stored {
            sequence,
            message_id: sequence.to_string(),
        })
    }

    /// What a floor must be taken back to: of all that was reached, with the output's end and the fences.
    #[derive(Debug, Clone, PartialEq)]
    struct Was {
        floor: u64,
        upto: u64,
        fences: BTreeMap<String, Fence>,
    }

    proptest! {
        /// Wherever the output ends, the mark goes back to a floor that it had, whose output is there,
        /// with the fences of that time; and to no older one than the steps are apart.
        #[test]
        fn a_mark_goes_back_to_a_floor_it_had_with_the_fences_of_that_time(
            moves in prop::collection::vec((1u64..4, 0u64..4, 0u64..20_000, 0u8..3), 1..80),
            cut in 0u64..100,
        ) {
            let mut mark = Mark { passed: Some(Passed::new("OUT", 1)), ..Mark::default() };
            let (mut now, mut upto, mut history) = (1_000_000, 0, Vec::new());
            for (ahead, published, later, partition) in moves {
                (now, upto) = (now + later, upto + published);
                let partition = format!("p{partition}");
                let passed = mark.passed.as_mut().unwrap();
                passed.raise(&mark.fences, [partition.as_str()].into_iter());
                let fence = mark.fences.entry(partition).or_insert((0, 0));
                fence.0 += 1;
                mark.floor += ahead;
                mark.floor_time = mark.floor;
                let newest = (upto > 0).then(|| stored(upto)).flatten();
                mark.passed.as_mut().unwrap().reach(mark.floor, mark.floor_time, newest, now);
                history.push((now, Was { floor: mark.floor, upto, fences: mark.fences.clone() }));
            }
            let cut = cut.min(upto);
            let mut back = mark.clone();
            let known = take_back(&mut back, cut);
            prop_assert_eq!(back.floor_time, back.floor);
            if known {
                let was = history.iter().find(|(_, was)| was.floor == back.floor);
                let (at, was) = was.expect("it went back to a floor it never had");
                prop_assert!(was.upto <= cut);
                prop_assert_eq!(&was.fences, &back.fences);
                // Nothing much newer would have done.
                let newer = history.iter().rfind(|(_, was)| was.upto <= cut && was.upto > 0);
                prop_assert!(newer.is_none_or(|(newer, _)| newer.saturating_sub(*at) < APART_MS));
            } else {
                prop_assert_eq!(back.floor, 0);
                // Only what is older than steps are kept is forgotten.
                let lost = history.iter().rfind(|(_, was)| was.upto <= cut && was.upto > 0);
                prop_assert!(lost.is_none_or(|(at, _)| now - at > KEPT_MS - APART_MS || history.iter().all(|(other, was)| was.upto > cut || other <= at)));
            }
        }
    }

    #[test]
    fn steps_are_few_and_the_oldest_is_old_enough() {
        let mut passed = Passed::new("OUT", 1);
        for second in 0..3600 {
            passed.reach(second, second, stored(second + 1), second * 1000);
        }
        assert!(passed.steps.len() < 30, "{}", passed.steps.len());
        let oldest = passed.steps.front().unwrap();
        assert!(3_600_000 - oldest.at > KEPT_MS, "{oldest:?}");
        assert_eq!(passed.kept(), Some(oldest.floor));
    }
}
