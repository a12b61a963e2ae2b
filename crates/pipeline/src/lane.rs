//! One of several writers side by side. All changes of a document go through the same lane, one bulk
//! after the other, so that they reach the target in the log's order.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use model::{Batch, Change, IndexName};
use runtime::{backoff::Backoff, throttle::Throttle};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ApplyOptions, DeadLetters, Fault, Observer, Outcome, Replay, Tenure, Writer, gate::Gate,
};

mod letters;

/// How long before the end of the tenure a bulk that is not answered is given up.
const MARGIN: Duration = Duration::from_millis(200);

/// The changes of one log entry that belong to one lane.
pub(crate) struct Part {
    pub(crate) sequence: u64,
    /// The subject it stands under.
    pub(crate) subject: Option<Arc<str>>,
    /// Whether it is a dead letter that was sent again.
    pub(crate) replay: Option<Replay>,
    pub(crate) batch: Arc<Batch>,
    /// Which of the batch's changes.
    pub(crate) picks: Vec<u32>,
    pub(crate) bytes: usize,
}

pub(crate) struct Lane<W, D, O> {
    pub(crate) writer: Arc<W>,
    pub(crate) dead_letters: Arc<D>,
    pub(crate) observer: Arc<O>,
    pub(crate) tenure: Tenure,
    pub(crate) options: ApplyOptions,
    /// Shared by all lanes.
    pub(crate) gate: Arc<Gate>,
    /// Shared by all lanes.
    pub(crate) throttle: Arc<Throttle>,
    /// Cancelled when what does not work at once has no time left to work later.
    pub(crate) stop: CancellationToken,
}

/// Why a lane stops before its work is done.
enum Stop {
    Failed(Fault),
    /// The loop is ending and the target does not answer; the rest stays in the log.
    GivenUp,
}

/// A change in a bulk.
#[derive(Clone, Copy)]
struct Item<'a> {
    part: &'a Part,
    change: &'a Change,
}

impl Item<'_> {
    fn is_newer_than(&self, earlier: &Item<'_>) -> bool {
        let (version, held) = (self.change.version, earlier.change.version);
        // What was asked for again stands for the same change that comes once more.
        let stands = earlier.change.over && !self.change.over && self.change.document().is_some();
        version > held || (version == held && self.part.replay.is_none() && !stands)
    }
}

impl<W: Writer, D: DeadLetters, O: Observer> Lane<W, D, O> {
    /// Writes what comes until the channel closes, and reports every part that is done.
    pub(crate) async fn run(
        self,
        mut parts: mpsc::Receiver<Part>,
        settled: mpsc::Sender<u64>,
    ) -> Result<(), Fault> {
        while let Some(parts) = self.gather(&mut parts).await {
            match self.write(&parts).await {
                Ok(()) => {}
                Err(Stop::GivenUp) => return Ok(()),
                Err(Stop::Failed(fault)) => return Err(fault),
            }
            for part in parts {
                if settled.send(part.sequence).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes what is there, up to a bulk's limits, and waits a moment for more. While a bulk is
    /// under way the next one grows, so a busy lane writes large ones without waiting.
    async fn gather(&self, incoming: &mut mpsc::Receiver<Part>) -> Option<Vec<Part>> {
        let first = incoming.recv().await?;
        let (mut count, mut bytes) = (first.picks.len(), first.bytes);
        let mut parts = vec![first];
        let deadline = Instant::now() + self.options.linger;
        while count < self.options.bulk_count && bytes < self.options.bulk_bytes {
            let Ok(Some(part)) = timeout_at(deadline, incoming.recv()).await else {
                break;
            };
            count += part.picks.len();
            bytes += part.bytes;
            parts.push(part);
        }
        Some(parts)
    }

    async fn write(&self, parts: &[Part]) -> Result<(), Stop> {
        for (index, items) in by_index(parts) {
            let items = self.without_late_replays(index, items).await?;
            let (newest, superseded) = newest_of_each(parts.len(), items);
            for bulk in self.bulks(&newest) {
                self.write_bulk(index, bulk).await?;
            }
            for item in superseded {
                self.observer
                    .settled(&item.part.batch, item.change, &Outcome::AlreadyApplied);
                self.superseded(item);
            }
        }
        Ok(())
    }

    /// Cuts the changes of an index into bulks within the limits.
    fn bulks<'a, 'b>(&self, items: &'b [Item<'a>]) -> Vec<&'b [Item<'a>]> {
        let mut bulks = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, item) in items.iter().enumerate() {
            let full = at - start >= self.options.bulk_count || bytes >= self.options.bulk_bytes;
            if full {
                bulks.push(&items[start..at]);
                (start, bytes) = (at, 0);
            }
            bytes += item.change.size();
        }
        bulks.push(&items[start..]);
        bulks
    }

    /// Writes a bulk until every change in it has a final outcome; only what failed is sent again.
    async fn write_bulk(&self, index: &IndexName, bulk: &[Item<'_>]) -> Result<(), Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut pending = bulk.to_vec();
        let mut retried = false;
        tokio::select! {
            // What is under way at the end is finished at any rate.
            () = self.stop.cancelled() => {}
            () = self.throttle.take(pending.len()) => {}
        }
        while !pending.is_empty() {
            let changes: Vec<&Change> = pending.iter().map(|item| item.change).collect();
            let permit = self.gate.enter(&self.stop).await.ok_or(Stop::GivenUp)?;
            let deadline = self.deadline().await?;
            let written = tokio::select! {
                biased;
                written = self.writer.write(index, &changes, deadline) => written,
                // However long it takes while the tenure is renewed: a large document on a busy target
                // would never be written if it had to be within what is left of it now.
                () = self.tenure.nearly_over(MARGIN) => {
                    Err(Fault::retry("the lease has nearly run out and the target has not answered"))
                }
            };
            match written {
                Ok(outcomes) => {
                    permit.answered(!outcomes.iter().any(|o| matches!(o, Outcome::Retry(_))));
                    self.observer.concurrency(self.gate.limit());
                    if let Some(reason) = self.settle(index, &mut pending, outcomes).await? {
                        retried = true;
                        self.pause("write", &reason, &mut backoff).await?;
                    }
                }
                Err(fault) if fault.is_retryable() => {
                    retried = true;
                    // All lanes wait for the same target; one of them says so.
                    if let Some(pause) = permit.failed() {
                        self.observer.retrying("write", &fault, pause);
                    }
                }
                Err(fault) => return Err(Stop::Failed(fault)),
            }
        }
        if retried {
            self.observer.recovered("write");
        }
        Ok(())
    }

    /// Takes the settled changes out of `pending`; returns why the first of the rest has to wait.
    async fn settle(
        &self,
        index: &IndexName,
        pending: &mut Vec<Item<'_>>,
        outcomes: Vec<Outcome>,
    ) -> Result<Option<String>, Stop> {
        assert_eq!(
            outcomes.len(),
            pending.len(),
            "a writer answers for every change"
        );
        let mut unsettled = Vec::new();
        let mut reason = None;
        for (item, outcome) in pending.drain(..).zip(outcomes) {
            match &outcome {
                Outcome::Retry(why) => {
                    reason.get_or_insert_with(|| why.clone());
                    unsettled.push(item);
                    continue;
                }
                Outcome::Refused(why) => self.park(index, item, why).await?,
                Outcome::Applied | Outcome::AlreadyApplied | Outcome::Superseded(_) => {
                    self.supersede(index, item).await?;
                }
            }
            self.observer
                .settled(&item.part.batch, item.change, &outcome);
            self.replayed(item, &outcome);
        }
        *pending = unsettled;
        Ok(reason)
    }

    async fn pause(
        &self,
        what: &'static str,
        reason: &str,
        backoff: &mut Backoff,
    ) -> Result<(), Stop> {
        let pause = backoff.next_delay();
        self.observer.retrying(what, &reason, pause);
        tokio::select! {
            () = self.stop.cancelled() => Err(Stop::GivenUp),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Until when the target may begin with the next bulk: not after the reader's tenure. Where the
    /// tenure has run out, waits until it is renewed: the reader itself ends when it has lost it.
    async fn deadline(&self) -> Result<Option<Duration>, Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            match self.tenure.remaining() {
                Some(Duration::ZERO) => {
                    let reason = "the lease has run out and is not renewed yet";
                    self.pause("lease", reason, &mut backoff).await?;
                }
                remaining => return Ok(remaining),
            }
        }
    }
}

/// The changes of all parts, sorted by index; within an index they stay in order.
fn by_index(parts: &[Part]) -> Vec<(&IndexName, Vec<Item<'_>>)> {
    let mut groups: Vec<(&IndexName, Vec<Item<'_>>)> = Vec::new();
    for part in parts {
        let index = &part.batch.index;
        let at = match groups.iter().position(|(name, _)| *name == index) {
            Some(at) => at,
            None => {
                groups.push((index, Vec::new()));
                groups.len() - 1
            }
        };
        let changes = part.batch.changes();
        let items = part.picks.iter().map(|pick| Item {
            part,
            change: &changes[*pick as usize],
        });
        groups[at].1.extend(items);
    }
    groups
}

/// Keeps only the newest change of each document: one request must not hold two, because if only the
/// older failed and was sent again, it would come after the newer. Returns the rest apart.
///
/// The newest is the one with the highest version, and among equals the last in the log: a
/// repetition after a failure can put an old change behind a newer one. A replay is never newer than a
/// change of the same version, which may be the delete of that document.
fn newest_of_each<'a>(parts: usize, items: Vec<Item<'a>>) -> (Vec<Item<'a>>, Vec<Item<'a>>) {
    if parts == 1 {
        return (items, Vec::new()); // a document occurs only once in a batch
    }
    let mut newest: Vec<Item<'a>> = Vec::with_capacity(items.len());
    let mut superseded = Vec::new();
    let mut places: HashMap<(&str, Option<&str>), usize> = HashMap::with_capacity(items.len());
    for item in items {
        let key = (item.change.id.as_str(), item.change.routing.as_deref());
        match places.entry(key) {
            Entry::Vacant(place) => {
                place.insert(newest.len());
                newest.push(item);
            }
            Entry::Occupied(place) => {
                let held = &mut newest[*place.get()];
                let older = if item.is_newer_than(held) {
                    std::mem::replace(held, item)
                } else {
                    item
                };
                superseded.push(older);
            }
        }
    }
    (newest, superseded)
}
