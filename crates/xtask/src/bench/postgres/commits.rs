//! How long from a commit until a realtime get at the target has it, at 500 transactions a second; and until the query API
//! has answered whoever waits for the commit's position.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, NatsOptions, NatsServer, PostgresServer, SearchNode, wait_until};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Context, DATABASE};
use crate::bench::lag;
use crate::bench::report;
use crate::carrier::Carrier;
use crate::changes::{Lag, Sample, look_for, sample_commits};

const PER_SECOND: u32 = 500;
/// Each waits for its commit, so several take turns.
const SESSIONS: u32 = 5;
/// One of so many commits is looked for.
const LOOKED_FOR: u64 = 10;
/// How often somebody asks for what he has just written.
const ASKS_EVERY: Duration = Duration::from_millis(50);
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
    let answered = read_own_writes(context, server, node).await?;
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
        ("es-watcher …, answered by query-api with min_lsn", answered),
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
        &format!("commit → realtime get at the target, or an answer, {PER_SECOND} transactions/s"),
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
        let writing = write(server, Duration::from_secs(seconds), &samples)?;
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

/// Commits rows for so long.
fn write(
    server: &PostgresServer,
    time: Duration,
    samples: &mpsc::Sender<Sample>,
) -> Result<JoinSet<Result<()>>> {
    let mut writing = JoinSet::new();
    for _ in 0..SESSIONS {
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
    Ok(writing)
}

fn insert(number: u64) -> String {
    format!(
        "INSERT INTO {INDEX} (changed, note) VALUES ({number}, 'a note of some words') RETURNING id"
    )
}

/// The same load, and beside it somebody who commits a row and asks for it right away, with the commit's position.
async fn read_own_writes(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
) -> Result<Lag> {
    let (mut service, address) = context.program.query_api(&node.url(), INDEX).await?;
    let api = Http::new(&format!("http://{address}"));
    let time = Duration::from_secs(context.pick(20, 3));
    let (samples, arriving) = mpsc::channel(10_000);
    let writing = write(server, time, &samples)?;
    drop(samples);
    let (target, mut session) = (node.http(), server.session(DATABASE)?);
    let asking = async {
        let (mut lag, mut ticks) = (Lag::new()?, tokio::time::interval(ASKS_EVERY));
        let end = Instant::now() + time;
        while Instant::now() < end {
            ticks.tick().await;
            let rows = session.run(&insert(0)).await?;
            let committed = Instant::now();
            let id = rows.into_iter().next().context("an INSERT without id")?;
            let rows = session.run("SELECT pg_current_wal_lsn()").await?;
            let position = rows.into_iter().next().context("no position")?;
            let path = format!("/v1/{INDEX}/{id}?min_lsn={}", position.replace('/', "%2F"));
            let answer = api.get_json(&path).await?;
            lag.record(committed.elapsed());
            ensure!(answer["id"] == id.as_str(), "another document: {answer}");
        }
        anyhow::Ok(lag)
    };
    let (lag, _) = tokio::try_join!(asking, look_for(&target, arriving))?;
    for ended in writing.join_all().await {
        ended?;
    }
    service.process.stop().await?;
    Ok(lag)
}
