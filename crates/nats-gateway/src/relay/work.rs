//! Applying the rules to a batch, here or in a thread of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use model::{Batch, Change, IndexName, Origin};
use pipeline::{DeadLetter, DeadLetters, Replay};
use transform::{Outcome, RuleError};

use super::address::Address;
use crate::{GatewayMetrics, control::InForce, jq::JqProcess};

/// A batch and everything it takes to apply the rules to it.
pub(super) struct Job<D> {
    pub(super) sequence: u64,
    pub(super) subject: Option<Arc<str>>,
    pub(super) origin: Origin,
    pub(super) batch: Batch,
    pub(super) address: Arc<Address>,
    pub(super) in_force: Arc<InForce>,
    pub(super) letters: Arc<D>,
    pub(super) jq: Arc<Mutex<JqProcess>>,
    pub(super) metrics: Arc<GatewayMetrics>,
    pub(super) replay: Option<Replay>,
}

/// What the rules made of a batch.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) sequence: u64,
    pub(super) origin: Origin,
    /// By index, in the order of the batch.
    pub(super) outputs: BTreeMap<IndexName, Vec<Change>>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) settled: Vec<(IndexName, Change)>,
    pub(super) replay: Option<Replay>,
}

impl<D: DeadLetters> Job<D> {
    /// Applies them.
    pub(super) fn run(self) -> Worked {
        let mut worked = Worked {
            sequence: self.sequence,
            origin: self.origin.clone(),
            outputs: BTreeMap::new(),
            letters: Vec::new(),
            settled: Vec::new(),
            replay: self.replay.clone(),
        };
        let mut jq = self.jq.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = &self.address.plan else {
            return worked;
        };
        let has_letters = !self.letters.is_empty();
        let mut passed = 0;
        for change in self.batch.changes() {
            let outcome = self.in_force.rules.apply(plan, change, &mut *jq);
            if outcome.is_ok() && has_letters && self.letters.may_hold(&self.batch.index, change) {
                worked
                    .settled
                    .push((self.batch.index.clone(), change.clone()));
            }
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
                    worked.letters.push(self.letter(change, &error));
                    continue;
                }
            };
            for (index, change) in changes {
                worked.outputs.entry(index).or_default().push(change);
            }
        }
        self.metrics.passed(passed);
        worked
    }

    fn letter(&self, change: &Change, error: &RuleError) -> DeadLetter {
        DeadLetter {
            sequence: self.sequence,
            subject: self.subject.clone(),
            index: self.batch.index.to_string(),
            change: Some(change.clone()),
            body: Bytes::new(),
            reason: error.to_string(),
        }
    }
}
