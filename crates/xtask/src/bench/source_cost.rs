//! What watching costs the source: processor time of its node with and without a watcher, at rest and under writes.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::median;
use crate::carrier::until_published;
use crate::changes::Changer;
use crate::indices::Index;
use crate::program::Service;

const WRITES_PER_SECOND: u32 = 500;
const DOCUMENTS: u64 = 50_000;

/// What the node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    watched: bool,
    writes: bool,
}

const PHASES: [Phase; 4] = [
    Phase {
        watched: false,
        writes: false,
    },
    Phase {
        watched: true,
        writes: false,
    },
    Phase {
        watched: false,
        writes: true,
    },
    Phase {
        watched: true,
        writes: true,
    },
];

pub(super) async fn run(context: &Context) -> Result<()> {
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    eprintln!("source-cost: starting {}…", Product::Es8);
    let source = SearchNode::start_with(Product::Es8, options).await?;
    let index = Index::FLIGHTS;
    index.create(&source.http()).await?;
    index
        .fill(&source.http(), &index.documents()?, DOCUMENTS)
        .await?;
    let mut changer = Changer::new(source.http(), vec![(index, DOCUMENTS)]);
    // A round that is not counted: the node compiles what it runs often.
    let rounds = context.pick(3, 1);
    let mut runs: Vec<Seen> = Vec::new();
    for round in 0..=rounds {
        for phase in PHASES {
            let watcher = match phase.watched {
                true => Some(watch(context, &source).await?),
                false => None,
            };
            at_rest(&source).await?;
            let seconds = context.pick(if round == 0 { 5 } else { 20 }, 5);
            let seen = observe(&source, &mut changer, phase, Duration::from_secs(seconds)).await?;
            eprintln!("source-cost: round {round}: {seen:?}");
            if round > 0 {
                runs.push(seen);
            }
            if let Some((mut watcher, _nats)) = watcher {
                watcher.process.stop().await?;
            }
        }
    }
    print(&runs);
    report::write(context, "source-cost", figures(&runs))
}

/// A watcher that has caught up, on a log of its own.
async fn watch(context: &Context, source: &SearchNode) -> Result<(Service, NatsServer)> {
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let (from, log, index) = (source.url(), nats.url(), Index::FLIGHTS.name());
    let mut watcher = context.program.watcher(&from, &log, index, &[]).await?;
    until_published(&mut watcher, DOCUMENTS).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok((watcher, nats))
}

/// Waits until the node has done what earlier phases left it to do, such as merges; a minute at most.
async fn at_rest(source: &SearchNode) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    for _ in 0..60 {
        let before = Usage::of(source.pid())?;
        tokio::time::sleep(SECOND).await;
        if Usage::of(source.pid())?.since(&before).cpu() < SECOND / 10 {
            break;
        }
    }
    Ok(())
}

/// What a phase took.
#[derive(Debug, Clone, Copy)]
struct Seen {
    phase: Phase,
    /// Seconds of processor time of the node per minute.
    cpu: f64,
    /// Writes a second, which a busy machine may keep below what was asked for.
    writes: f64,
}

async fn observe(
    source: &SearchNode,
    changer: &mut Changer,
    phase: Phase,
    period: Duration,
) -> Result<Seen> {
    let before = Usage::of(source.pid())?;
    let end = tokio::time::sleep(period);
    let mut writes = 0.0;
    if phase.writes {
        let changed = changer.run(WRITES_PER_SECOND, None, end).await?;
        writes = changed.per_second();
    } else {
        end.await;
    }
    let used = Usage::of(source.pid())?.since(&before);
    Ok(Seen {
        phase,
        cpu: used.cpu().as_secs_f64() * 60.0 / period.as_secs_f64(),
        writes,
    })
}

fn of(runs: &[Seen], watched: bool, writes: bool, figure: fn(&Seen) -> f64) -> Option<f64> {
    let wanted = Phase { watched, writes };
    median(runs.iter().filter(|seen| seen.phase == wanted).map(figure))
}

fn print(runs: &[Seen]) {
    let mut table = report::table([
        "source",
        "not watched, s/min",
        "watched, s/min",
        "cost, s/min",
        "×",
        "writes/s, not watched",
        "watched",
    ]);
    for (title, writes) in [("idle", false), ("500 writes/s", true)] {
        let cpu = |watched| of(runs, watched, writes, |seen| seen.cpu);
        let rate = |watched| of(runs, watched, writes, |seen| seen.writes);
        let both = cpu(true).zip(cpu(false));
        table.add_row([
            title.to_owned(),
            figure(cpu(false), 2),
            figure(cpu(true), 2),
            figure(both.map(|(with, without)| with - without), 2),
            figure(both.map(|(with, without)| with / without), 2),
            figure(rate(false), 0),
            figure(rate(true), 0),
        ]);
    }
    report::print("processor time of the source's node (medians)", table, 1);
}

fn figures(runs: &[Seen]) -> Value {
    let each = PHASES.map(|phase| {
        let all = runs.iter().filter(|seen| seen.phase == phase);
        json!({
            "watched": phase.watched,
            "writes_per_second_wanted": if phase.writes { WRITES_PER_SECOND } else { 0 },
            "cpu_seconds_per_minute": of(runs, phase.watched, phase.writes, |seen| seen.cpu),
            "runs": all
                .map(|seen| json!({ "cpu_seconds_per_minute": seen.cpu, "writes_per_second": seen.writes }))
                .collect::<Vec<_>>(),
        })
    });
    json!(each)
}
