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
use model::{
    Batch, Change, Content, IndexDefinition, IndexName, Kind, Operation, Origin, Root, Subject,
    Tenant, Version, wire,
};
use tokio::sync::Notify;

use crate::{
    Captured, ChangeSource, DeadLetter, DeadLetters, Delivery, Fault, MessageSink, MessageSource,
    Outcome, Payload, Replay, Replayed, Tenure, Writer,
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
    entries: Vec<Payload>,
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
        let state = lock(&self.inner.state);
        let batch = |entry: &Payload| match entry {
            Payload::Batch(batch) | Payload::Replay(batch, _) => Some(Arc::clone(batch)),
            Payload::Unreadable { .. } | Payload::Nothing => None,
        };
        state.entries.iter().filter_map(batch).collect()
    }

    /// Sends a dead letter again.
    ///
    /// # Panics
    /// When it is of an entry that could not be read.
    pub fn replay(&self, letter: &DeadLetter) {
        let index = IndexName::try_from(letter.index.as_str()).expect("a letter of an index");
        let change = letter.change.clone().expect("a letter of a change");
        let batch = Batch {
            index,
            origin: Origin::now("replay".into()),
            content: Content::Changes(vec![change]),
        };
        self.append(Payload::Replay(Arc::new(batch), Replay::default()));
    }

    fn append(&self, entry: Payload) {
        lock(&self.inner.state).entries.push(entry);
        self.inner.grown.notify_waiters();
    }

    /// How many entries are settled.
    pub fn floor(&self) -> u64 {
        lock(&self.inner.state).floor
    }

    /// Sets the floor back by so many entries, as if the last moves had not been stored.
    pub fn set_back(&self, entries: u64) {
        let mut state = lock(&self.inner.state);
        state.floor = state.floor.saturating_sub(entries);
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
        let planned = lock(&self.inner.state).plan.pop_front();
        let arrival = planned.unwrap_or(Arrival::Stored);
        if arrival != Arrival::Lost {
            // As a reader of a log has it, who opens what travelled packed.
            let opened = wire::open(batch).map_err(Fault::fatal)?;
            self.append(Payload::Batch(Arc::new(opened)));
        }
        // Acknowledgments take their time, so that several batches are under way at once.
        let entries = lock(&self.inner.state).entries.len() as u64;
        let delay = Duration::from_millis(1 + entries % 5);
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

/// What a stream would have the entry under, where all of it could stand under one subject.
fn subject(entry: &Payload) -> Option<Arc<str>> {
    let (Payload::Batch(batch) | Payload::Replay(batch, _)) = entry else {
        return None;
    };
    let kind = match &batch.content {
        Content::Definition(_) => Kind::Definition,
        Content::Clear(_) => Kind::Clear,
        Content::Reached(_) => Kind::Operation(Operation::Index),
        Content::Sealed(sealed) => Kind::Operation(sealed.operation),
        Content::Changes(changes) => {
            let first = changes.first()?.operation();
            let alike = changes.iter().all(|change| change.operation() == first);
            alike.then_some(Kind::Operation(first))?
        }
    };
    let subject = Subject {
        root: Root::Changes,
        tenant: Tenant::try_from("memory").ok()?,
        index: batch.index.clone(),
        kind,
    };
    Some(subject.to_string().into())
}

impl MessageSource for MemoryReader {
    async fn next(&mut self) -> Result<Option<Delivery>, Fault> {
        loop {
            let grown = self.log.inner.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            {
                let state = lock(&self.log.inner.state);
                if let Some(entry) = state.entries.get(self.next as usize) {
                    self.next += 1;
                    return Ok(Some(Delivery {
                        sequence: self.next,
                        subject: subject(entry),
                        payload: entry.clone(),
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

type Place = (String, String, Option<String>);

fn place(index: &str, change: &Change) -> Place {
    let routing = change.routing.as_deref().map(str::to_owned);
    (index.to_owned(), change.id.to_string(), routing)
}

#[derive(Debug, Default)]
struct StoreState {
    documents: BTreeMap<Place, (Version, Bytes)>,
    calls: u64,
    defined: Vec<IndexName>,
    /// The letter of each document; those of entries that could not be read go by their number.
    letters: BTreeMap<Place, DeadLetter>,
    replayed: Vec<Replayed>,
    /// Documents with this text in them are refused.
    refused: Option<String>,
    plan: VecDeque<Answer>,
    reached: Vec<Told>,
}

/// That an index has come to a version, with the documents as they were then.
pub type Told = (IndexName, Version, BTreeMap<Place, (Version, Bytes)>);

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

    /// Refuses documents that contain a text from now on, or none any more.
    pub fn refuse(&self, text: Option<&str>) {
        lock(&self.inner).refused = text.map(str::to_owned);
    }

    /// The dead letters.
    pub fn letters(&self) -> Vec<DeadLetter> {
        lock(&self.inner).letters.values().cloned().collect()
    }

    /// What became of the letters that were sent again, in order.
    pub fn replayed(&self) -> Vec<Replayed> {
        lock(&self.inner).replayed.clone()
    }

    /// What was told of how far indices have come, in order, each with the documents as they were then.
    pub fn reached(&self) -> Vec<Told> {
        lock(&self.inner).reached.clone()
    }

    /// The indices that were defined, in order.
    pub fn defined(&self) -> Vec<IndexName> {
        lock(&self.inner).defined.clone()
    }
}

impl StoreState {
    /// The version of a document's letter.
    fn held(&self, place: &Place) -> Option<Version> {
        Some(self.letters.get(place)?.change.as_ref()?.version)
    }

    fn write(&mut self, index: &IndexName, change: &Change) -> Outcome {
        match self.plan.pop_front().unwrap_or(Answer::Written) {
            Answer::Busy => return Outcome::Retry("busy".to_owned()),
            Answer::Refused => return Outcome::Refused("refused".to_owned()),
            Answer::Written => {}
        }
        let text = change.document().map(|document| document.as_bytes());
        if let (Some(text), Some(refused)) = (text, &self.refused)
            && text
                .windows(refused.len())
                .any(|part| part == refused.as_bytes())
        {
            return Outcome::Refused(format!("it contains {refused:?}"));
        }
        let place = place(index.as_str(), change);
        let held = self.documents.get(&place).map(|(version, _)| *version);
        match change.document() {
            None if held.is_some_and(|held| held > change.version) => {
                return Outcome::AlreadyApplied;
            }
            None => {
                self.documents.remove(&place);
            }
            Some(_) if held > Some(change.version) => return Outcome::AlreadyApplied,
            Some(_) if held == Some(change.version) && !change.over => {
                return Outcome::AlreadyApplied;
            }
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

    async fn reached(&self, indices: &[(IndexName, Version)]) -> Result<(), Fault> {
        let mut state = lock(&self.inner);
        state.calls += 1;
        for (index, version) in indices {
            let documents = state.documents.clone();
            state.reached.push((index.clone(), *version, documents));
        }
        if state.calls.is_multiple_of(5) {
            return Err(Fault::retry("busy"));
        }
        Ok(())
    }

    async fn clear(&self, index: &IndexName, upto: Version, _: &Tenure) -> Result<(), Fault> {
        let mut state = lock(&self.inner);
        state
            .documents
            .retain(|place, (version, _)| place.0 != index.as_str() || *version > upto);
        Ok(())
    }
}

impl DeadLetters for MemoryStore {
    async fn park(&self, letter: DeadLetter) -> Result<(), Fault> {
        let mut state = lock(&self.inner);
        let place = match &letter.change {
            Some(change) => place(&letter.index, change),
            None => (letter.index.clone(), letter.sequence.to_string(), None),
        };
        let version = letter.change.as_ref().map(|change| change.version);
        if state.held(&place) <= version {
            state.letters.insert(place, letter);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        lock(&self.inner).letters.is_empty()
    }

    fn may_hold(&self, index: &IndexName, change: &Change) -> bool {
        let place = place(index.as_str(), change);
        lock(&self.inner).letters.contains_key(&place)
    }

    async fn is_parked(&self, index: &IndexName, change: &Change) -> Result<bool, Fault> {
        let held = lock(&self.inner).held(&place(index.as_str(), change));
        Ok(held == Some(change.version))
    }

    async fn settle(&self, index: &IndexName, change: &Change) -> Result<(), Fault> {
        let place = place(index.as_str(), change);
        let mut state = lock(&self.inner);
        if state.held(&place) <= Some(change.version) {
            state.letters.remove(&place);
        }
        Ok(())
    }

    async fn clear(&self, index: &IndexName, upto: Version) -> Result<(), Fault> {
        let is_gone = |letter: &DeadLetter| {
            let change = letter.change.as_ref();
            change.is_some_and(|change| change.version <= upto)
        };
        lock(&self.inner)
            .letters
            .retain(|_, letter| letter.index != index.as_str() || !is_gone(letter));
        Ok(())
    }

    fn replayed(&self, _: &Replay, outcome: Replayed) {
        lock(&self.inner).replayed.push(outcome);
    }
}
