//! From a log into a target: several lanes side by side, and a floor that moves only over what is
//! settled.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use model::{Batch, Content, IndexDefinition, IndexName, Version, wire};
use runtime::{backoff::Backoff, throttle::Throttle};
use tokio::{sync::mpsc, task::JoinSet, time::Interval};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    DeadLetter, DeadLetters, Delivery, Fault, Floor, MessageSource, Observer, Payload, Replay,
    Tenure, Writer,
    gate::Gate,
    lane::{Lane, Part},
    reached::Reached,
};

/// How often the loop says that it lives while it has nothing to do.
const PULSE: Duration = Duration::from_secs(5);

/// How changes are gathered and how much may be under way.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// The most bulks that are written side by side; fewer while the target is busy.
    pub lanes: usize,
    /// The most changes in a bulk.
    pub bulk_count: usize,
    /// The most changes written in a second, all lanes together.
    pub max_rate: Option<NonZeroU64>,
    /// The size, in bytes, at which a bulk takes no further change.
    pub bulk_bytes: usize,
    /// How long a bulk that is not full waits for more.
    pub linger: Duration,
    /// The most entries of the log that are read and not settled.
    pub entries: usize,
    /// Their most bytes; one entry may always be under way, however large.
    pub bytes: usize,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        ApplyOptions {
            lanes: 4,
            bulk_count: 1000,
            max_rate: None,
            bulk_bytes: 5 << 20,
            linger: Duration::ZERO,
            entries: 1024,
            bytes: 8 << 20,
        }
    }
}

/// Writes what `source` delivers until the log ends, something fails for good, or `shutdown` is
/// cancelled; then what is under way is finished, the floor is stored and the log is closed.
///
/// # Errors
/// The first fatal fault of any part. Nothing that is not settled is below the floor then either.
pub async fn apply<M, W, D, O>(
    source: &mut M,
    writer: Arc<W>,
    dead_letters: Arc<D>,
    observer: Arc<O>,
    options: ApplyOptions,
    shutdown: &CancellationToken,
) -> Result<(), Fault>
where
    M: MessageSource,
    W: Writer,
    D: DeadLetters,
    O: Observer,
{
    let (settled_tx, mut settled) = mpsc::channel(options.entries * options.lanes + 1);
    let mut applier = Applier {
        writer,
        dead_letters,
        observer,
        stop: shutdown.child_token(),
        floor: Floor::default(),
        committed: 0,
        lanes: Vec::new(),
        tasks: JoinSet::new(),
        barrier: None,
        reached: Reached::default(),
    };
    applier.start_lanes(source, &options, &settled_tx);
    drop(settled_tx);

    let read = applier.read(source, &mut settled, &options).await;
    if read.is_err() {
        applier.stop.cancel();
    }
    applier.lanes.clear();
    while let Some(sequence) = settled.recv().await {
        applier.settled(source, sequence).await?;
    }
    let lanes = applier.join_lanes().await;
    let read = match read.is_ok() && lanes.is_ok() {
        true => applier.tell_the_rest(source).await,
        false => read,
    };
    let closed = source.close().await;
    read.and(lanes).and(closed)
}

/// An entry of the log that says that everything before it in an index is gone.
struct Barrier {
    sequence: u64,
    index: IndexName,
    upto: Version,
}

struct Applier<W, D, O> {
    writer: Arc<W>,
    dead_letters: Arc<D>,
    observer: Arc<O>,
    /// Ends what waits for better times: with the process, or with the reading.
    stop: CancellationToken,
    floor: Floor,
    committed: u64,
    lanes: Vec<mpsc::Sender<Part>>,
    /// What has to wait until everything before it is settled, and everything after it for it.
    barrier: Option<Barrier>,
    reached: Reached,
    tasks: JoinSet<Result<(), Fault>>,
}

impl<W: Writer, D: DeadLetters, O: Observer> Applier<W, D, O> {
    fn start_lanes(
        &mut self,
        source: &impl MessageSource,
        options: &ApplyOptions,
        settled: &mpsc::Sender<u64>,
    ) {
        let gate = Arc::new(Gate::new(options.lanes));
        let throttle = Arc::new(Throttle::new(options.max_rate));
        for _ in 0..options.lanes.max(1) {
            // An entry has at most one part per lane, so there is always room for it.
            let (lane, parts) = mpsc::channel(options.entries + 1);
            self.lanes.push(lane);
            let lane = Lane {
                writer: Arc::clone(&self.writer),
                dead_letters: Arc::clone(&self.dead_letters),
                observer: Arc::clone(&self.observer),
                tenure: source.tenure(),
                options: options.clone(),
                gate: Arc::clone(&gate),
                throttle: Arc::clone(&throttle),
                stop: self.stop.clone(),
            };
            self.tasks.spawn(lane.run(parts, settled.clone()));
        }
    }

    /// Reads and hands out until the log ends or the process does.
    async fn read<M: MessageSource>(
        &mut self,
        source: &mut M,
        settled: &mut mpsc::Receiver<u64>,
        options: &ApplyOptions,
    ) -> Result<(), Fault> {
        let shutdown = self.stop.clone();
        let mut pulse = tokio::time::interval(PULSE);
        loop {
            self.tell();
            let entries = self.floor.entries();
            if entries == 0
                && let Some(barrier) = self.barrier.take()
            {
                if self.clear(source.tenure(), &barrier, &mut pulse).await? {
                    self.floor.open(barrier.sequence, 0, 0);
                    self.commit(source).await?;
                }
                continue;
            }
            let room = self.barrier.is_none()
                && (entries == 0
                    || (entries < options.entries && self.floor.bytes() < options.bytes));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = pulse.tick() => {
                    self.observer.alive();
                    self.observer.pending(source.pending());
                }
                Some(ended) = self.tasks.join_next() => lane_result(ended)?,
                Some(sequence) = settled.recv(), if entries > 0 => {
                    self.settled(source, sequence).await?;
                }
                told = self.reached.told(), if self.reached.is_under_way() => {
                    self.told(source, told?).await?;
                }
                delivery = source.next(), if room => match delivery? {
                    None => return Ok(()),
                    Some(delivery) => {
                        self.dispatch(delivery).await?;
                        self.commit(source).await?;
                    }
                },
            }
        }
    }

    async fn settled(
        &mut self,
        source: &mut impl MessageSource,
        sequence: u64,
    ) -> Result<(), Fault> {
        self.floor.settle(sequence);
        self.commit(source).await
    }

    /// Has the target say how far the sources have come, as far as everything before that is settled.
    fn tell(&mut self) {
        let Some((sequences, versions)) = self.reached.due(&self.floor) else {
            return;
        };
        let (writer, observer) = (Arc::clone(&self.writer), Arc::clone(&self.observer));
        let stop = self.stop.clone();
        let telling = async move {
            let what = "position";
            until_it_works(&*observer, &stop, what, || writer.reached(&versions)).await
        };
        self.reached.begun(sequences, tokio::spawn(telling));
    }

    async fn told(
        &mut self,
        source: &mut impl MessageSource,
        sequences: Vec<u64>,
    ) -> Result<(), Fault> {
        for sequence in sequences {
            self.floor.settle(sequence);
        }
        self.commit(source).await
    }

    /// The same at the end, when nothing else is under way.
    async fn tell_the_rest(&mut self, source: &mut impl MessageSource) -> Result<(), Fault> {
        loop {
            self.tell();
            if !self.reached.is_under_way() {
                return Ok(());
            }
            let told = self.reached.told().await?;
            if told.is_empty() {
                return Ok(());
            }
            self.told(source, told).await?;
        }
    }

    async fn commit(&mut self, source: &mut impl MessageSource) -> Result<(), Fault> {
        self.observer
            .in_flight(self.floor.entries(), self.floor.bytes());
        let floor = self.floor.get();
        if floor > self.committed {
            source.commit(floor).await?;
            self.committed = floor;
        }
        Ok(())
    }

    async fn dispatch(&mut self, delivery: Delivery) -> Result<(), Fault> {
        let Delivery {
            sequence,
            subject,
            payload,
        } = delivery;
        match payload {
            Payload::Nothing => self.floor.open(sequence, 0, 0),
            Payload::Replay(batch, replay) => {
                return self.hand_out(sequence, subject, batch, Some(replay)).await;
            }
            Payload::Batch(batch) => match &batch.content {
                // Only readers that ask for it are given it; whoever writes has to see the changes.
                Content::Sealed(sealed) => match wire::open(&batch) {
                    Ok(opened) => {
                        let opened = Arc::new(opened);
                        return self.hand_out(sequence, subject, opened, None).await;
                    }
                    Err(error) => {
                        let payload = Payload::Unreadable {
                            reason: error.to_string(),
                            body: sealed.body.clone(),
                        };
                        let delivery = Delivery {
                            sequence,
                            subject,
                            payload,
                        };
                        return Box::pin(self.dispatch(delivery)).await;
                    }
                },
                Content::Changes(_) => {
                    return self.hand_out(sequence, subject, batch, None).await;
                }
                Content::Definition(definition) => {
                    if self.define(&batch.index, definition).await? {
                        self.floor.open(sequence, 0, 0);
                    }
                }
                Content::Reached(version) => {
                    self.floor.open(sequence, 1, 0);
                    self.reached.push(sequence, batch.index.clone(), *version);
                }
                Content::Clear(upto) => {
                    self.barrier = Some(Barrier {
                        sequence,
                        index: batch.index.clone(),
                        upto: *upto,
                    });
                }
            },
            Payload::Unreadable { reason, body } => {
                let letter = DeadLetter {
                    sequence,
                    index: subject.as_deref().unwrap_or_default().to_owned(),
                    subject,
                    change: None,
                    body,
                    reason,
                };
                if self.park(letter).await? {
                    self.floor.open(sequence, 0, 0);
                }
            }
        }
        Ok(())
    }

    /// Splits a batch by lane.
    async fn hand_out(
        &mut self,
        sequence: u64,
        subject: Option<Arc<str>>,
        batch: Arc<Batch>,
        replay: Option<Replay>,
    ) -> Result<(), Fault> {
        let lanes = self.lanes.len() as u64;
        let index = xxh3_64(batch.index.as_str().as_bytes());
        let mut picks: Vec<(Vec<u32>, usize)> = vec![Default::default(); self.lanes.len()];
        for (at, change) in batch.changes().iter().enumerate() {
            let lane = (index ^ xxh3_64(change.id.as_str().as_bytes())) % lanes;
            let (picks, bytes) = &mut picks[lane as usize];
            picks.push(at as u32);
            *bytes += change.size();
        }
        let pieces = picks.iter().filter(|(picks, _)| !picks.is_empty()).count();
        self.floor.open(sequence, pieces, batch.size());
        for (lane, (picks, bytes)) in self.lanes.iter().zip(picks) {
            if !picks.is_empty() {
                let part = Part {
                    sequence,
                    subject: subject.clone(),
                    replay: replay.clone(),
                    batch: Arc::clone(&batch),
                    picks,
                    bytes,
                };
                // A lane that is gone has left its reason in its task, which is met next.
                let _gone = lane.send(part).await;
            }
        }
        Ok(())
    }

    /// Defines an index before any later entry is handed out. False when the process ends first.
    async fn define(&self, index: &IndexName, definition: &IndexDefinition) -> Result<bool, Fault> {
        self.until_it_works("define index", async || {
            let drift = self.writer.define(index, definition).await?;
            self.observer.drift(index, drift);
            Ok(())
        })
        .await
    }

    /// Clears an index, while nothing else is under way. False when the process ends first.
    async fn clear(
        &self,
        tenure: Tenure,
        barrier: &Barrier,
        pulse: &mut Interval,
    ) -> Result<bool, Fault> {
        let (index, upto) = (&barrier.index, barrier.upto);
        let clearing = self.until_it_works("clear index", async || {
            self.writer.clear(index, upto, &tenure).await?;
            self.dead_letters.clear(index, upto).await
        });
        tokio::pin!(clearing);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                _ = pulse.tick() => self.observer.alive(),
                cleared = &mut clearing => return cleared,
            }
        }
    }

    async fn park(&self, letter: DeadLetter) -> Result<bool, Fault> {
        self.until_it_works("dead letter", || self.dead_letters.park(letter.clone()))
            .await
    }

    async fn until_it_works<F>(
        &self,
        what: &'static str,
        operation: impl FnMut() -> F,
    ) -> Result<bool, Fault>
    where
        F: Future<Output = Result<(), Fault>>,
    {
        until_it_works(&*self.observer, &self.stop, what, operation).await
    }

    async fn join_lanes(&mut self) -> Result<(), Fault> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(lane_result(ended));
        }
        result
    }
}

/// Does it until it works. False when the process ends first.
async fn until_it_works<F>(
    observer: &impl Observer,
    stop: &CancellationToken,
    what: &'static str,
    mut operation: impl FnMut() -> F,
) -> Result<bool, Fault>
where
    F: Future<Output = Result<(), Fault>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        match operation().await {
            Ok(()) => {
                if backoff.attempts() > 0 {
                    observer.recovered(what);
                }
                return Ok(true);
            }
            Err(fault) if fault.is_retryable() => {
                let pause = backoff.next_delay();
                observer.retrying(what, &fault, pause);
                tokio::select! {
                    () = stop.cancelled() => return Ok(false),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(fault) => return Err(fault),
        }
    }
}

fn lane_result(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
    ended.unwrap_or_else(|panic| Err(Fault::fatal(panic)))
}
