//! Leases: of all processes with one name, a single one acts.
//!
//! A lease is a record in the bucket `SYNCLINE`. Its holder renews it, and moves its floor, by
//! compare-and-set; whoever wants it watches the record and takes it when it has not changed for the
//! whole lease. The rules and why they hold are in [`machine`]; here are the clock and the network.

mod machine;
mod record;
mod registry;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use model::now_ms;
use pipeline::{Fault, Tenure};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use record::Role;
pub(crate) use record::{Mark, Place, escape};
pub use registry::{ReaderStatus, forget_reader, readers};

use crate::{Bus, Error, StreamInfo};
use machine::{Command, Event, Machine};
use record::Record;

/// How often a moving floor is stored at most.
const FLOOR_INTERVAL: Duration = Duration::from_millis(100);

/// What lease to acquire.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Whose lease it is.
    pub role: Role,
    /// What the process calls itself in front of people, such as `es-writer@host`.
    pub holder: String,
    /// How long a silent holder keeps it.
    pub lease: Duration,
}

impl LeaseOptions {
    /// How long a request about it may take.
    fn timeout(&self) -> Duration {
        (self.lease / 6).clamp(Duration::from_millis(200), Duration::from_secs(5))
    }
}

/// A lease that is held. Dropping it leaves the others waiting until it has run out;
/// [`Lease::release`] does not.
#[derive(Debug)]
pub struct Lease {
    token: u64,
    found: Option<Mark>,
    shared: Arc<Shared>,
    keeper: Option<AbortOnDropHandle<Result<(), Error>>>,
}

#[derive(Debug)]
struct Shared {
    key: String,
    mark: Mutex<Mark>,
    moved: Notify,
    closing: CancellationToken,
    tenure: watch::Sender<Instant>,
    /// The floor that is stored.
    stored: watch::Sender<u64>,
    /// Who has taken the lease from us.
    fenced: watch::Sender<Option<String>>,
}

/// Changes a lease's mark.
#[derive(Debug, Clone)]
pub(crate) struct Advancer(Arc<Shared>);

impl Advancer {
    pub(crate) fn advance(&self, change: impl FnOnce(&mut Mark)) {
        self.0.advance(change);
    }
}

impl Shared {
    fn advance(&self, change: impl FnOnce(&mut Mark)) {
        change(&mut self.mark());
        self.moved.notify_one();
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Lease {
    /// Waits until the lease is ours; `None` when `shutdown` is cancelled first.
    ///
    /// # Errors
    /// When the record cannot be read or the server denies us the bucket.
    pub async fn acquire(
        bus: &Bus,
        stream: &StreamInfo,
        options: LeaseOptions,
        shutdown: &CancellationToken,
    ) -> Result<Option<Lease>, Error> {
        let key = options.role.key(&stream.name);
        let place = Place::open(bus, key, stream.replicas, options.timeout()).await?;
        let mut keeper = Keeper::new(place, stream, options);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            acquired = keeper.acquire() => acquired?,
        }
        let (token, found, shared) = (
            keeper.token,
            keeper.found.clone(),
            Arc::clone(&keeper.shared),
        );
        let keeper = Some(AbortOnDropHandle::new(tokio::spawn(keeper.keep())));
        Ok(Some(Lease {
            token,
            found,
            shared,
            keeper,
        }))
    }

    /// The fencing token: higher than that of every earlier holder.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How long we may act as the holder. Moves on with every renewal.
    pub fn tenure(&self) -> Tenure {
        Tenure::until(self.shared.tenure.subscribe())
    }

    /// Whether somebody else has taken the lease.
    ///
    /// # Errors
    /// When that is so.
    pub fn check(&self) -> Result<(), Error> {
        match &*self.shared.fenced.borrow() {
            None => Ok(()),
            Some(holder) => Err(self.fenced_by(holder.clone())),
        }
    }

    /// Resolves when somebody else has taken the lease. Cancel safe.
    pub async fn lost(&self) -> Error {
        let mut fenced = self.shared.fenced.subscribe();
        // Nothing borrowed is kept: the borrow of a channel may not cross threads.
        let holder = fenced
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|holder| holder.clone());
        match holder {
            Some(holder) => self.fenced_by(holder),
            None => std::future::pending().await,
        }
    }

    /// Stores what is to be stored and gives the lease back: the next holder need not wait.
    ///
    /// # Errors
    /// When somebody else has it already, or the server does not answer for as long as the lease is.
    pub async fn release(&mut self) -> Result<(), Error> {
        self.shared.closing.cancel();
        match self.keeper.take() {
            None => Ok(()),
            Some(keeper) => {
                let what = || format!("giving back the lease {}", self.shared.key);
                keeper
                    .await
                    .unwrap_or_else(|panic| Err(Error::request(what(), panic)))
            }
        }
    }

    /// What the record said before we took it; `None` when there was none.
    pub(crate) fn found(&self) -> Option<&Mark> {
        self.found.as_ref()
    }

    pub(crate) fn key(&self) -> &str {
        &self.shared.key
    }

    /// What the publisher before us called the store in which it remembers what it has published.
    pub fn store_before(&self) -> Option<&str> {
        self.found.as_ref()?.store.as_deref()
    }

    /// Says what our store is called. Returns once that is written, so that nothing is published
    /// before: a successor with another store has to know.
    ///
    /// # Errors
    /// When somebody else has taken the lease.
    pub async fn name_store(&self, name: &str) -> Result<(), Error> {
        if self.store_before() == Some(name) {
            return Ok(()); // the mark was taken over as it was
        }
        let mut stored = self.stored();
        self.advance(|mark| mark.store = Some(name.to_owned()));
        // A write that was under way may say the old name; the one after it does not.
        for _ in 0..2 {
            stored.mark_unchanged();
            self.shared.moved.notify_one();
            tokio::select! {
                _ = stored.changed() => {}
                lost = self.lost() => return Err(lost),
            }
        }
        Ok(())
    }

    /// Changes how far we have come. It is stored a little later.
    pub(crate) fn advance(&self, change: impl FnOnce(&mut Mark)) {
        self.shared.advance(change);
    }

    /// The same for whoever outlives a borrow of the lease.
    pub(crate) fn advancer(&self) -> Advancer {
        Advancer(Arc::clone(&self.shared))
    }

    /// The floor that is stored.
    pub(crate) fn stored(&self) -> watch::Receiver<u64> {
        self.shared.stored.subscribe()
    }

    fn fenced_by(&self, holder: String) -> Error {
        Error::Fenced {
            key: self.shared.key.clone(),
            holder,
        }
    }
}

/// Runs the machine.
struct Keeper {
    machine: Machine,
    place: Place,
    /// This process, as no other is called.
    me: String,
    token: u64,
    options: LeaseOptions,
    stream: StreamInfo,
    /// The record read last.
    read: Option<Record>,
    /// What the record said that we have replaced.
    found: Option<Mark>,
    shared: Arc<Shared>,
    /// When the last write began.
    wrote: Instant,
}

impl Keeper {
    fn new(place: Place, stream: &StreamInfo, options: LeaseOptions) -> Keeper {
        let me = format!(
            "{} {}-{:08x}",
            options.holder,
            std::process::id(),
            fastrand::u32(..)
        );
        let shared = Shared {
            key: place.key.clone(),
            mark: Mutex::default(),
            moved: Notify::new(),
            closing: CancellationToken::new(),
            tenure: watch::Sender::new(Instant::now()),
            stored: watch::Sender::new(0),
            fenced: watch::Sender::new(None),
        };
        Keeper {
            machine: Machine::new(me.clone(), options.lease),
            place,
            me,
            token: 0,
            options,
            stream: stream.clone(),
            read: None,
            found: None,
            shared: Arc::new(shared),
            wrote: Instant::now(),
        }
    }

    /// Steps until the lease is ours.
    async fn acquire(&mut self) -> Result<(), Error> {
        let mut event = Event::Tick { dirty: false };
        let mut told = None;
        loop {
            let command = self.machine.step(&event, Instant::now());
            if self.machine.is_held() {
                self.publish_tenure();
                tracing::info!(
                    key = self.shared.key,
                    token = self.token,
                    "holding the lease"
                );
                return Ok(());
            }
            event = match command {
                Command::Wait(pause) => {
                    self.tell_who_is_active(&mut told);
                    tokio::time::sleep(pause).await;
                    Event::Tick { dirty: false }
                }
                command => self.execute(command).await?,
            };
        }
    }

    fn tell_who_is_active(&self, told: &mut Option<String>) {
        let holder = self.read.as_ref().map(|record| record.holder.clone());
        if let Some(holder) = &holder
            && told.as_ref() != Some(holder)
        {
            let name = self.options.role.name();
            tracing::info!(name, holder, "another of this name is active; standing by");
            *told = Some(holder.clone());
        }
    }

    /// Keeps the lease until it is given back or taken away.
    async fn keep(mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let mut event = Event::Tick { dirty: true };
        loop {
            let command = self.machine.step(&event, Instant::now());
            self.publish_tenure();
            event = match command {
                Command::Stop => return Err(self.fenced()),
                Command::Wait(_) if shared.closing.is_cancelled() => return self.release().await,
                Command::Wait(pause) => tokio::select! {
                    biased;
                    () = shared.closing.cancelled() => return self.release().await,
                    () = self.floor_moved() => Event::Tick { dirty: true },
                    () = tokio::time::sleep(pause) => Event::Tick { dirty: false },
                },
                command => match self.execute(command).await {
                    Ok(event) => event,
                    // Looks permanent, but the tenure's end is what stops the holder.
                    Err(error) => {
                        tracing::warn!(key = shared.key, %error, "cannot renew the lease");
                        tokio::time::sleep(FLOOR_INTERVAL).await;
                        Event::Unclear
                    }
                },
            };
        }
    }

    /// Resolves when the floor has moved and the last write is long enough ago.
    async fn floor_moved(&self) {
        self.shared.moved.notified().await;
        tokio::time::sleep_until((self.wrote + FLOOR_INTERVAL).into()).await;
    }

    async fn execute(&mut self, command: Command) -> Result<Event, Error> {
        match command {
            Command::Read => self.look().await,
            Command::Write { revision, take } => {
                if take {
                    self.prepare_to_take();
                }
                self.write(revision, true).await
            }
            Command::Wait(_) | Command::Stop => Ok(Event::Tick { dirty: false }),
        }
    }

    /// The record and its revision; `None` where the server did not say.
    async fn read(&self) -> Result<Option<(u64, Option<Record>)>, Error> {
        let read = self.place.read().await?;
        if read.is_none() {
            let (replicas, timeout) = (self.stream.replicas, self.options.timeout());
            self.place.restore(replicas, timeout).await?;
        }
        Ok(read)
    }

    async fn look(&mut self) -> Result<Event, Error> {
        Ok(match self.read().await? {
            None => Event::Unclear,
            Some((revision, record)) => {
                let event = record::seen(revision, record.as_ref());
                self.read = record;
                event
            }
        })
    }

    /// Continues what the last record says. The clock in the token makes it higher than any before
    /// even where someone has deleted the record.
    fn prepare_to_take(&mut self) {
        let last = self.read.as_ref();
        self.token = last.map_or(0, |record| record.token + 1).max(now_ms());
        self.found = last.map(|record| record.mark.clone());
        *self.shared.mark() = last.map_or_else(
            || Mark {
                floor: self.stream.first_sequence.saturating_sub(1),
                stream_created: self.stream.created,
                ..Mark::default()
            },
            |record| record.mark.clone(),
        );
    }

    async fn write(&mut self, revision: u64, held: bool) -> Result<Event, Error> {
        self.wrote = Instant::now();
        let record = Record {
            holder: self.me.clone(),
            token: self.token,
            held,
            lease_ms: self.options.lease.as_millis() as u64,
            name: self.options.role.name().to_owned(),
            stream: self.stream.name.clone(),
            mark: self.shared.mark().clone(),
            updated: now_ms(),
        };
        let event = self.place.write(revision, &record).await?;
        if matches!(event, Event::Stored { .. }) {
            self.shared.stored.send_replace(record.mark.floor);
        }
        Ok(event)
    }

    fn publish_tenure(&self) {
        if let Some(end) = self.machine.valid_until() {
            self.shared
                .tenure
                .send_if_modified(|known| std::mem::replace(known, end) != end);
        }
    }

    /// Notes who has the lease now.
    fn fenced(&self) -> Error {
        let holder = self.read.as_ref().map_or_else(
            || "someone who deleted its record".to_owned(),
            |record| record.holder.clone(),
        );
        self.shared.tenure.send_replace(Instant::now());
        self.shared.fenced.send_replace(Some(holder.clone()));
        tracing::error!(
            key = self.shared.key,
            holder,
            "the lease was taken by another process"
        );
        Error::Fenced {
            key: self.shared.key.clone(),
            holder,
        }
    }

    /// Writes the last floor and that the lease is free.
    async fn release(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.lease;
        let Some(mut revision) = self.machine.revision() else {
            return Ok(());
        };
        loop {
            if let Event::Stored { .. } = self.write(revision, false).await? {
                self.shared.tenure.send_replace(Instant::now());
                tracing::info!(key = self.shared.key, "gave the lease back");
                return Ok(());
            }
            match self.read().await? {
                Some((now, Some(record))) if record.holder == self.me => {
                    if !record.held && record.mark == *self.shared.mark() {
                        return Ok(());
                    }
                    revision = now;
                }
                Some((now, record)) if now >= revision => {
                    self.read = record;
                    return Err(self.fenced());
                }
                // Lost with the server's power, unless only a replica lags: the write says.
                Some((now, None)) => revision = now,
                _ => {}
            }
            if Instant::now() >= deadline {
                let what = format!("giving back the lease {}", self.shared.key);
                return Err(Error::request(what, "the server does not answer"));
            }
            tokio::time::sleep(FLOOR_INTERVAL).await;
        }
    }
}

impl Lease {
    /// The lease's failure as the loops want it.
    pub(crate) fn check_fault(&self) -> Result<(), Fault> {
        self.check().map_err(Fault::from)
    }
}
