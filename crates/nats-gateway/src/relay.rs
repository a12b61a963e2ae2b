//! The input as a source of the output: reads entries, applies the rules, and yields what goes on.
//!
//! Every entry yields at least one batch, an empty one where nothing of it goes on, and the last of them
//! carries its number: so the floor moves over an entry when the output has all of it, in order.
//!
//! **Dead letters.** A change on which a rule fails is parked before anything of its entry is yielded. A letter
//! is settled when the output has a newer change of its document. A letter that is sent again is looked at when
//! everything before it is in the output: only then is it certain that nothing newer has settled it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use model::{Batch, Change, Content, IndexName, Kind, Origin, Subject, Version, Via, wire};
use pipeline::{
    Captured, ChangeSource, DeadLetter, DeadLetters, Delivery, Fault, MessageSource, Payload,
    Replay, Replayed,
};
use tokio::{sync::watch, task::JoinHandle};
use transform::{At, Outcome, Plan, RuleError};

use crate::{GatewayMetrics, control::InForce, jq::JqProcess};

/// How often the loop says that it lives while there is nothing to do.
const PULSE: Duration = Duration::from_secs(5);
/// Subjects whose plans are kept; more than there are indices in a cluster, and few enough to keep.
const MOST_PLANS: usize = 10_000;

/// How far the input is settled once the output has a batch, and what is settled with it.
#[derive(Debug, Clone, Default)]
pub struct Passage {
    /// The entry that is settled with this batch; `None` where more of it follows.
    floor: Option<u64>,
    /// The changes that are newer than the letters of their documents may be.
    settled: Vec<(IndexName, Change)>,
    /// A letter that was sent again, and what has become of it.
    replayed: Option<(Replay, Replayed)>,
}

/// Reads a log and yields what the rules make of it.
pub struct Relay<R, D> {
    reader: R,
    letters: Arc<D>,
    rules: watch::Receiver<Arc<InForce>>,
    in_force: Arc<InForce>,
    jq: Arc<Mutex<JqProcess>>,
    jq_limits: (Duration, u64),
    paused: watch::Receiver<bool>,
    metrics: Arc<GatewayMetrics>,
    /// What is decided about subjects, under the rules in force.
    plans: HashMap<Arc<str>, Arc<Address>>,
    /// A batch that the rules are applied to elsewhere.
    at_work: Option<JoinHandle<Worked>>,
    /// What has to be parked before anything of its entry goes on.
    parking: VecDeque<DeadLetter>,
    ready: VecDeque<Captured<Passage>>,
    /// A letter that was sent again and waits for what came before it.
    replay: Option<Replaying>,
    /// The newest entry that was yielded, and the newest that is settled.
    yielded: u64,
    settled: u64,
}

/// What a subject says, and what is decided about it.
#[derive(Debug)]
struct Address {
    subject: Subject,
    /// `None` for definitions.
    plan: Option<Plan>,
}

#[derive(Debug)]
struct Replaying {
    sequence: u64,
    subject: Option<Arc<str>>,
    batch: Arc<Batch>,
    replay: Replay,
}

/// What the rules made of a batch.
#[derive(Debug)]
struct Worked {
    sequence: u64,
    origin: Origin,
    /// By index, in the order of the batch.
    outputs: BTreeMap<IndexName, Vec<Change>>,
    letters: Vec<DeadLetter>,
    settled: Vec<(IndexName, Change)>,
    replay: Option<Replay>,
}

impl<R: std::fmt::Debug, D> std::fmt::Debug for Relay<R, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("reader", &self.reader)
            .field("yielded", &self.yielded)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

impl<R: MessageSource, D: DeadLetters> Relay<R, D> {
    /// Reads from `reader` under the rules of `rules`; `jq` is how long a jq program may take and how many bytes
    /// of memory.
    pub fn new(
        reader: R,
        letters: D,
        rules: watch::Receiver<Arc<InForce>>,
        paused: watch::Receiver<bool>,
        metrics: Arc<GatewayMetrics>,
        jq: (Duration, u64),
    ) -> Relay<R, D> {
        let in_force = Arc::clone(&rules.borrow());
        metrics.in_force(in_force.rules.hash(), in_force.since_ms);
        let process = JqProcess::new(in_force.rules.programs(), jq.0, jq.1);
        Relay {
            reader,
            letters: Arc::new(letters),
            rules,
            in_force,
            jq: Arc::new(Mutex::new(process)),
            jq_limits: jq,
            paused,
            metrics,
            plans: HashMap::new(),
            at_work: None,
            parking: VecDeque::new(),
            ready: VecDeque::new(),
            replay: None,
            yielded: 0,
            settled: 0,
        }
    }

    /// Stores the floor and lets the next reader begin.
    ///
    /// # Errors
    /// When another one has taken over.
    pub async fn close(&mut self) -> Result<(), Fault> {
        self.reader.close().await
    }

    /// Takes over rules that were replaced.
    fn follow_rules(&mut self) {
        if !self.rules.has_changed().unwrap_or(false) {
            return;
        }
        self.in_force = Arc::clone(&self.rules.borrow_and_update());
        let rules = &self.in_force.rules;
        self.metrics.in_force(rules.hash(), self.in_force.since_ms);
        self.plans.clear();
        let process = JqProcess::new(rules.programs(), self.jq_limits.0, self.jq_limits.1);
        self.jq = Arc::new(Mutex::new(process));
    }

    /// The next entry. Cancel safe.
    async fn read(&mut self) -> Result<Option<Delivery>, Fault> {
        loop {
            let paused = *self.paused.borrow_and_update();
            self.metrics.paused(paused);
            self.metrics.waiting(self.reader.pending());
            tokio::select! {
                biased;
                // Fails when nobody can change it any more, and then the process ends anyhow.
                Ok(()) = self.paused.changed() => {}
                () = tokio::time::sleep(PULSE) => {}
                delivery = self.reader.next(), if !paused => return delivery,
            }
        }
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), Fault> {
        let Delivery {
            sequence,
            subject,
            payload,
        } = delivery;
        self.follow_rules();
        match payload {
            Payload::Nothing => self.nothing(sequence, Passage::default()),
            Payload::Unreadable { reason, body } => {
                self.unreadable(sequence, subject, body, reason);
            }
            Payload::Replay(batch, replay) => {
                self.replay = Some(Replaying {
                    sequence,
                    subject,
                    batch,
                    replay,
                });
            }
            Payload::Batch(batch) => match self.address(subject.as_ref()) {
                Err(reason) => self.unreadable(sequence, subject, Bytes::new(), reason),
                Ok(address) => self.batch(sequence, subject, &batch, &address),
            },
        }
        Ok(())
    }

    fn address(&mut self, subject: Option<&Arc<str>>) -> Result<Arc<Address>, String> {
        let text = subject.ok_or("it has no subject")?;
        if let Some(known) = self.plans.get(text) {
            return Ok(Arc::clone(known));
        }
        let subject: Subject = text.parse().map_err(|error| format!("{error}"))?;
        let plan = match subject.kind {
            Kind::Definition | Kind::Clear => None,
            Kind::Operation(operation) => {
                let at = At {
                    tenant: subject.tenant.clone(),
                    index: subject.index.clone(),
                    operation,
                };
                Some(self.in_force.rules.plan(&at))
            }
        };
        if self.plans.len() >= MOST_PLANS {
            self.plans.clear();
        }
        let address = Arc::new(Address { subject, plan });
        self.plans.insert(Arc::clone(text), Arc::clone(&address));
        Ok(address)
    }

    fn batch(
        &mut self,
        sequence: u64,
        subject: Option<Arc<str>>,
        batch: &Arc<Batch>,
        address: &Arc<Address>,
    ) {
        if let Content::Reached(version) = &batch.content {
            return self.reached(sequence, batch, address, *version);
        }
        let Some(plan) = &address.plan else {
            return self.definition(sequence, batch, address);
        };
        let count = match &batch.content {
            Content::Sealed(sealed) => sealed.count,
            _ => batch.changes().len(),
        };
        self.metrics.entry(count);
        // A letter may have to go because of one of these changes; else nobody looks at them.
        if self.letters.is_empty() {
            if let Some(index) = plan.passes_whole() {
                self.metrics.passed(count);
                let batch = Batch {
                    index: index.clone(),
                    origin: self.origin(sequence, batch, address),
                    content: batch.content.clone(),
                };
                return self.yields(sequence, batch);
            }
            if let Some(rule) = self.in_force.rules.dropper(plan) {
                self.metrics.dropped(&rule, "drop", count);
                return self.nothing(sequence, Passage::default());
            }
        }
        match wire::open(batch) {
            Ok(batch) => self.work(sequence, subject, batch, address, None),
            Err(error) => {
                let body = match &batch.content {
                    Content::Sealed(sealed) => sealed.body.clone(),
                    _ => Bytes::new(),
                };
                self.unreadable(sequence, subject, body, error.to_string());
            }
        }
    }

    fn definition(&mut self, sequence: u64, batch: &Batch, address: &Address) {
        self.metrics.entry(0);
        let at = At {
            tenant: address.subject.tenant.clone(),
            index: address.subject.index.clone(),
            operation: model::Operation::Index,
        };
        let definition = match &batch.content {
            Content::Definition(definition) => definition,
            Content::Clear(upto) => return self.clear(sequence, batch, address, &at, *upto),
            Content::Changes(_) | Content::Sealed(_) | Content::Reached(_) => {
                return self.nothing(sequence, Passage::default());
            }
        };
        let places = match self.in_force.rules.define(&at, definition) {
            Ok(places) => places,
            Err(error) => {
                // Its changes are refused one by one, each with the reason.
                tracing::error!(index = %at.index, %error, "the index has no place at the target");
                Vec::new()
            }
        };
        let last = places.len();
        for (number, (index, definition)) in places.into_iter().enumerate() {
            let batch = Batch {
                index,
                origin: self.origin(sequence, batch, address),
                content: Content::Definition(definition),
            };
            self.ready.push_back(Captured {
                batch: Arc::new(batch),
                position: Passage {
                    floor: (number + 1 == last).then_some(sequence),
                    ..Passage::default()
                },
            });
        }
        if last == 0 {
            self.nothing(sequence, Passage::default());
        }
        self.yielded = sequence;
    }

    /// Passes on that an index was emptied, to where it keeps its name. Under another name there may be what
    /// comes from other indices, too, and that is not gone.
    fn clear(&mut self, sequence: u64, batch: &Batch, address: &Address, at: &At, upto: Version) {
        let places = self.in_force.rules.places(at).unwrap_or_default();
        let (own, others): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|place| *place == at.index);
        for place in others {
            tracing::error!(
                index = %at.index, target = %place,
                "the source has emptied what is routed to an index of another name: what was there before stays at \
                 the target until `syncline verify --rules FILE --repair` removes it"
            );
        }
        match own.into_iter().next() {
            None => self.nothing(sequence, Passage::default()),
            Some(index) => {
                let batch = Batch {
                    index,
                    origin: self.origin(sequence, batch, address),
                    content: Content::Clear(upto),
                };
                self.yields(sequence, batch);
            }
        }
    }

    /// Passes on how far the source has come, to wherever the index goes: no rule has anything to say to that.
    fn reached(&mut self, sequence: u64, batch: &Batch, address: &Address, version: Version) {
        let at = At {
            tenant: address.subject.tenant.clone(),
            index: address.subject.index.clone(),
            operation: model::Operation::Index,
        };
        let places = self.in_force.rules.places(&at).unwrap_or_default();
        let mut places = places.into_iter().peekable();
        if places.peek().is_none() {
            return self.nothing(sequence, Passage::default());
        }
        while let Some(index) = places.next() {
            let batch = Batch {
                index,
                origin: self.origin(sequence, batch, address),
                content: Content::Reached(version),
            };
            self.ready.push_back(Captured {
                batch: Arc::new(batch),
                position: Passage {
                    floor: places.peek().is_none().then_some(sequence),
                    ..Passage::default()
                },
            });
        }
        self.yielded = sequence;
    }

    /// Applies the rules, elsewhere if that may take long.
    fn work(
        &mut self,
        sequence: u64,
        subject: Option<Arc<str>>,
        batch: Batch,
        address: &Arc<Address>,
        replay: Option<Replay>,
    ) {
        let job = Job {
            sequence,
            subject,
            origin: self.origin(sequence, &batch, address),
            batch,
            address: Arc::clone(address),
            in_force: Arc::clone(&self.in_force),
            letters: Arc::clone(&self.letters),
            jq: Arc::clone(&self.jq),
            metrics: Arc::clone(&self.metrics),
            replay,
        };
        let runs_jq = address
            .plan
            .as_ref()
            .is_some_and(|plan| plan.runs_jq(&self.in_force.rules));
        match runs_jq {
            true => self.at_work = Some(tokio::task::spawn_blocking(move || job.run())),
            false => {
                let worked = job.run();
                self.worked(worked);
            }
        }
    }

    fn worked(&mut self, worked: Worked) {
        let Worked {
            sequence,
            origin,
            outputs,
            letters,
            settled,
            replay,
        } = worked;
        let outcome = if letters.is_empty() {
            Replayed::Written
        } else {
            Replayed::Refused
        };
        self.parking.extend(letters);
        let mut passage = Passage {
            floor: None,
            settled,
            replayed: replay.map(|replay| (replay, outcome)),
        };
        if outputs.is_empty() {
            return self.nothing(sequence, passage);
        }
        let last = outputs.len();
        for (number, (index, changes)) in outputs.into_iter().enumerate() {
            let batch = Batch {
                index,
                origin: origin.clone(),
                content: Content::Changes(changes),
            };
            let position = match number + 1 == last {
                true => Passage {
                    floor: Some(sequence),
                    ..std::mem::take(&mut passage)
                },
                false => Passage::default(),
            };
            self.ready.push_back(Captured {
                batch: Arc::new(batch),
                position,
            });
        }
        self.yielded = sequence;
    }

    fn unreadable(
        &mut self,
        sequence: u64,
        subject: Option<Arc<str>>,
        body: Bytes,
        reason: String,
    ) {
        self.metrics.refused();
        self.parking.push_back(DeadLetter {
            sequence,
            index: subject.as_deref().unwrap_or_default().to_owned(),
            subject,
            change: None,
            body,
            reason,
        });
        self.nothing(sequence, Passage::default());
    }

    fn yields(&mut self, sequence: u64, batch: Batch) {
        self.ready.push_back(Captured {
            batch: Arc::new(batch),
            position: Passage {
                floor: Some(sequence),
                ..Passage::default()
            },
        });
        self.yielded = sequence;
    }

    /// Nothing of an entry goes on.
    fn nothing(&mut self, sequence: u64, passage: Passage) {
        let batch = Batch {
            index: IndexName::try_from("-").expect("the name is not empty"),
            origin: Origin {
                partition: "".into(),
                captured_ms: 0,
                via: None,
            },
            content: Content::Changes(Vec::new()),
        };
        self.ready.push_back(Captured {
            batch: Arc::new(batch),
            position: Passage {
                floor: Some(sequence),
                ..passage
            },
        });
        self.yielded = sequence;
    }

    fn origin(&self, sequence: u64, batch: &Batch, address: &Address) -> Origin {
        let hash = self.in_force.rules.hash();
        Origin {
            via: Some(Via {
                tenant: address.subject.tenant.clone(),
                entry: format!("{sequence}-{hash}").into(),
            }),
            ..batch.origin.clone()
        }
    }

    /// Sends a letter on again, if it is still there.
    async fn replay(&mut self) -> Result<(), Fault> {
        let Some(Replaying {
            sequence,
            subject,
            batch,
            replay,
        }) = &self.replay
        else {
            return Ok(());
        };
        let mut is_parked = !batch.changes().is_empty();
        for change in batch.changes() {
            is_parked &= self.letters.is_parked(&batch.index, change).await?;
        }
        let (sequence, subject, batch, replay) = (
            *sequence,
            subject.clone(),
            Arc::clone(batch),
            replay.clone(),
        );
        // Nothing is awaited from here on, so that it happens whole or not at all.
        self.replay = None;
        let address = self.address(subject.as_ref());
        match address {
            Ok(address) if is_parked && address.plan.is_some() => {
                self.work(sequence, subject, (*batch).clone(), &address, Some(replay));
            }
            _ => {
                let replayed = Some((replay, Replayed::Superseded));
                self.nothing(
                    sequence,
                    Passage {
                        replayed,
                        ..Passage::default()
                    },
                );
            }
        }
        Ok(())
    }
}

/// A batch and everything it takes to apply the rules to it.
struct Job<D> {
    sequence: u64,
    subject: Option<Arc<str>>,
    origin: Origin,
    batch: Batch,
    address: Arc<Address>,
    in_force: Arc<InForce>,
    letters: Arc<D>,
    jq: Arc<Mutex<JqProcess>>,
    metrics: Arc<GatewayMetrics>,
    replay: Option<Replay>,
}

impl<D: DeadLetters> Job<D> {
    fn run(self) -> Worked {
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

impl<R: MessageSource, D: DeadLetters> ChangeSource for Relay<R, D> {
    type Position = Passage;

    async fn next(&mut self) -> Result<Option<Captured<Passage>>, Fault> {
        loop {
            if let Some(letter) = self.parking.front() {
                self.letters.park(letter.clone()).await?;
                self.parking.pop_front();
                continue;
            }
            if let Some(captured) = self.ready.pop_front() {
                return Ok(Some(captured));
            }
            if let Some(at_work) = &mut self.at_work {
                let worked = at_work.await.map_err(Fault::fatal)?;
                self.at_work = None;
                self.worked(worked);
                continue;
            }
            if self.replay.is_some() {
                if self.settled < self.yielded {
                    // The loop confirms what is under way and asks again.
                    std::future::pending::<()>().await;
                }
                self.replay().await?;
                continue;
            }
            match self.read().await? {
                None => return Ok(None),
                Some(delivery) => self.take(delivery)?,
            }
        }
    }

    async fn confirm(&mut self, passage: Passage) -> Result<(), Fault> {
        for (index, change) in &passage.settled {
            self.letters.settle(index, change).await?;
        }
        if let Some((replay, outcome)) = &passage.replayed {
            self.letters.replayed(replay, *outcome);
        }
        if let Some(floor) = passage.floor {
            self.reader.commit(floor).await?;
            self.settled = floor;
        }
        Ok(())
    }
}
