//! How far the sources of indices have come, told at the target when all of it is there.
//!
//! An entry of the log that says it is open like any other, so the floor does not pass it before the target has it,
//! and a process that dies in between is told again. It is written when nothing before it is open but others
//! of its kind. One request is under way at a time; what comes due meanwhile goes together in the next.

use std::collections::{BTreeMap, VecDeque};

use model::{IndexName, Version};
use tokio::task::JoinHandle;

use crate::{Fault, Floor};

/// The entries that are told together, and the newest version of each index of theirs.
type Due = (Vec<u64>, Vec<(IndexName, Version)>);

/// Whether the target was told; not when the process ends first.
type Telling = JoinHandle<Result<bool, Fault>>;

/// What waits to be told, and what is being told.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    waiting: VecDeque<Told>,
    under_way: Option<(Vec<u64>, Telling)>,
}

#[derive(Debug)]
struct Told {
    sequence: u64,
    index: IndexName,
    version: Version,
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some((_, writing)) = &self.under_way {
            writing.abort();
        }
    }
}

impl Reached {
    /// Takes an entry, which opens with one piece.
    pub(crate) fn push(&mut self, sequence: u64, index: IndexName, version: Version) {
        self.waiting.push_back(Told {
            sequence,
            index,
            version,
        });
    }

    /// What may be told now, the newest version of each index. Until it is settled nothing else is due.
    pub(crate) fn due(&mut self, floor: &Floor) -> Option<Due> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut sequences = Vec::new();
        let mut newest: BTreeMap<IndexName, Version> = BTreeMap::new();
        for open in floor.unsettled() {
            let Some(told) = self.waiting.pop_front_if(|told| told.sequence == open) else {
                break;
            };
            sequences.push(told.sequence);
            let known = newest.entry(told.index).or_insert(told.version);
            *known = (*known).max(told.version);
        }
        (!sequences.is_empty()).then(|| (sequences, newest.into_iter().collect()))
    }

    /// Notes that it is being told.
    pub(crate) fn begun(&mut self, sequences: Vec<u64>, writing: Telling) {
        self.under_way = Some((sequences, writing));
    }

    /// Whether something is being told.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for what is being told, and returns its entries; none if the process ends first. Cancel safe.
    ///
    /// # Errors
    /// When it cannot be told, now or ever.
    pub(crate) async fn told(&mut self) -> Result<Vec<u64>, Fault> {
        let Some((_, writing)) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let told = writing
            .await
            .unwrap_or_else(|panic| Err(Fault::fatal(panic)));
        // A task that has ended must not be waited for again, whatever it ended with.
        let sequences = self.under_way.take().map(|(sequences, _)| sequences);
        let told = told?;
        Ok(sequences.filter(|_| told).unwrap_or_default())
    }
}
