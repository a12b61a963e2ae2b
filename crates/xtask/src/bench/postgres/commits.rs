//! How long from a commit until a realtime get at the target has it, at 500 transactions a second.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer, PostgresServer, SearchNode, wait_until};
use tokio::sync::mpsc;

use super::{Context, DATABASE};
use crate::bench::lag;
use crate::bench::report;
use crate::carrier::Carrier;
use crate::changes::{Lag, look_for, sample_commits};

const PER_SECOND: u32 = 500;
/// Each waits for its commit, so several take turns.
const SESSIONS: u32 = 5;
/// One of so many commits is looked for.
const LOOKED_FOR: u64 = 10;
const TABLE: &str = "
    CREATE TABLE commits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, changed bigint, note text);
    INSERT INTO commits (note) VALUES ('the first')";
const INDEX: &str = "commits";

pub(super) async fn run(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
) -> Result<Value> {
    server.psql(DATABASE, TABLE).await?;
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let flags = ["--index-template", "{table}", "--index-patterns", INDEX];
    let (source, target, log) = (server.url(DATABASE), node.url(), nats.url());
    let mut carrier = Carrier {
        began: Instant::now(),
        watcher: context.program.pg_watcher(&source, &log, &flags).await?,
        writer: context.program.writer(&target, &log).await?,
    };
    carrier.until_settled(1, |_| ()).await?;
    let over_jetstream = measure(context, server, node).await?;
    carrier.stop().await?;
    node.http().delete(&format!("/{INDEX}")).await?;

    let arguments = ["sync", &source, &target, "--follow"];
    let flags = ["--index-template", "{table}", "--indices", INDEX];
    let mut sync = context
        .program
        .command("sync-follow", &[&arguments[..], &flags].concat())?;
    wait_until(
        "everything is copied",
        Duration::from_secs(120),
        async || node.http().count(INDEX).await.is_ok_and(|held| held > 0),
    )
    .await?;
    let by_sync = measure(context, server, node).await?;
    sync.stop().await?;

    let ways = [
        ("es-watcher, JetStream, es-writer", over_jetstream),
        ("sync --follow", by_sync),
    ];
    let mut table = report::table([
        "", "commits", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms",
    ]);
    for (way, lag) in &ways {
        let mut row = vec![(*way).to_owned(), lag.samples().to_string()];
        let times = lag::PERCENTS.map(|percent| lag.percentile(percent));
        let times = times.into_iter().chain([lag.max()]);
        row.extend(times.map(|time| format!("{:.1}", time.as_secs_f64() * 1e3)));
        table.add_row(row);
    }
    report::print(
        &format!("commit → realtime get at the target, {PER_SECOND} transactions/s"),
        table,
        1,
    );
    let figures = ways.iter().map(|(way, lag)| {
        json!({ "way": way, "commits": lag::figures(lag), "histogram": lag.histogram() })
    });
    Ok(json!(figures.collect::<Vec<_>>()))
}

async fn measure(context: &Context, server: &PostgresServer, node: &SearchNode) -> Result<Lag> {
    let target = node.http();
    let mut measured = None;
    for seconds in [context.pick(5, 2), context.pick(20, 3)] {
        let (samples, arriving) = mpsc::channel(10_000);
        let time = Duration::from_secs(seconds);
        let mut writing = tokio::task::JoinSet::new();
        for _ in 0..SESSIONS {
            let insert = |number| {
                format!(
                    "INSERT INTO {INDEX} (changed, note) VALUES ({number}, 'a note of some words') RETURNING id"
                )
            };
            writing.spawn(sample_commits(
                server.session(DATABASE)?,
                INDEX,
                PER_SECOND / SESSIONS,
                time,
                samples.clone(),
                LOOKED_FOR,
                insert,
            ));
        }
        drop(samples);
        let lags = look_for(&target, arriving).await?;
        for ended in writing.join_all().await {
            ended?;
        }
        measured = Some(lags.documents);
    }
    let lag = measured.expect("the second of the two is measured");
    ensure!(lag.samples() > 0, "no commit was looked for");
    Ok(lag)
}
