//! How long a change takes from the source's acknowledgment until it is seen at the target, at 2,000 changes a
//! second, one in twenty of which is a delete.
//!
//! Seen by realtime `_mget`, asked again and again: the figures have one such round trip too much in them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode, wait_until};
use tokio::sync::mpsc;

use super::Context;
use super::report;
use crate::carrier::Carrier;
use crate::changes::{Changed, Changer, Lag, Lags, look_for};
use crate::indices::Index;

const CHANGES_PER_SECOND: u32 = 2000;
/// In the index before the first change.
const DOCUMENTS: u64 = 50_000;
/// Nodes that have just started compile themselves for minutes, at the cost of half of two cores: nothing is measured
/// before the source keeps the pace for two rounds of so many seconds …
const WARM_UP: u64 = 10;
/// … or so many rounds are over.
const ROUNDS: usize = 18;
const POLL: [&str; 2] = ["--poll-interval", "50ms"];
pub(super) const PERCENTS: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

pub(super) async fn run(context: &Context) -> Result<()> {
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    eprintln!("lag: starting {} and {}…", Product::Es8, Product::Os2);
    let (source, target, nats) = tokio::try_join!(
        SearchNode::start_with(Product::Es8, options.clone()),
        SearchNode::start_with(Product::Os2, options),
        NatsServer::start(NatsOptions::default()),
    )?;
    let index = Index::FLIGHTS;
    index.create(&source.http()).await?;
    let flights = index.documents()?;
    index.fill(&source.http(), &flights, DOCUMENTS).await?;

    let (from, to, log) = (source.url(), target.url(), nats.url());
    let program = &context.program;
    let [poll, interval] = POLL;
    let arguments = [
        "sync",
        &from,
        &to,
        "--indices",
        index.name(),
        "--follow",
        poll,
        interval,
    ];
    let mut sync = program.command("sync-follow", &arguments)?;
    let arrived = async || {
        let held = target.http().count(index.name()).await;
        held.is_ok_and(|held| held >= DOCUMENTS)
    };
    wait_until("everything is copied", Duration::from_secs(120), arrived).await?;
    let by_sync = measure(context, "sync --follow", &source, &target).await?;
    sync.stop().await?;

    target.http().delete(&format!("/{}", index.name())).await?;
    let mut carrier = Carrier::start(program, &from, &log, &to, index.name(), &POLL).await?;
    let left = source.http().count(index.name()).await?;
    carrier.until_settled(left, |_| ()).await?;
    let over_jetstream = measure(
        context,
        "es-watcher, JetStream, es-writer",
        &source,
        &target,
    )
    .await?;
    carrier.stop().await?;

    let runs = [by_sync, over_jetstream];
    print(&runs);
    let figures: Vec<Value> = runs.iter().map(Measured::figures).collect();
    report::write(context, "lag", json!(figures))
}

struct Measured {
    way: &'static str,
    changed: Changed,
    lags: Lags,
}

async fn measure(
    context: &Context,
    way: &'static str,
    source: &SearchNode,
    target: &SearchNode,
) -> Result<Measured> {
    eprintln!("lag: {way}…");
    let places = vec![(Index::FLIGHTS, DOCUMENTS)];
    let mut changer = Changer::new(source.http(), places);
    let target = target.http();
    let mut round = async |seconds| {
        let (samples, arriving) = mpsc::channel(10_000);
        let end = tokio::time::sleep(Duration::from_secs(seconds));
        tokio::try_join!(
            changer.run(CHANGES_PER_SECOND, Some(samples), end),
            look_for(&target, arriving),
        )
    };
    let mut kept = 0;
    for number in 1..=context.pick(ROUNDS, 1) {
        let (changed, _) = round(WARM_UP).await?;
        eprintln!(
            "lag: warming up, round {number}: {:.0} changes/s",
            changed.per_second()
        );
        if changed.per_second() > 0.97 * f64::from(CHANGES_PER_SECOND) {
            kept += 1;
        }
        if kept == 2 {
            break;
        }
    }
    let (changed, lags) = round(context.pick(30, 5)).await?;
    ensure!(lags.documents.samples() > 0, "no change was looked for");
    Ok(Measured { way, changed, lags })
}

impl Measured {
    fn figures(&self) -> Value {
        json!({
            "way": self.way,
            "changes_per_second": self.changed.per_second(),
            "poll_interval": POLL[1],
            "documents": figures(&self.lags.documents),
            "deletes": figures(&self.lags.deletes),
        })
    }
}

pub(super) fn figures(lag: &Lag) -> Value {
    let percentiles = PERCENTS.map(|p| (format!("p{p}"), json!(milliseconds(lag.percentile(p)))));
    json!({
        "samples": lag.samples(),
        "milliseconds": Value::Object(percentiles.into_iter().collect()),
        "max_milliseconds": milliseconds(lag.max()),
    })
}

fn print(runs: &[Measured]) {
    let mut table = report::table([
        "",
        "changes/s",
        "of",
        "looked for",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
    ]);
    for run in runs {
        for (of, lag) in [
            ("documents", &run.lags.documents),
            ("deletes", &run.lags.deletes),
        ] {
            let mut row = vec![
                run.way.to_owned(),
                format!("{:.0}", run.changed.per_second()),
                of.to_owned(),
                lag.samples().to_string(),
            ];
            row.extend(PERCENTS.map(|p| format!("{:.0}", milliseconds(lag.percentile(p)))));
            row.push(format!("{:.0}", milliseconds(lag.max())));
            table.add_row(row);
        }
    }
    report::print(
        "source acknowledgment → seen at the target, poll interval 50 ms",
        table,
        1,
    );
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
