//! Applying the rules to a batch, here or in a thread of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::Arc,
    thread::available_parallelism,
};

use bytes::Bytes;
use model::{Batch, Change, Content, IndexName, Origin, wire};
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
    pub(super) metrics: Arc<GatewayMetrics>,
    pub(super) replay: Option<Replay>,
}

/// What the rules made of a batch.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) sequence: u64,
    pub(super) subject: Option<Arc<str>>,
    pub(super) origin: Origin,
    /// As it was sent.
    pub(super) batch: Batch,
    /// By index, in the order of the batch.
    pub(super) outputs: BTreeMap<IndexName, Vec<Change>>,
    /// The changes that a rule failed on, by their number in the batch.
    pub(super) failed: BTreeMap<usize, RuleError>,
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
            origin: self.origin.clone(),
            batch,
            outputs: BTreeMap::new(),
            failed: BTreeMap::new(),
            replay: self.replay.clone(),
        };
        let Some(plan) = &self.address.plan else {
            return Ok(worked);
        };
        let mut passed = 0;
        let mut jq = self.jq.take();
        let rules = &self.in_force.rules;
        let outcomes = rules.apply_all(plan, worked.batch.changes(), &mut jq);
        self.jq.put_back(jq);
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let changes = match outcome {
                Ok(Outcome::Changed(changes)) => {
                    passed += 1;
                    changes
                }
                Ok(Outcome::Dropped(rule)) => {
                    self.metrics.dropped(&rule, "drop", 1);
                    continue;
                }
                Ok(Outcome::Removed(rule, changes)) => {
                    self.metrics.dropped(&rule, "delete", 1);
                    changes
                }
                Err(error) => {
                    self.metrics.refused();
                    worked.failed.insert(number, error);
                    continue;
                }
            };
            for (index, change) in changes {
                worked.outputs.entry(index).or_default().push(change);
            }
        }
        self.metrics.passed(passed);
        Ok(worked)
    }
}

impl Worked {
    /// The changes that a rule failed on, each with its reason.
    pub(super) fn letters(&self) -> impl Iterator<Item = DeadLetter> {
        let changes = self.batch.changes();
        self.failed.iter().filter_map(|(number, error)| {
            Some(DeadLetter {
                sequence: self.sequence,
                subject: self.subject.clone(),
                index: self.batch.index.to_string(),
                change: Some(changes.get(*number)?.clone()),
                body: Bytes::new(),
                reason: error.to_string(),
            })
        })
    }

    /// The changes that the rules had an answer to.
    pub(super) fn answered(&self) -> impl Iterator<Item = &Change> {
        let changes = self.batch.changes().iter().enumerate();
        let answered = changes.filter(|(number, _)| !self.failed.contains_key(number));
        answered.map(|(_, change)| change)
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
