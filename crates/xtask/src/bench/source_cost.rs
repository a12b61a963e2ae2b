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
    let mut runs: Vec<(Phase, f64)> = Vec::new();
    for round in 0..=rounds {
        for phase in PHASES {
            let watcher = match phase.watched {
                true => Some(watch(context, &source).await?),
                false => None,
            };
            let seconds = context.pick(if round == 0 { 5 } else { 20 }, 5);
            let cpu = observe(&source, &mut changer, phase, Duration::from_secs(seconds)).await?;
            eprintln!("source-cost: round {round}: {phase:?}: {cpu:.2} s CPU/minute");
            if round > 0 {
                runs.push((phase, cpu));
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

/// Seconds of processor time of the node per minute.
async fn observe(
    source: &SearchNode,
    changer: &mut Changer,
    phase: Phase,
    period: Duration,
) -> Result<f64> {
    let before = Usage::of(source.pid())?;
    let end = tokio::time::sleep(period);
    if phase.writes {
        changer.run(WRITES_PER_SECOND, None, end).await?;
    } else {
        end.await;
    }
    let used = Usage::of(source.pid())?.since(&before);
    Ok(used.cpu().as_secs_f64() * 60.0 / period.as_secs_f64())
}

fn of(runs: &[(Phase, f64)], watched: bool, writes: bool) -> Option<f64> {
    let wanted = Phase { watched, writes };
    median(
        runs.iter()
            .filter(|(phase, _)| *phase == wanted)
            .map(|(_, cpu)| *cpu),
    )
}

fn print(runs: &[(Phase, f64)]) {
    let mut table = report::table([
        "source",
        "not watched, s/min",
        "watched, s/min",
        "cost, s/min",
        "×",
    ]);
    for (title, writes) in [("idle", false), ("500 writes/s", true)] {
        let (without, with) = (of(runs, false, writes), of(runs, true, writes));
        let both = with.zip(without);
        table.add_row([
            title.to_owned(),
            figure(without, 2),
            figure(with, 2),
            figure(both.map(|(with, without)| with - without), 2),
            figure(both.map(|(with, without)| with / without), 2),
        ]);
    }
    report::print("processor time of the source's node (medians)", table, 1);
}

fn figures(runs: &[(Phase, f64)]) -> Value {
    let figure = |watched, writes| {
        let wanted = Phase { watched, writes };
        let all = runs
            .iter()
            .filter(|(phase, _)| *phase == wanted)
            .map(|(_, cpu)| cpu);
        json!({
            "watched": watched,
            "writes_per_second": if writes { WRITES_PER_SECOND } else { 0 },
            "cpu_seconds_per_minute": of(runs, watched, writes),
            "runs": all.collect::<Vec<_>>(),
        })
    };
    json!([
        figure(false, false),
        figure(true, false),
        figure(false, true),
        figure(true, true)
    ])
}
