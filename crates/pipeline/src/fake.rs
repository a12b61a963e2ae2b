//! The seams in memory, for tests: of the loops here, and of your own source or writer.
//!
//! They keep the contracts of the traits and can be told to fail. A [`MemoryLog`] forgets nothing
//! when a reader or publisher is dropped in the middle, like a stream; a [`MemoryStore`] compares
//! versions as search engines do.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use model::{Batch, Change, IndexDefinition, IndexName, Version};
use tokio::sync::Notify;

use crate::{
    Captured, ChangeSource, DeadLetter, DeadLetters, Delivery, Fault, MessageSink, MessageSource,
    Outcome, Payload, Tenure, Writer,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A source that yields prepared batches, from behind the last confirmed one.
#[derive(Debug, Clone)]
pub struct ScriptedSource {
    batches: Arc<Vec<Arc<Batch>>>,
    confirmed: Arc<Mutex<usize>>,
    next: usize,
}

impl ScriptedSource {
    /// A source of these batches.
    pub fn new(batches: Vec<Batch>) -> ScriptedSource {
        let batches = Arc::new(batches.into_iter().map(Arc::new).collect());
        ScriptedSource {
            batches,
            confirmed: Arc::default(),
            next: 0,
        }
    }

    /// The same source after a restart.
    pub fn restarted(&self) -> ScriptedSource {
        ScriptedSource {
            next: self.confirmed(),
            ..self.clone()
        }
    }

    /// How many batches are confirmed.
    pub fn confirmed(&self) -> usize {
        *lock(&self.confirmed)
    }
}

impl ChangeSource for ScriptedSource {
    type Position = usize;

    async fn next(&mut self) -> Result<Option<Captured<usize>>, Fault> {
        let Some(batch) = self.batches.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        Ok(Some(Captured {
            batch: Arc::clone(batch),
            position: self.next,
        }))
    }

    async fn confirm(&mut self, position: usize) -> Result<(), Fault> {
        *lock(&self.confirmed) = position;
        Ok(())
    }
}

/// A log in memory that outlives its publishers and readers.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    inner: Arc<LogInner>,
}

#[derive(Debug, Default)]
struct LogInner {
    state: Mutex<LogState>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct LogState {
    entries: Vec<Arc<Batch>>,
    floor: u64,
    ended: bool,
    /// What happens to the next messages; stored when there is no plan.
    plan: VecDeque<Arrival>,
}

/// What becomes of a message that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is stored and acknowledged.
    Stored,
    /// It is lost.
    Lost,
    /// It is stored, but its acknowledgment is lost.
    Unacknowledged,
}

impl MemoryLog {
    /// Plans what becomes of the next messages.
    pub fn plan(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        lock(&self.inner.state).plan.extend(arrivals);
    }

    /// Says that nothing more will be published: readers come to an end.
    pub fn end(&self) {
        lock(&self.inner.state).ended = true;
        self.inner.grown.notify_waiters();
    }

    /// The stored batches, oldest first.
    pub fn entries(&self) -> Vec<Arc<Batch>> {
        lock(&self.inner.state).entries.clone()
    }

    /// A reader that starts behind the committed floor.
    pub fn reader(&self) -> MemoryReader {
        let next = lock(&self.inner.state).floor;
        MemoryReader {
            log: self.clone(),
            next,
        }
    }
}

impl MessageSink for MemoryLog {
    type Receipt = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

    async fn publish(&mut self, batch: &Arc<Batch>, _: u64) -> Result<Self::Receipt, Fault> {
        let mut state = lock(&self.inner.state);
        let arrival = state.plan.pop_front().unwrap_or(Arrival::Stored);
        if arrival != Arrival::Lost {
            state.entries.push(Arc::clone(batch));
            self.inner.grown.notify_waiters();
        }
        // Acknowledgments take their time, so that several batches are under way at once.
        let delay = Duration::from_millis(1 + state.entries.len() as u64 % 5);
        Ok(Box::pin(async move {
            tokio::time::sleep(delay).await;
            match arrival {
                Arrival::Stored => Ok(()),
                Arrival::Lost | Arrival::Unacknowledged => Err(Fault::retry("no acknowledgment")),
            }
        }))
    }
}

/// Reads a [`MemoryLog`].
#[derive(Debug)]
pub struct MemoryReader {
    log: MemoryLog,
    next: u64,
}

impl MessageSource for MemoryReader {
    async fn next(&mut self) -> Result<Option<Delivery>, Fault> {
        loop {
            let grown = self.log.inner.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            {
                let state = lock(&self.log.inner.state);
                if let Some(batch) = state.entries.get(self.next as usize) {
                    self.next += 1;
                    let payload = Payload::Batch(Arc::clone(batch));
                    return Ok(Some(Delivery {
                        sequence: self.next,
                        payload,
                    }));
                }
                if state.ended {
                    return Ok(None);
                }
            }
            grown.await;
        }
    }

    async fn commit(&mut self, floor: u64) -> Result<(), Fault> {
        lock(&self.log.inner.state).floor = floor;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn pending(&self) -> u64 {
        lock(&self.log.inner.state).entries.len() as u64 - self.next
    }

    fn tenure(&self) -> Tenure {
        Tenure::unlimited()
    }
}

/// A target in memory that compares external versions as search engines do. It forgets a deleted
/// document at once, which search engines do sooner or later: whoever relies on tombstones fails.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<StoreState>>,
}

type Place = (IndexName, String, Option<String>);

#[derive(Debug, Default)]
struct StoreState {
    documents: BTreeMap<Place, (Version, Bytes)>,
    calls: u64,
    defined: Vec<IndexName>,
    letters: Vec<DeadLetter>,
    plan: VecDeque<Answer>,
}

/// What the store answers to one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is written if its version allows.
    Written,
    /// It is not written now.
    Busy,
    /// It is never written.
    Refused,
}

impl MemoryStore {
    /// Plans the answers to the next changes.
    pub fn plan(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.inner).plan.extend(answers);
    }

    /// The documents that exist: index, id, routing and bytes.
    pub fn documents(&self) -> BTreeMap<Place, Bytes> {
        let state = lock(&self.inner);
        let documents = state.documents.iter();
        documents
            .map(|(place, (_, document))| (place.clone(), document.clone()))
            .collect()
    }

    /// The dead letters.
    pub fn letters(&self) -> Vec<DeadLetter> {
        lock(&self.inner).letters.clone()
    }

    /// The indices that were defined, in order.
    pub fn defined(&self) -> Vec<IndexName> {
        lock(&self.inner).defined.clone()
    }
}

impl StoreState {
    fn write(&mut self, index: &IndexName, change: &Change) -> Outcome {
        match self.plan.pop_front().unwrap_or(Answer::Written) {
            Answer::Busy => return Outcome::Retry("busy".to_owned()),
            Answer::Refused => return Outcome::Refused("refused".to_owned()),
            Answer::Written => {}
        }
        let routing = change.routing.as_deref().map(str::to_owned);
        let place = (index.clone(), change.id.to_string(), routing);
        let held = self.documents.get(&place).map(|(version, _)| *version);
        match change.document() {
            None if held.is_some_and(|held| held > change.version) => {
                return Outcome::AlreadyApplied;
            }
            None => {
                self.documents.remove(&place);
            }
            Some(_) if held >= Some(change.version) => return Outcome::AlreadyApplied,
            Some(document) => {
                let bytes = Bytes::copy_from_slice(document.as_bytes());
                self.documents.insert(place, (change.version, bytes));
            }
        }
        Outcome::Applied
    }
}

impl Writer for MemoryStore {
    async fn write(
        &self,
        index: &IndexName,
        changes: &[&Change],
        _: Option<Duration>,
    ) -> Result<Vec<Outcome>, Fault> {
        // Lanes overtake each other.
        let delay = {
            let mut state = lock(&self.inner);
            state.calls += 1;
            Duration::from_millis(state.calls * 7 % 4)
        };
        tokio::time::sleep(delay).await;
        let mut state = lock(&self.inner);
        Ok(changes
            .iter()
            .map(|change| state.write(index, change))
            .collect())
    }

    async fn define(&self, index: &IndexName, _: &IndexDefinition) -> Result<usize, Fault> {
        lock(&self.inner).defined.push(index.clone());
        Ok(0)
    }
}

impl DeadLetters for MemoryStore {
    async fn park(&self, letter: DeadLetter) -> Result<(), Fault> {
        lock(&self.inner).letters.push(letter);
        Ok(())
    }
}
