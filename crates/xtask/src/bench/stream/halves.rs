//! The loops of watcher and writer in this process, between batches in memory and a target that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bus::{Bus, JetStreamReader, JetStreamSink, ReaderOptions, SinkOptions};
use model::{
    Batch, Change, Content, IndexDefinition, IndexName, Origin, Root, Tenant, Version, wire,
};
use pipeline::fake::MemoryStore;
use pipeline::{
    ApplyOptions, Captured, ChangeSource, Fault, Outcome, PublishOptions, Tenure, Writer,
};
use testkit::process::Usage;
use tokio_util::sync::CancellationToken;

use crate::bench::bare::change;
use crate::bench::runs::Run;

/// How large a batch is, about as large as the pages that the watcher reads.
const BATCH: usize = 1 << 20;
/// How many different batches there are.
const BATCHES: usize = 16;

/// Batches to publish again and again.
#[derive(Clone)]
pub(in crate::bench) struct Documents {
    batches: Vec<Arc<Batch>>,
    rounds: usize,
}

impl Documents {
    /// So many batches of these documents as make about `total`.
    pub(in crate::bench) fn new(documents: &[String], total: u64) -> Result<Documents> {
        let size = documents.first().context("a dataset has documents")?.len();
        let per_batch = (BATCH / size).max(1);
        let batch = |(at, documents): (usize, &[String])| -> Result<Arc<Batch>> {
            let first = (at * per_batch) as u64;
            let changes = (first..)
                .zip(documents)
                .map(|(number, text)| change(number, text));
            Ok(Arc::new(Batch {
                index: "flights".parse()?,
                origin: Origin::now("flights/0".into()),
                content: Content::Changes(changes.collect::<Result<_>>()?),
            }))
        };
        let batches = documents.chunks_exact(per_batch).take(BATCHES).enumerate();
        let batches: Vec<_> = batches.map(batch).collect::<Result<_>>()?;
        let in_a_round = (batches.len() * per_batch) as u64;
        Ok(Documents {
            batches,
            rounds: total.div_ceil(in_a_round) as usize,
        })
    }

    /// How many documents that are, repetitions counted.
    pub(in crate::bench) fn total(&self) -> u64 {
        let in_a_round: usize = self.batches.iter().map(|batch| batch.changes().len()).sum();
        (in_a_round * self.rounds) as u64
    }

    /// Each batch as a gateway has it from its reader: bodies that nobody has read.
    pub(in crate::bench) fn sealed(&self, encoder: &wire::Encoder) -> Result<Vec<Batch>> {
        let messages = self.batches.iter().flat_map(|batch| encoder.encode(batch));
        Ok(messages.map(wire::seal).collect::<Result<_, _>>()?)
    }

    fn source(&self) -> Repeated {
        let next = Box::new(self.batches.clone().into_iter().cycle());
        Repeated {
            left: self.batches.len() * self.rounds,
            next,
        }
    }
}

/// A source with everything in memory.
struct Repeated {
    left: usize,
    next: Box<dyn Iterator<Item = Arc<Batch>> + Send>,
}

impl ChangeSource for Repeated {
    type Position = ();

    async fn next(&mut self) -> Result<Option<Captured<()>>, Fault> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        let captured = |batch| Captured {
            batch,
            position: (),
        };
        Ok(self.next.next().map(captured))
    }

    async fn confirm(&mut self, (): ()) -> Result<(), Fault> {
        Ok(())
    }
}

/// A target that takes everything and keeps nothing.
struct Counter {
    left: AtomicU64,
    done: CancellationToken,
}

impl Writer for Counter {
    async fn write(
        &self,
        _: &IndexName,
        changes: &[&Change],
        _: Option<Duration>,
    ) -> Result<Vec<Outcome>, Fault> {
        let count = changes.len() as u64;
        if self.left.fetch_sub(count, Ordering::Relaxed) == count {
            self.done.cancel();
        }
        Ok(vec![Outcome::Applied; changes.len()])
    }

    async fn define(&self, _: &IndexName, _: &IndexDefinition) -> Result<usize, Fault> {
        Ok(0)
    }

    async fn clear(&self, _: &IndexName, _: Version, _: &Tenure) -> Result<(), Fault> {
        Ok(())
    }
}

/// From memory into the stream, until the stream has it all.
pub(in crate::bench) async fn publish(
    bus: &Bus,
    stream: &str,
    documents: &Documents,
    zstd: Option<i32>,
) -> Result<Run> {
    let measure = Measure::start()?;
    publish_all(bus, stream, documents, zstd).await?;
    measure.end(documents.total())
}

/// From the stream into nothing.
pub(in crate::bench) async fn apply(bus: &Bus, stream: &str, documents: &Documents) -> Result<Run> {
    let measure = Measure::start()?;
    apply_all(bus, stream, documents).await?;
    measure.end(documents.total())
}

/// Both at the same time, on all cores of this machine together with the server.
pub(in crate::bench) async fn both(
    bus: &Bus,
    stream: &str,
    documents: &Documents,
    zstd: Option<i32>,
) -> Result<Run> {
    let measure = Measure::start()?;
    let (log, name, all) = (bus.clone(), stream.to_owned(), documents.clone());
    // A task of its own, so that the two can run on two cores.
    let publishing = tokio::spawn(async move { publish_all(&log, &name, &all, zstd).await });
    apply_all(bus, stream, documents).await?;
    publishing.await??;
    measure.end(documents.total())
}

async fn publish_all(
    bus: &Bus,
    stream: &str,
    documents: &Documents,
    zstd_level: Option<i32>,
) -> Result<()> {
    let options = SinkOptions {
        stream: stream.to_owned(),
        root: Root::Changes,
        tenant: Tenant::try_from("bench")?,
        zstd_level,
        token: 1,
        tenure: Tenure::unlimited(),
        ack_timeout: Duration::from_secs(30),
        newest: None,
    };
    let mut sink = JetStreamSink::new(bus, options);
    let (window, never) = (PublishOptions::default(), CancellationToken::new());
    let mut source = documents.source();
    Ok(pipeline::publish(&mut source, &mut sink, &window, &(), &never).await?)
}

async fn apply_all(bus: &Bus, stream: &str, documents: &Documents) -> Result<()> {
    let done = CancellationToken::new();
    let options = ReaderOptions::new(stream, "bench");
    let reader = JetStreamReader::open(bus, options, &done).await?;
    let mut reader = reader.context("nobody cancels it")?;
    let counter = Counter {
        left: AtomicU64::new(documents.total()),
        done: done.clone(),
    };
    let applied = pipeline::apply(
        &mut reader,
        Arc::new(counter),
        Arc::new(MemoryStore::default()),
        Arc::new(()),
        ApplyOptions::default(),
        &done,
    );
    Ok(applied.await?)
}

/// What this process does meanwhile.
struct Measure {
    began: Instant,
    before: Usage,
}

impl Measure {
    fn start() -> Result<Measure> {
        Ok(Measure {
            before: Usage::of_this_process()?,
            began: Instant::now(),
        })
    }

    fn end(self, documents: u64) -> Result<Run> {
        Ok(Run {
            documents,
            elapsed: self.began.elapsed(),
            used: Some(Usage::of_this_process()?.since(&self.before)),
        })
    }
}
