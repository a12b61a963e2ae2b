//! How fast batches go into a stream and come out of it: 1,000 documents of 1 KB each, with and
//! without compression, against a real nats-server of its own.
//!
//! ```text
//! cargo run --release -p bus --example throughput
//! ```

use std::{
    collections::VecDeque,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bus::{
    Bus, ConnectOptions, JetStreamReader, JetStreamSink, ReaderOptions, SinkOptions, StreamSpec,
    stream,
};
use model::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, Origin, Root, Tenant, Version,
};
use pipeline::{MessageSink, MessageSource, Payload, Tenure};
use testkit::{NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;

const BATCHES: u64 = 300;
const DOCUMENTS: u64 = 1000;
/// How many batches are under way.
const WINDOW: usize = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = "max_payload: 8MB".to_owned();
    let server = NatsServer::start(NatsOptions {
        config,
        ..NatsOptions::default()
    })
    .await?;
    let bus = ConnectOptions {
        url: server.url(),
        ..ConnectOptions::default()
    }
    .connect()
    .await?;
    let batches: Vec<_> = (0..10).map(batch).collect();
    println!(
        "{:>6} {:>8} {:>12} {:>10} {:>10} {:>9}",
        "zstd", "way", "documents/s", "MB/s", "µs CPU/doc", "bytes/doc"
    );
    for zstd_level in [None, Some(1), Some(3)] {
        let name = zstd_level.map_or("none".to_owned(), |level| level.to_string());
        let spec = StreamSpec::new(&format!("Z{name}"), &format!("es.{name}.>"));
        stream::ensure(&bus, &spec).await?;
        let wire = publish(&bus, &spec.name, &name, zstd_level, &batches).await?;
        read(&bus, &spec.name, &name, wire).await?;
        bus.jetstream().delete_stream(&spec.name).await?;
    }
    Ok(())
}

async fn publish(
    bus: &Bus,
    stream: &str,
    name: &str,
    zstd_level: Option<i32>,
    batches: &[Arc<Batch>],
) -> anyhow::Result<u64> {
    let options = SinkOptions {
        stream: stream.to_owned(),
        root: Root::Changes,
        tenant: Tenant::try_from(name)?,
        zstd_level,
        token: 1,
        tenure: Tenure::unlimited(),
        ack_timeout: Duration::from_secs(30),
        newest: None,
    };
    let mut sink = JetStreamSink::new(bus, options);
    let measure = Measure::start()?;
    let mut under_way = VecDeque::new();
    for at in 0..BATCHES {
        if under_way.len() == WINDOW {
            under_way.pop_front().context("the window is full")?.await?;
        }
        under_way.push_back(
            sink.publish(&batches[at as usize % batches.len()], 0)
                .await?,
        );
    }
    for receipt in under_way {
        receipt.await?;
    }
    let stats = sink.stats();
    let wire = stats.wire_bytes() / (BATCHES * DOCUMENTS);
    measure.print(name, "publish", stats.raw_bytes(), wire)?;
    Ok(wire)
}

async fn read(bus: &Bus, stream: &str, name: &str, wire: u64) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let opened = JetStreamReader::open(bus, ReaderOptions::new(stream, "r"), &shutdown).await?;
    let mut reader = opened.context("nobody cancels it")?;
    let measure = Measure::start()?;
    let (mut documents, mut bytes) = (0, 0);
    while documents < BATCHES * DOCUMENTS {
        let delivery = reader.next().await?.context("the log does not end")?;
        if let Payload::Batch(batch) = delivery.payload {
            documents += batch.changes().len() as u64;
            bytes += batch.size() as u64;
        }
        reader.commit(delivery.sequence).await?;
    }
    measure.print(name, "read", bytes, wire)?;
    reader.close().await?;
    Ok(())
}

struct Measure {
    began: Instant,
    cpu: Duration,
}

impl Measure {
    fn start() -> anyhow::Result<Measure> {
        Ok(Measure {
            began: Instant::now(),
            cpu: cpu_time()?,
        })
    }

    fn print(&self, zstd: &str, way: &str, bytes: u64, wire: u64) -> anyhow::Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        let documents = (BATCHES * DOCUMENTS) as f64;
        let cpu = (cpu_time()? - self.cpu).as_secs_f64() * 1e6 / documents;
        println!(
            "{zstd:>6} {way:>8} {:>12.0} {:>10.0} {cpu:>10.2} {wire:>9}",
            documents / seconds,
            bytes as f64 / 1e6 / seconds
        );
        Ok(())
    }
}

/// User and system time of this process, from the kernel.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat
        .rsplit_once(')')
        .context("/proc/self/stat has a name in parentheses")?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (
        ticks.next().context("utime")??,
        ticks.next().context("stime")??,
    );
    Ok(Duration::from_millis((user + system) * 10))
}

/// Documents of about 1 KB with words, so that they compress like real ones do.
fn batch(number: u64) -> Arc<Batch> {
    const WORDS: [&str; 12] = [
        "carrier", "delay", "origin", "weather", "north", "runway", "arrival", "gate", "minutes",
        "tower", "flight", "summer",
    ];
    let mut dice = fastrand::Rng::with_seed(number);
    let document = |id: u64, dice: &mut fastrand::Rng| {
        let mut json = format!("{{\"id\":{id},\"distance\":{},\"text\":\"", dice.u32(..));
        while json.len() < 1000 {
            write!(
                json,
                "{} {} ",
                WORDS[dice.usize(..WORDS.len())],
                dice.u16(..)
            )
            .expect("memory");
        }
        json + "\"}"
    };
    let change = |id: u64| Change {
        id: DocumentId::try_from(format!("doc-{id}").as_str()).expect("a valid id"),
        routing: None,
        version: Version::new(Epoch(0), id).expect("small"),
        over: false,
        action: Action::Index(Document::from_json(document(id, &mut dice).into())),
    };
    Arc::new(Batch {
        index: "flights".parse().expect("a valid name"),
        origin: Origin::now("p".into()),
        content: Content::Changes(
            (number * DOCUMENTS..(number + 1) * DOCUMENTS)
                .map(change)
                .collect(),
        ),
    })
}
