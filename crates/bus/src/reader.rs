//! The reading end of the log.
//!
//! A reader holds the lease of its name, starts at its floor + 1 and sees the log in order. It uses a
//! consumer of the server only as a cursor: ephemeral, without acknowledgments, made anew at the
//! last message seen whenever anything is odd (a gap in what the server delivered, a missed heartbeat,
//! a lost connection). So a message can neither be skipped nor come out of order.
//!
//! Before every start the position is compared with the stream: whether it is still the same stream,
//! whether the message seen last is still the same (a server that lost power may have lost its end and
//! filled it with something else), and whether something unread is gone.

mod cursor;
mod position;

use std::{pin::Pin, sync::Arc, time::Duration};

use async_nats::jetstream;
use futures::StreamExt;
use model::now_ms;
use pipeline::{Delivery, Fault, MessageSource, Tenure};
use runtime::backoff::Backoff;
use tokio::time::{Instant, Sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Acknowledged, Bus, Error, Lease, LeaseOptions, Output, Role, Stored, TakenBack,
    inbound::{Inbound, Raw},
    lease::Advancer,
    passed, purge, stream,
};
use cursor::{Cursor, Pending, open};
use position::{Ahead, Position, Start};

pub(crate) use position::stands;

/// How often a reader with nothing to read looks how far the stream has come.
const IDLE: Duration = Duration::from_secs(1);
/// How long messages may be due without one coming. Generous: a large one on a slow line takes time.
const STALLED: Duration = Duration::from_secs(60);

/// What to read, as whom.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The stream.
    pub stream: String,
    /// The reader's name: its floor and its lease go by it.
    pub consumer: String,
    /// Which subjects it wants, as [`model::expand_filter`] returns them; all when empty.
    pub filter_subjects: Vec<String>,
    /// What the process calls itself in front of people, such as `es-writer@host`.
    pub holder: String,
    /// How long others wait for a silent holder, and the most a bulk may take.
    pub lease: Duration,
    /// How much is asked for at a time, in bytes; up to one and a half times as much is in memory.
    /// At least the largest message the server takes.
    pub max_bytes: usize,
    /// Whether batches are delivered sealed: for whoever need not look into all of them.
    pub sealed: bool,
    /// Where a reader passes on what it reads: its floor goes back when that loses what it had.
    pub output: Option<Output>,
}

impl ReaderOptions {
    /// A reader of everything in a stream, with a lease of 15 seconds and 4 MiB at a time.
    pub fn new(stream: &str, consumer: &str) -> ReaderOptions {
        ReaderOptions {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            filter_subjects: Vec::new(),
            holder: "syncline".to_owned(),
            lease: Duration::from_secs(15),
            max_bytes: 4 << 20,
            sealed: false,
            output: None,
        }
    }
}

/// Reads a stream in order.
pub struct JetStreamReader {
    bus: Bus,
    options: ReaderOptions,
    lease: Lease,
    inbound: Inbound,
    /// Tells the stream from another of its name.
    stream_created: u64,
    /// The newest message seen: where to go on.
    seen: Position,
    cursor: Cursor,
    backoff: Backoff,
    /// Messages behind, as of the newest one.
    pending: u64,
    /// Messages that the server has left out by their subjects.
    left_out: u64,
    idle: Pin<Box<Sleep>>,
    /// When the newest message came.
    arrived: Instant,
    probe: Option<Pending<Ahead>>,
    /// What the output has, where there is one.
    passed_on: Option<Arc<Acknowledged>>,
    taken_back: Option<TakenBack>,
    passed: Option<Stored>,
    _purger: AbortOnDropHandle<()>,
}

/// A reader as its letters know it.
#[derive(Debug, Clone)]
pub struct Correspondent {
    pub(crate) stream: String,
    pub(crate) reader: String,
    pub(crate) token: u64,
    /// The token of the last reader of this name that has looked through its letters, and where they
    /// ended then.
    pub(crate) seen: Option<(u64, u64)>,
    marks: Advancer,
}

impl Correspondent {
    /// Notes that this one has looked through them.
    pub(crate) fn has_seen(&self, end: u64) {
        self.marks
            .advance(|mark| mark.letters_seen = Some((self.token, end)));
    }
}

impl std::fmt::Debug for JetStreamReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetStreamReader")
            .field("options", &self.options)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl JetStreamReader {
    /// Waits until this process is the active reader of that name and starts at its floor + 1. `None`
    /// when `shutdown` is cancelled first.
    ///
    /// # Errors
    /// When the stream is missing or has lost something unread, or the server denies us what we need.
    pub async fn open(
        bus: &Bus,
        options: ReaderOptions,
        shutdown: &CancellationToken,
    ) -> Result<Option<JetStreamReader>, Error> {
        let missing = || Error::StreamMissing {
            stream: options.stream.clone(),
        };
        let info = stream::info(bus, &options.stream)
            .await?
            .ok_or_else(missing)?;
        let lease_options = LeaseOptions {
            role: Role::Reader(options.consumer.clone()),
            holder: options.holder.clone(),
            lease: options.lease,
        };
        let Some(mut lease) = Lease::acquire(bus, &info, lease_options, shutdown).await? else {
            return Ok(None);
        };
        match JetStreamReader::start(bus, &options, &lease).await {
            Ok(start) => Ok(Some(JetStreamReader::new(bus, options, lease, start))),
            Err(error) => {
                if let Err(error) = lease.release().await {
                    tracing::warn!(%error, "the next reader has to wait for the lease to run out");
                }
                Err(error)
            }
        }
    }

    /// Decides where to start, now that nobody else moves the floor.
    async fn start(bus: &Bus, options: &ReaderOptions, lease: &Lease) -> Result<Start, Error> {
        let found = lease.found();
        if let Some(found) = found
            && found.filter_subjects != options.filter_subjects
        {
            tracing::warn!(
                consumer = options.consumer, before = ?found.filter_subjects, now = ?options.filter_subjects,
                "the subject filter of this reader has changed; what it did not match before and \
                 stands below the floor is not read"
            );
        }
        let mut mark = found.cloned();
        let mut taken_back = None;
        if let Some(output) = &options.output {
            taken_back = passed::compare(mark.get_or_insert_default(), output).await?;
        }
        let mut passed = mark.as_ref().and_then(|mark| mark.passed.clone());
        // One that has lost more than it remembers begins where a new one does.
        let is_known = taken_back.as_ref().is_none_or(|back| back.to.is_some());
        let known = mark.filter(|_| found.is_some() && is_known);
        let start = position::start(bus, options, lease.key(), known.as_ref()).await?;
        if let Some(passed) = &mut passed {
            passed.begin(start.at.sequence, start.at.time, now_ms());
        }
        lease.advance(|mark| {
            mark.fences.clone_from(&start.fences);
            mark.stream_created = start.stream_created;
            mark.floor = start.at.sequence;
            mark.floor_time = start.at.time;
            mark.passed.clone_from(&passed);
            mark.filter_subjects.clone_from(&options.filter_subjects);
        });
        let newest = passed.and_then(|passed| passed.newest().cloned());
        Ok(Start {
            taken_back,
            passed: newest,
            ..start
        })
    }

    fn new(bus: &Bus, options: ReaderOptions, lease: Lease, start: Start) -> JetStreamReader {
        let purger =
            purge::purge_while_reading(bus.clone(), options.stream.clone(), lease.stored());
        let inbound = Inbound::new(&options.consumer, options.sealed, &start.fences);
        let seen = start.at;
        let cursor = Cursor::Opening(Box::pin(open(
            bus.clone(),
            options.clone(),
            start.stream_created,
            seen,
            Duration::ZERO,
        )));
        JetStreamReader {
            bus: bus.clone(),
            inbound,
            stream_created: start.stream_created,
            seen,
            cursor,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            pending: 0,
            left_out: 0,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            arrived: Instant::now(),
            probe: None,
            passed_on: None,
            taken_back: start.taken_back,
            passed: start.passed,
            _purger: AbortOnDropHandle::new(tokio::spawn(purger)),
            options,
            lease,
        }
    }

    /// The fencing token of this reader's lease.
    pub fn token(&self) -> u64 {
        self.lease.token()
    }

    /// The newest message of the output that has to be there, to go on publishing from.
    pub fn newest_passed(&self) -> Option<Stored> {
        self.passed.clone()
    }

    /// Where it passes on what it reads.
    pub fn output(&self) -> Option<&Output> {
        self.options.output.as_ref()
    }

    /// How far the floor has gone back at the start, because the output had lost something.
    pub fn taken_back(&self) -> Option<&TakenBack> {
        self.taken_back.as_ref()
    }

    /// Notes with every floor what the output has then.
    pub fn follow(&mut self, acknowledged: Arc<Acknowledged>) {
        self.passed_on = Some(acknowledged);
    }

    /// Whose letters this reader keeps.
    pub fn correspondent(&self) -> Correspondent {
        let found = self.lease.found();
        Correspondent {
            stream: self.options.stream.clone(),
            reader: self.options.consumer.clone(),
            token: self.lease.token(),
            seen: found.and_then(|found| found.letters_seen),
            marks: self.lease.advancer(),
        }
    }

    /// Makes a new cursor behind the newest message seen, because something is odd.
    fn reopen(&mut self, reason: &dyn std::fmt::Display) {
        let pause = self.backoff.next_delay();
        self.open_after(pause, reason);
    }

    /// Makes a new cursor behind the newest message seen. What the old one still has is forgotten, and so is what was
    /// found out under its subjects.
    fn open_after(&mut self, pause: Duration, reason: &dyn std::fmt::Display) {
        tracing::debug!(stream = self.options.stream, after = self.seen.sequence, %reason, ?pause, "reading anew");
        let open = open(
            self.bus.clone(),
            self.options.clone(),
            self.stream_created,
            self.seen,
            pause,
        );
        self.cursor = Cursor::Opening(Box::pin(open));
        self.probe = None;
    }

    /// Waits until something has happened; returns what is to be delivered for it, if anything.
    async fn step(&mut self) -> Result<Option<Delivery>, Error> {
        let reading = match &mut self.cursor {
            Cursor::Reading(reading) => reading,
            Cursor::Opening(opening) => {
                match opening.await {
                    Ok(open) => {
                        self.pending = open.pending;
                        self.cursor = Cursor::Reading(Box::new(open));
                    }
                    Err(error) => {
                        self.reopen(&error);
                        if !error.is_retryable() || matches!(error, Error::LostEnd { .. }) {
                            return Err(error);
                        }
                    }
                }
                return Ok(None);
            }
        };
        tokio::select! {
            biased;
            Ok(()) = reading.losses.changed() => self.reopen(&"the connection was lost"),
            message = reading.messages.next() => match message {
                Some(Ok(message)) => return self.take(message),
                Some(Err(error)) => self.reopen(&error),
                None => self.reopen(&"the server ended the delivery"),
            },
            probed = probed(&mut self.probe), if self.probe.is_some() => {
                self.probe = None;
                return Ok(self.probed(probed?));
            }
            () = &mut self.idle, if self.probe.is_none() => {
                self.idle.as_mut().reset(Instant::now() + IDLE);
                let probe = position::ahead(self.bus.clone(), self.options.clone(), self.seen);
                self.probe = Some(Box::pin(probe));
            }
        }
        Ok(None)
    }

    fn take(&mut self, message: jetstream::Message) -> Result<Option<Delivery>, Error> {
        let Cursor::Reading(reading) = &mut self.cursor else {
            return Ok(None);
        };
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => {
                self.reopen(&error);
                return Ok(None);
            }
        };
        if info.consumer_sequence != reading.delivered + 1
            || info.stream_sequence <= self.seen.sequence
        {
            let reason = format!(
                "delivery {} with message {} followed delivery {} with message {}",
                info.consumer_sequence, info.stream_sequence, reading.delivered, self.seen.sequence
            );
            self.reopen(&reason);
            return Ok(None);
        }
        reading.delivered = info.consumer_sequence;
        self.pending = info.pending;
        self.passes_over(info.stream_sequence - 1);
        let time = stream::nanos(info.published.unix_timestamp_nanos());
        self.seen = Position {
            sequence: info.stream_sequence,
            time,
        };
        self.backoff.reset();
        self.arrived = Instant::now();
        self.idle.as_mut().reset(self.arrived + IDLE);
        let raw = Raw {
            sequence: self.seen.sequence,
            time,
            subject: message.subject.as_str(),
            headers: message.headers.as_ref(),
            body: message.payload.clone(),
        };
        self.inbound.take(raw).map_err(|reason| Error::Newer {
            stream: self.options.stream.clone(),
            sequence: self.seen.sequence,
            reason,
        })
    }

    /// Counts what was not delivered up to here: without a filter that is only what has been removed.
    fn passes_over(&mut self, upto: u64) {
        if !self.options.filter_subjects.is_empty() {
            self.left_out += upto - self.seen.sequence;
        }
    }

    /// Moves on to where the stream ends for this reader, if nothing was read meanwhile.
    fn probed(&mut self, found: Ahead) -> Option<Delivery> {
        match found {
            Ahead::Nothing(end) if end.sequence > self.seen.sequence => {
                self.passes_over(end.sequence);
                self.seen = end;
                self.pending = 0;
                return Some(self.inbound.nothing_up_to(end.sequence, end.time));
            }
            Ahead::Unread if self.arrived.elapsed() > STALLED => {
                self.arrived = Instant::now();
                self.reopen(&"messages are due and do not come");
            }
            // Opening says what that means.
            Ahead::Gone => self.reopen(&"the stream is gone"),
            Ahead::Nothing(_) | Ahead::Unread | Ahead::Unknown => {}
        }
        None
    }
}

async fn probed(probe: &mut Option<Pending<Ahead>>) -> Result<Ahead, Error> {
    match probe {
        Some(probe) => match probe.await {
            Err(error) if error.is_retryable() => Ok(Ahead::Unknown),
            probed => probed,
        },
        None => std::future::pending().await,
    }
}

impl MessageSource for JetStreamReader {
    async fn next(&mut self) -> Result<Option<Delivery>, Fault> {
        loop {
            self.lease.check_fault()?;
            if let Some(delivery) = self.step().await? {
                return Ok(Some(delivery));
            }
        }
    }

    async fn commit(&mut self, floor: u64) -> Result<(), Fault> {
        self.lease.check_fault()?;
        if let Some(settled) = self.inbound.settle(floor) {
            let passed_on = self.passed_on.as_ref();
            let newest = passed_on.and_then(|acknowledged| acknowledged.newest());
            self.lease.advance(|mark| {
                mark.floor = settled.floor;
                mark.floor_time = settled.floor_time;
                if let Some(passed) = &mut mark.passed {
                    let raised = settled.fences.iter().map(|(partition, _)| &**partition);
                    passed.raise(&mark.fences, raised);
                    passed.reach(settled.floor, settled.floor_time, newest, now_ms());
                }
                for (partition, fence) in settled.fences {
                    mark.fences.insert(partition.to_string(), fence);
                }
            });
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Fault> {
        Ok(self.lease.release().await?)
    }

    fn want(&mut self, subjects: &[String]) {
        if self.options.filter_subjects == subjects {
            return;
        }
        self.options.filter_subjects = subjects.to_vec();
        self.lease
            .advance(|mark| mark.filter_subjects = subjects.to_vec());
        self.open_after(Duration::ZERO, &"other subjects are wanted");
    }

    fn left_out(&self) -> u64 {
        self.left_out
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn tenure(&self) -> Tenure {
        self.lease.tenure()
    }
}
