//! Applying the rules to a batch, here or in a thread of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::Arc,
    thread::available_parallelism,
};

use bytes::Bytes;
use model::{
    Action, Batch, Change, Content, IndexName, Origin,
    wire::{self, Packer, Packing},
};
use pipeline::{DeadLetter, Fault, Replay};
use tokio::task::JoinHandle;
use transform::{Outcome, RuleError};

use super::address::Address;
use crate::{GatewayMetrics, control::InForce, jq::JqPool};

/// From so many bytes on a batch is worth a thread of its own; below it, telling one takes longer.
const LARGE: usize = 16 << 10;

/// So many bytes are at work at most, one batch however large aside: each is in memory twice meanwhile.
const AT_WORK: usize = 2 << 20;

/// A batch and everything it takes to apply the rules to it.
pub(super) struct Job {
    pub(super) sequence: u64,
    pub(super) subject: Option<Arc<str>>,
    pub(super) origin: Origin,
    pub(super) batch: Arc<Batch>,
    pub(super) address: Arc<Address>,
    pub(super) in_force: Arc<InForce>,
    pub(super) jq: Arc<JqPool>,
    pub(super) packing: Packing,
    pub(super) metrics: Arc<GatewayMetrics>,
    pub(super) replay: Option<Replay>,
}

/// What the rules made of a batch.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) sequence: u64,
    pub(super) subject: Option<Arc<str>>,
    /// The index that it is about.
    pub(super) index: IndexName,
    /// The changes that the rules had an answer to, without what they held: it takes as much memory as the outputs.
    pub(super) answered: Vec<Change>,
    /// What goes on, packed: a change is in memory once from here to the log.
    pub(super) outputs: Vec<Batch>,
    /// The changes that a rule failed on, as they were sent.
    pub(super) failed: Vec<(Change, RuleError)>,
    pub(super) replay: Option<Replay>,
}

/// A batch that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) sequence: u64,
    pub(super) subject: Option<Arc<str>>,
    pub(super) body: Bytes,
    pub(super) reason: String,
}

/// What comes of a batch.
pub(super) type Work = Result<Worked, Box<Unreadable>>;

impl Job {
    /// Whether it takes long enough to be done elsewhere.
    pub(super) fn is_large(&self) -> bool {
        let plan = self.address.plan.as_ref();
        self.bytes() >= LARGE || plan.is_some_and(|plan| plan.runs_jq(&self.in_force.rules))
    }

    fn bytes(&self) -> usize {
        match &self.batch.content {
            Content::Sealed(sealed) => sealed.body.len(),
            _ => self.batch.size(),
        }
    }

    /// Applies them.
    pub(super) fn run(self) -> Work {
        let batch = match wire::open(&self.batch) {
            Ok(batch) => batch,
            Err(error) => {
                return Err(Box::new(Unreadable {
                    sequence: self.sequence,
                    subject: self.subject,
                    body: match &self.batch.content {
                        Content::Sealed(sealed) => sealed.body.clone(),
                        _ => Bytes::new(),
                    },
                    reason: error.to_string(),
                }));
            }
        };
        let mut worked = Worked {
            sequence: self.sequence,
            subject: self.subject.clone(),
            index: batch.index.clone(),
            answered: Vec::new(),
            outputs: Vec::new(),
            failed: Vec::new(),
            replay: self.replay.clone(),
        };
        let Some(plan) = &self.address.plan else {
            return Ok(worked);
        };
        let Content::Changes(mut changes) = batch.content else {
            return Ok(worked);
        };
        let mut passed = 0;
        let mut packers: BTreeMap<IndexName, Packer> = BTreeMap::new();
        let mut failed: BTreeMap<usize, RuleError> = BTreeMap::new();
        // Where there are many places, none of them is expected to get much.
        let expected = match plan.has_one_place() {
            true => changes.iter().map(Change::size).sum(),
            false => 0,
        };
        let mut jq = self.jq.take();
        let rules = &self.in_force.rules;
        rules.apply_all(plan, &changes, &mut jq, |number, outcome| {
            let changes = match outcome {
                Ok(Outcome::Changed(changes)) => {
                    passed += 1;
                    changes
                }
                Ok(Outcome::Dropped(rule)) => return self.metrics.dropped(&rule, "drop", 1),
                Ok(Outcome::Removed(rule, changes)) => {
                    self.metrics.dropped(&rule, "delete", 1);
                    changes
                }
                Err(error) => {
                    self.metrics.refused();
                    failed.insert(number, error);
                    return;
                }
            };
            for (index, change) in changes {
                let new = || Packer::new(self.packing, expected);
                packers.entry(index).or_insert_with(new).push(&change);
            }
        });
        self.jq.put_back(jq);
        self.metrics.passed(passed);
        let mut numbers = 0..;
        changes.retain(
            |change| match numbers.next().and_then(|number| failed.remove(&number)) {
                Some(error) => {
                    worked.failed.push((change.clone(), error));
                    false
                }
                None => true,
            },
        );
        for change in &mut changes {
            change.action = Action::Delete;
        }
        worked.answered = changes;
        for (index, packer) in packers {
            let packed = packer.finish().into_iter();
            worked.outputs.extend(packed.map(|sealed| Batch {
                index: index.clone(),
                origin: self.origin.clone(),
                content: Content::Sealed(sealed),
            }));
        }
        Ok(worked)
    }
}

impl Worked {
    /// The changes that a rule failed on, each with its reason.
    pub(super) fn letters(&self) -> impl Iterator<Item = DeadLetter> {
        self.failed.iter().map(|(change, error)| DeadLetter {
            sequence: self.sequence,
            subject: self.subject.clone(),
            index: self.index.to_string(),
            change: Some(change.clone()),
            body: Bytes::new(),
            reason: error.to_string(),
        })
    }
}

/// Batches that the rules are applied to in other threads, several at once; they come out in the order in which they
/// went in.
#[derive(Debug)]
pub(super) struct Workshop {
    /// Each with its size in bytes.
    jobs: VecDeque<(usize, JoinHandle<Work>)>,
    most: usize,
}

impl Workshop {
    /// One with as many places as there are cores, four at most: each holds a batch in memory.
    pub(super) fn new() -> Workshop {
        Workshop {
            jobs: VecDeque::new(),
            most: available_parallelism().map_or(1, usize::from).min(4),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        let bytes: usize = self.jobs.iter().map(|(bytes, _)| bytes).sum();
        self.jobs.len() < self.most && bytes < AT_WORK
    }

    pub(super) fn start(&mut self, job: Job) {
        let bytes = job.bytes();
        let job = tokio::task::spawn_blocking(move || job.run());
        self.jobs.push_back((bytes, job));
    }

    /// What comes of the oldest one, for ever where there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Work, Fault> {
        let Some((_, oldest)) = self.jobs.front_mut() else {
            return pending().await;
        };
        let work = oldest.await.map_err(Fault::fatal)?;
        self.jobs.pop_front();
        Ok(work)
    }
}
