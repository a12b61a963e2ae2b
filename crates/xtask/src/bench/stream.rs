//! Into JetStream and out of it: documents a second, processor time and bytes for each document, with and without zstd.
//!
//! The halves that need no cluster run in this process, through the loops and seams that the services use: publishing
//! from batches that are there already ([`pipeline::publish()`] into the real sink), and applying from the real reader
//! into a target that only counts. The watcher is also measured as it is, a process that reads a real node.

pub(super) mod halves;

use std::time::Duration;

use anyhow::{Context as _, Result};
use bus::{Bus, ConnectOptions, StreamSpec, stream};
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::Run;
use crate::carrier::until_published;
use crate::indices::Index;
use halves::Documents;

const STREAM: &str = bus::stream::ES_CHANGES;

/// One measurement.
struct Row {
    what: &'static str,
    documents: &'static str,
    zstd: Option<i32>,
    run: Run,
    /// What nats-server used meanwhile.
    server: Duration,
    /// What the stream keeps for each document.
    wire: f64,
}

pub(super) async fn run(context: &Context) -> Result<()> {
    let flights = Index::FLIGHTS.documents()?;
    let kinds = [
        ("flights, 300 B", flights.clone()),
        ("three flights, 1 KB", in_threes(&flights)),
    ];
    let mut rows = Vec::new();
    for (name, documents) in &kinds {
        let total = context.pick(500_000, 50_000);
        let documents = Documents::new(documents, total)?;
        for zstd in [None, Some(1)] {
            rows.extend(in_process(name, &documents, zstd).await?);
        }
    }
    eprintln!("stream: starting {}…", Product::Es8);
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    let source = SearchNode::start_with(Product::Es8, options).await?;
    for (name, documents) in &kinds {
        let total = context.pick(300_000, 30_000);
        Index::FLIGHTS.create(&source.http()).await?;
        Index::FLIGHTS
            .fill(&source.http(), documents, total)
            .await?;
        watcher(context, name, &source, None, total).await?; // the node warms up
        for zstd in [None, Some(1)] {
            rows.push(watcher(context, name, &source, zstd, total).await?);
        }
    }
    print(&rows);
    let figures: Vec<Value> = rows.iter().map(Row::figures).collect();
    report::write(context, "stream", json!(figures))
}

/// Documents of 1 KB that compress as real ones do.
fn in_threes(flights: &[String]) -> Vec<String> {
    let three = |three: &[String]| format!("{{\"legs\":[{}]}}", three.join(","));
    flights.chunks_exact(3).map(three).collect()
}

/// Publishing alone, applying alone, both at once.
async fn in_process(
    name: &'static str,
    documents: &Documents,
    zstd: Option<i32>,
) -> Result<Vec<Row>> {
    eprintln!("stream: {name}, zstd {}, in this process…", level(zstd));
    let log = Log::start().await?;
    let before = log.used()?;
    let published = halves::publish(&log.bus, STREAM, documents, zstd).await?;
    let between = log.used()?;
    let wire = log.bytes().await? as f64 / documents.total() as f64;
    let applied = halves::apply(&log.bus, STREAM, documents).await?;
    let after = log.used()?;

    let fresh = Log::start().await?;
    let began = fresh.used()?;
    let both = halves::both(&fresh.bus, STREAM, documents, zstd).await?;
    let ended = fresh.used()?;

    let row = |what, run, server| Row {
        what,
        documents: name,
        zstd,
        run,
        server,
        wire,
    };
    Ok(vec![
        row("publishing half", published, between.since(&before).cpu()),
        row(
            "applying half, null target",
            applied,
            after.since(&between).cpu(),
        ),
        row("both halves at once", both, ended.since(&began).cpu()),
    ])
}

/// The real watcher from a real node.
async fn watcher(
    context: &Context,
    name: &'static str,
    source: &SearchNode,
    zstd: Option<i32>,
    total: u64,
) -> Result<Row> {
    eprintln!("stream: {name}, zstd {}, es-watcher…", level(zstd));
    let log = Log::start().await?;
    let level = zstd.unwrap_or(0).to_string();
    let (from, nats) = (source.url(), log.server.url());
    let more = ["--zstd-level", &level];
    let before = log.used()?;
    let began = std::time::Instant::now();
    let mut watcher = context
        .program
        .watcher(&from, &nats, Index::FLIGHTS.name(), &more)
        .await?;
    until_published(&mut watcher, total).await?;
    let run = Run {
        documents: total,
        elapsed: began.elapsed(),
        used: Some(watcher.process.used()?),
    };
    let server = log.used()?.since(&before).cpu();
    let wire = log.bytes().await? as f64 / total as f64;
    watcher.process.stop().await?;
    Ok(Row {
        what: "es-watcher from a real node",
        documents: name,
        zstd,
        run,
        server,
        wire,
    })
}

/// A nats-server with an empty stream.
struct Log {
    server: NatsServer,
    bus: Bus,
}

impl Log {
    async fn start() -> Result<Log> {
        let server = NatsServer::start(NatsOptions::default()).await?;
        let options = ConnectOptions {
            url: server.url(),
            name: "bench".to_owned(),
            ..ConnectOptions::default()
        };
        let bus = options.connect().await?;
        stream::ensure(&bus, &StreamSpec::new(STREAM, stream::ES_CHANGES_SUBJECTS)).await?;
        Ok(Log { server, bus })
    }

    fn used(&self) -> Result<Usage> {
        Usage::of(self.server.pid())
    }

    async fn bytes(&self) -> Result<u64> {
        let info = stream::info(&self.bus, STREAM).await?;
        Ok(info.context("the stream is there")?.bytes)
    }
}

fn level(zstd: Option<i32>) -> String {
    zstd.map_or("off".to_owned(), |level| level.to_string())
}

impl Row {
    fn server_cpu(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.run.documents as f64
    }

    fn figures(&self) -> Value {
        json!({
            "what": self.what,
            "documents": self.documents,
            "zstd": self.zstd,
            "run": self.run.figures(),
            "nats_server_cpu_microseconds_per_document": self.server_cpu(),
            "stream_bytes_per_document": self.wire,
        })
    }
}

fn print(rows: &[Row]) {
    let mut table = report::table([
        "",
        "documents",
        "zstd",
        "documents/s",
        "µs CPU/document",
        "nats-server, µs",
        "bytes on the wire",
    ]);
    for row in rows {
        table.add_row([
            row.what.to_owned(),
            row.documents.to_owned(),
            level(row.zstd),
            figure(Some(row.run.per_second()), 0),
            figure(row.run.cpu(), 2),
            figure(Some(row.server_cpu()), 2),
            figure(Some(row.wire), 0),
        ]);
    }
    report::print("into JetStream and out of it", table, 2);
}
