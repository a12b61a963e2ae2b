//! The gateway between two streams beside a bare loop that copies the same messages: one consumer, one publisher, the
//! same batches, in the same run.
//!
//! The loop has no lease, no floor, no order after a failure and looks at nothing: it is what carrying costs at least.
//! Both are measured into a nats-server of their own turn, from the first message to the last acknowledgment.

mod bare;
mod latency;
mod start;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bus::{Bus, ConnectOptions, StreamSpec, stream};
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer};

use super::Context;
use super::report::{self, figure};
use super::runs::Run;
use super::stream::halves::{self, Documents};
use crate::indices::Index;

pub(super) const PUBLISHED: &str = "syncline_gateway_changes_published_total";
/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the gateway does.
struct Work {
    name: &'static str,
    /// Its flags, or its rules.
    flags: &'static [&'static str],
    rules: Option<&'static str>,
}

const WORKS: [Work; 5] = [
    Work {
        name: "subject only",
        flags: &["--include-indices", "flights,others"],
        rules: None,
    },
    Work {
        name: "glob, decided in the gateway",
        flags: &["--include-indices", "fl*", "--exclude-patterns", "temp_*"],
        rules: None,
    },
    Work {
        name: "one field predicate",
        flags: &[],
        rules: Some("filters: [{ keep: { document: { field: DestCountry, exists: true } } }]"),
    },
    Work {
        name: "one field predicate and one rename",
        flags: &[],
        rules: Some(
            "filters: [{ keep: { document: { field: DestCountry, exists: true } } }]\n\
             transforms: [{ rename: { from: Carrier, to: Airline } }]",
        ),
    },
    Work {
        name: "jq",
        flags: &[],
        rules: Some("transforms: [{ jq: '.Airline = .Carrier | del(.Carrier)' }]"),
    },
];

/// What is sent through.
struct Load {
    passed: Documents,
    looked_into: Documents,
}

impl Load {
    fn of(&self, work: &Work) -> &Documents {
        match work.rules {
            None => &self.passed,
            Some(_) => &self.looked_into,
        }
    }
}

/// One measurement.
struct Row {
    what: String,
    zstd: Option<i32>,
    run: Run,
    /// What nats-server used meanwhile.
    server: Duration,
}

pub(super) async fn run(context: &Context) -> Result<()> {
    let flights = Index::FLIGHTS.documents()?;
    let few = context.pick(400_000, 40_000);
    // What nobody looks into is through in no time: more of it, so that the start is not what is measured.
    let load = Load {
        passed: Documents::new(&flights, few * 8)?,
        looked_into: Documents::new(&flights, few)?,
    };
    let mut rows = Vec::new();
    for zstd in [Some(1), None] {
        rows.extend(throughput(context, &load, zstd).await?);
    }
    print(&rows);
    let largest = large_documents(context).await?;
    let latency = latency::measure(context).await?;
    let start = start::measure(context).await?;
    let figures: Vec<Value> = rows.iter().map(Row::figures).collect();
    let figures = json!({
        "throughput": figures,
        "documents_of_5_megabytes_peak_megabytes": largest,
        "added_latency": latency,
        "exec_to_ready": start,
    });
    report::write(context, "gateway", figures)
}

/// A nats-server with both streams, the first of them full.
struct Log {
    server: NatsServer,
    bus: Bus,
}

impl Log {
    async fn start() -> Result<Log> {
        let server = NatsServer::start(NatsOptions {
            config: "max_payload: 8MB".to_owned(),
            ..NatsOptions::default()
        })
        .await?;
        let options = ConnectOptions {
            url: server.url(),
            name: "bench".to_owned(),
            ..ConnectOptions::default()
        };
        let bus = options.connect().await?;
        for (name, subjects) in [
            (stream::ES_CHANGES, stream::ES_CHANGES_SUBJECTS),
            (stream::ES_GATEWAY, stream::ES_GATEWAY_SUBJECTS),
        ] {
            stream::ensure(&bus, &StreamSpec::new(name, subjects)).await?;
        }
        Ok(Log { server, bus })
    }

    async fn full(documents: &Documents, zstd: Option<i32>) -> Result<Log> {
        let log = Log::start().await?;
        halves::publish(&log.bus, stream::ES_CHANGES, documents, zstd).await?;
        Ok(log)
    }

    fn used(&self) -> Result<Usage> {
        Usage::of(self.server.pid())
    }
}

async fn throughput(context: &Context, load: &Load, zstd: Option<i32>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for turn in 0..2 {
        eprintln!("gateway: bare copy loop, turn {}…", turn + 1);
        let log = Log::full(&load.passed, zstd).await?;
        let before = log.used()?;
        let run = bare::copy(&log.bus, load.passed.total()).await?;
        let server = log.used()?.since(&before).cpu();
        rows.push(Row {
            what: "bare copy loop".to_owned(),
            zstd,
            run,
            server,
        });
        for work in &WORKS {
            eprintln!("gateway: {}, turn {}…", work.name, turn + 1);
            let documents = load.of(work);
            let log = Log::full(documents, zstd).await?;
            rows.push(gateway(context, work, &log, documents.total(), zstd).await?);
        }
    }
    // Of two turns the faster one: the machine has other work too.
    let mut best: Vec<Row> = Vec::new();
    for row in rows {
        match best.iter_mut().find(|known| known.what == row.what) {
            Some(known) if known.run.elapsed <= row.run.elapsed => {}
            Some(known) => *known = row,
            None => best.push(row),
        }
    }
    Ok(best)
}

/// The real gateway, a process, over what the input has.
async fn gateway(
    context: &Context,
    work: &Work,
    log: &Log,
    total: u64,
    zstd: Option<i32>,
) -> Result<Row> {
    let level = zstd.unwrap_or(0).to_string();
    let mut arguments = vec!["--zstd-level", level.as_str()];
    arguments.extend(work.flags);
    let rules = context.program.file("rules.yaml");
    let path = rules.display().to_string();
    if let Some(text) = work.rules {
        std::fs::write(&rules, text)?;
        arguments.extend(["--rules", &path]);
    }
    let before = log.used()?;
    let began = Instant::now();
    let mut gateway = context
        .program
        .gateway(&log.server.url(), &arguments)
        .await?;
    while gateway.metric(PUBLISHED).await? < total {
        gateway.process.expect_alive()?;
        ensure!(began.elapsed() < PATIENCE, "it does not come to an end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let run = Run {
        documents: total,
        elapsed: began.elapsed(),
        used: Some(gateway.process.used()?),
    };
    let server = log.used()?.since(&before).cpu();
    let passed = stream::info(&log.bus, stream::ES_GATEWAY).await?;
    ensure!(
        passed.context("the output is there")?.messages > 0,
        "nothing has come"
    );
    gateway.process.stop().await?;
    Ok(Row {
        what: work.name.to_owned(),
        zstd,
        run,
        server,
    })
}

/// The most memory with documents of 5 MB that a rule looks into.
async fn large_documents(context: &Context) -> Result<Option<f64>> {
    eprintln!("gateway: documents of 5 MB…");
    let text = format!(
        "{{\"DestCountry\":\"X\",\"blob\":\"{}\"}}",
        "x".repeat(5 << 20)
    );
    let documents = Documents::new(&vec![text; 4], context.pick(60, 12))?;
    let log = Log::full(&documents, None).await?;
    let work = &WORKS[3];
    let row = gateway(context, work, &log, documents.total(), None).await?;
    eprintln!("gateway: {} MB at most", figure(row.run.peak(), 1));
    Ok(row.run.peak())
}

impl Row {
    fn figures(&self) -> Value {
        json!({
            "what": self.what,
            "zstd": self.zstd,
            "run": self.run.figures(),
            "nats_server_cpu_microseconds_per_document": self.server_cpu(),
        })
    }

    fn server_cpu(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.run.documents as f64
    }
}

fn print(rows: &[Row]) {
    let mut table = report::table([
        "",
        "zstd",
        "documents/s",
        "of the bare loop",
        "µs CPU/document",
        "nats-server, µs",
        "most memory, MB",
    ]);
    for row in rows {
        let bare = rows.iter().find(|other| other.zstd == row.zstd);
        let share = bare.map(|bare| row.run.per_second() / bare.run.per_second() * 100.0);
        table.add_row([
            row.what.clone(),
            row.zstd.map_or("off".to_owned(), |level| level.to_string()),
            figure(Some(row.run.per_second()), 0),
            format!("{} %", figure(share, 0)),
            figure(row.run.cpu(), 2),
            figure(Some(row.server_cpu()), 2),
            figure(row.run.peak(), 1),
        ]);
    }
    report::print(
        "through the gateway, beside a loop that only copies",
        table,
        2,
    );
}
