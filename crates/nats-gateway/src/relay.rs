//! The input as a source of the output: reads entries, applies the rules, and yields what goes on.
//!
//! Every entry yields at least one batch, an empty one where nothing of it goes on, and the last of them
//! carries its number: so the floor moves over an entry when the output has all of it, in order.
//!
//! **Dead letters.** A change on which a rule fails is parked before anything of its entry is yielded. A letter
//! is settled when the output has a newer change of its document. A letter that is sent again is looked at when
//! everything before it is in the output: only then is it certain that nothing newer has settled it.
//!
//! **What is read.** The log is asked only for the subjects that the rules in force may let through. Rules that are
//! replaced count for everything behind the entry that was taken last, whatever the old ones left in the log. While
//! there are letters, everything is read that flags select: new rules may have nothing to do with a letter's document any
//! more, and still it has to be settled, or heard when it is sent again.

mod address;
mod outbox;
mod work;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use model::{
    Batch, Change, Content, IndexDefinition, IndexName, Operation, Origin, Version, Via,
    wire::Packing,
};
use pipeline::{
    Captured, ChangeSource, DeadLetter, DeadLetters, Delivery, Fault, MessageSource, Payload,
    Replay, Replayed,
};
use tokio::sync::watch;

use address::{Address, Addresses};
use outbox::Outbox;
pub use outbox::Passage;
use work::{Job, Unreadable, Work, Worked, Workshop};

use crate::{GatewayMetrics, control::InForce, jq::JqPool};

/// How often the loop says that it lives while there is nothing to do.
const PULSE: Duration = Duration::from_secs(5);

/// Reads a log and yields what the rules make of it.
pub struct Relay<R, D> {
    reader: R,
    letters: Arc<D>,
    rules: watch::Receiver<Arc<InForce>>,
    in_force: Arc<InForce>,
    jq: Arc<JqPool>,
    jq_limits: (Duration, u64),
    packing: Packing,
    paused: watch::Receiver<bool>,
    metrics: Arc<GatewayMetrics>,
    addresses: Addresses,
    /// Whether more is read than the rules let through.
    reads_more: bool,
    /// The batches that the rules are applied to elsewhere. Nothing that came after them goes out before them.
    workshop: Workshop,
    /// An entry that has to wait until they are through.
    held: Option<Delivery>,
    /// Whether the log has ended.
    is_over: bool,
    outbox: Outbox,
    /// A letter that was sent again and waits for what came before it.
    replay: Option<Replaying>,
    /// The newest entry that is settled.
    settled: u64,
}

/// What there is to do next.
enum Next {
    Entry(Delivery),
    /// A batch is through the rules.
    Work(Box<Work>),
    /// The log has ended.
    Over,
}

#[derive(Debug)]
struct Replaying {
    sequence: u64,
    subject: Option<Arc<str>>,
    batch: Arc<Batch>,
    replay: Replay,
}

impl<R: std::fmt::Debug, D> std::fmt::Debug for Relay<R, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("reader", &self.reader)
            .field("yielded", &self.outbox.yielded)
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

impl<R: MessageSource, D: DeadLetters> Relay<R, D> {
    /// Reads from `reader` under the rules of `rules`; `jq` is how long a jq program may take and how many bytes
    /// of memory. What the rules were applied to goes on in bodies as `packing` has them.
    pub fn new(
        reader: R,
        letters: D,
        rules: watch::Receiver<Arc<InForce>>,
        paused: watch::Receiver<bool>,
        metrics: Arc<GatewayMetrics>,
        jq: (Duration, u64),
        packing: Packing,
    ) -> Relay<R, D> {
        let in_force = Arc::clone(&rules.borrow());
        metrics.in_force(in_force.rules.hash(), in_force.since_ms);
        let pool = JqPool::new(in_force.rules.programs(), jq.0, jq.1);
        let mut relay = Relay {
            reader,
            letters: Arc::new(letters),
            rules,
            in_force,
            jq: Arc::new(pool),
            jq_limits: jq,
            packing,
            paused,
            metrics,
            addresses: Addresses::default(),
            reads_more: false,
            workshop: Workshop::new(),
            held: None,
            is_over: false,
            outbox: Outbox::default(),
            replay: None,
            settled: 0,
        };
        relay.want();
        relay
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
        self.in_force = Arc::clone(&self.rules.borrow_and_update());
        let rules = &self.in_force.rules;
        self.metrics.in_force(rules.hash(), self.in_force.since_ms);
        self.addresses.forget();
        let (timeout, memory) = self.jq_limits;
        self.jq = Arc::new(JqPool::new(rules.programs(), timeout, memory));
        self.want();
    }

    /// Asks the log for what may go on, and for no more unless there are letters.
    fn want(&mut self) {
        let rules = &self.in_force.rules;
        self.reads_more = !self.letters.is_empty();
        let subjects = match self.reads_more {
            false => rules.subjects(),
            true => rules.selected_subjects(),
        };
        self.reader.want(&subjects);
        self.metrics.wants(subjects);
    }

    /// The next entry, or the next batch that the rules were applied to. Cancel safe.
    async fn read(&mut self) -> Result<Next, Fault> {
        loop {
            if self.reads_more && self.letters.is_empty() {
                self.want();
            }
            let paused = *self.paused.borrow_and_update();
            // Other rules count once nothing is at work under the old ones: until then its letters are not known.
            let reads = !paused && self.workshop.has_room() && !self.has_other_rules();
            self.metrics.paused(paused);
            self.metrics
                .waiting(self.reader.pending(), self.reader.left_out());
            tokio::select! {
                biased;
                // Fails when nobody can change it any more, and then the process ends anyhow.
                Ok(()) = self.paused.changed() => {}
                // Before the reader: it may not pass over any more by what was wanted before.
                Ok(()) = self.rules.changed(), if self.workshop.is_empty() => self.follow_rules(),
                delivery = self.reader.next(), if reads => {
                    return Ok(delivery?.map_or(Next::Over, Next::Entry));
                }
                work = self.workshop.next() => return work.map(|work| Next::Work(Box::new(work))),
                () = tokio::time::sleep(PULSE) => {}
            }
        }
    }

    /// Whether what is at work has to come to its end first.
    fn drains(&self) -> bool {
        self.held.is_some() || self.replay.is_some() || self.is_over
    }

    fn has_other_rules(&self) -> bool {
        self.rules.has_changed().unwrap_or(false)
    }

    /// Whether the rules are applied to an entry, so that it may be at work together with those before it.
    fn is_work(&mut self, delivery: &Delivery) -> bool {
        let Payload::Batch(batch) = &delivery.payload else {
            return false;
        };
        if self.has_other_rules()
            || !matches!(batch.content, Content::Changes(_) | Content::Sealed(_))
        {
            return false;
        }
        let address = self.address(delivery.subject.as_ref());
        let plan = address
            .as_ref()
            .ok()
            .and_then(|address| address.plan.as_ref());
        plan.is_some_and(|plan| plan.passes_whole().is_none() && !plan.drops_all())
    }

    fn take(&mut self, delivery: Delivery) {
        if !self.workshop.is_empty() && !self.is_work(&delivery) {
            self.held = Some(delivery);
            return;
        }
        let Delivery {
            sequence,
            subject,
            payload,
        } = delivery;
        if self.has_other_rules() {
            self.follow_rules();
        }
        match payload {
            Payload::Nothing => self.outbox.pass_over(sequence),
            Payload::Unreadable { reason, body } => self.unreadable(Unreadable {
                sequence,
                subject,
                body,
                reason,
            }),
            Payload::Replay(batch, replay) => {
                self.replay = Some(Replaying {
                    sequence,
                    subject,
                    batch,
                    replay,
                });
            }
            Payload::Batch(batch) => match self.address(subject.as_ref()) {
                Err(reason) => self.unreadable(Unreadable {
                    sequence,
                    subject,
                    body: Bytes::new(),
                    reason,
                }),
                Ok(address) => self.batch(sequence, subject, &batch, &address),
            },
        }
    }

    fn address(&mut self, subject: Option<&Arc<str>>) -> Result<Arc<Address>, String> {
        self.addresses.of(subject, &self.in_force.rules)
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
            self.metrics.entry(0);
            return match &batch.content {
                Content::Definition(definition) => {
                    self.define(sequence, batch, address, definition)
                }
                Content::Clear(upto) => self.clear(sequence, batch, address, *upto),
                Content::Changes(_) | Content::Sealed(_) | Content::Reached(_) => {
                    self.outbox.pass_over(sequence)
                }
            };
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
                return self.outbox.put(sequence, vec![batch], Passage::default());
            }
            if let Some(rule) = self.in_force.rules.dropper(plan) {
                self.metrics.dropped(&rule, "drop", count);
                return self.outbox.pass_over(sequence);
            }
        }
        self.work(sequence, subject, Arc::clone(batch), address, None);
    }

    /// Passes on what an index looks like, to where its documents may go.
    fn define(
        &mut self,
        sequence: u64,
        batch: &Batch,
        address: &Address,
        definition: &IndexDefinition,
    ) {
        let places = self
            .in_force
            .rules
            .define(&address.at(Operation::Index), definition);
        let places = places.unwrap_or_else(|error| {
            // Its changes are refused one by one, each with the reason.
            tracing::error!(index = %batch.index, %error, "the index has no place at the target");
            Vec::new()
        });
        let origin = self.origin(sequence, batch, address);
        let batches = places.into_iter().map(|(index, definition)| Batch {
            index,
            origin: origin.clone(),
            content: Content::Definition(definition),
        });
        self.outbox
            .put(sequence, batches.collect(), Passage::default());
    }

    /// Passes on that so much of an index is gone, to where its documents may be. These places have no other's
    /// ([`transform::RuleSet::cleared`]), so that nothing goes that is not gone.
    fn clear(&mut self, sequence: u64, batch: &Batch, address: &Address, upto: Version) {
        let places = self.in_force.rules.cleared(&address.at(Operation::Delete));
        let places = places.unwrap_or_else(|error| {
            tracing::error!(
                index = %batch.index, %error,
                "the source has emptied an index that has no place at the target: nothing is removed there"
            );
            Vec::new()
        });
        let origin = self.origin(sequence, batch, address);
        let passage = Passage {
            cleared: (!places.is_empty()).then(|| (batch.index.clone(), upto)),
            ..Passage::default()
        };
        let batches = places.into_iter().map(|index| Batch {
            index,
            origin: origin.clone(),
            content: Content::Clear(upto),
        });
        self.outbox.put(sequence, batches.collect(), passage);
    }

    /// Passes on how far the source has come, to wherever the index goes: no rule has anything to say to that.
    fn reached(&mut self, sequence: u64, batch: &Batch, address: &Address, version: Version) {
        let places = self.in_force.rules.places(&address.at(Operation::Index));
        let origin = self.origin(sequence, batch, address);
        let batches = places.unwrap_or_default().into_iter().map(|index| Batch {
            index,
            origin: origin.clone(),
            content: Content::Reached(version),
        });
        self.outbox
            .put(sequence, batches.collect(), Passage::default());
    }

    /// Applies the rules, elsewhere if that may take long.
    fn work(
        &mut self,
        sequence: u64,
        subject: Option<Arc<str>>,
        batch: Arc<Batch>,
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
            jq: Arc::clone(&self.jq),
            packing: self.packing,
            metrics: Arc::clone(&self.metrics),
            replay,
        };
        match job.is_large() || !self.workshop.is_empty() {
            true => self.workshop.start(job),
            false => self.worked(job.run()),
        }
    }

    fn worked(&mut self, work: Work) {
        let worked = match work {
            Ok(worked) => worked,
            Err(unreadable) => return self.unreadable(*unreadable),
        };
        let outcome = match worked.failed.is_empty() {
            true => Replayed::Written,
            false => Replayed::Refused,
        };
        self.outbox.parking.extend(worked.letters());
        // The letters of everything before it are parked by now.
        let settled = match self.letters.is_empty() {
            true => Vec::new(),
            false => self.settled_by(&worked),
        };
        let Worked {
            sequence,
            outputs,
            replay,
            ..
        } = worked;
        let passage = Passage {
            settled,
            replayed: replay.map(|replay| (replay, outcome)),
            ..Passage::default()
        };
        self.outbox.put(sequence, outputs, passage);
    }

    fn settled_by(&self, worked: &Worked) -> Vec<(IndexName, Change)> {
        let index = &worked.index;
        let answered = worked.answered.iter();
        let settled = answered.filter(|change| self.letters.may_hold(index, change));
        settled
            .map(|change| (index.clone(), change.clone()))
            .collect()
    }

    fn unreadable(&mut self, unreadable: Unreadable) {
        let Unreadable {
            sequence,
            subject,
            body,
            reason,
        } = unreadable;
        self.metrics.refused();
        self.outbox.parking.push_back(DeadLetter {
            sequence,
            index: subject.as_deref().unwrap_or_default().to_owned(),
            subject,
            change: None,
            body,
            reason,
        });
        self.outbox.pass_over(sequence);
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
                self.work(sequence, subject, batch, &address, Some(replay));
            }
            _ => {
                let passage = Passage {
                    replayed: Some((replay, Replayed::Superseded)),
                    ..Passage::default()
                };
                self.outbox.put(sequence, Vec::new(), passage);
            }
        }
        Ok(())
    }
}

impl<R: MessageSource, D: DeadLetters> ChangeSource for Relay<R, D> {
    type Position = Passage;

    async fn next(&mut self) -> Result<Option<Captured<Passage>>, Fault> {
        loop {
            if let Some(letter) = self.outbox.parking.front() {
                self.letters.park(letter.clone()).await?;
                self.outbox.parking.pop_front();
                continue;
            }
            if let Some(captured) = self.outbox.ready.pop_front() {
                return Ok(Some(captured));
            }
            if self.drains() && !self.workshop.is_empty() {
                let work = self.workshop.next().await?;
                self.worked(work);
                continue;
            }
            if let Some(held) = self.held.take() {
                self.take(held);
                continue;
            }
            if self.replay.is_some() {
                if self.settled < self.outbox.yielded {
                    // The loop confirms what is under way and asks again.
                    std::future::pending::<()>().await;
                }
                self.replay().await?;
                continue;
            }
            if self.is_over {
                return Ok(None);
            }
            match self.read().await? {
                Next::Over => self.is_over = true,
                Next::Entry(delivery) => self.take(delivery),
                Next::Work(work) => self.worked(*work),
            }
        }
    }

    async fn confirm(&mut self, passage: Passage) -> Result<(), Fault> {
        for (index, change) in &passage.settled {
            self.letters.settle(index, change).await?;
        }
        if let Some((index, upto)) = &passage.cleared {
            self.letters.clear(index, *upto).await?;
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
