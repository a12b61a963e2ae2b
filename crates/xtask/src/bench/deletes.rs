//! How long it takes to find out which 100 documents of many were deleted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::median;
use crate::indices::Index;
use crate::program::Service;

const DELETED: u64 = 100;
/// How often 100 are deleted; the medians are shown.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(1800);

pub(super) async fn run(context: &Context) -> Result<()> {
    let mut table = report::table([
        "documents",
        "all 100 in the log, ms",
        "of that counting, ms",
        "CPU of the source, ms",
        "of the watcher, ms",
    ]);
    let mut figures: Vec<Value> = Vec::new();
    for documents in context.pick([1_000_000, 10_000_000], [20_000, 100_000]) {
        let rounds = measure(context, documents).await?;
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
        let row = [
            middle(|round| round.all),
            middle(|round| round.counting),
            middle(|round| round.source),
            middle(|round| round.watcher),
        ];
        let mut cells = vec![documents.to_string()];
        cells.extend(row.map(|milliseconds| figure(milliseconds, 0)));
        table.add_row(cells);
        figures.push(json!({
            "documents": documents,
            "milliseconds": { "all_in_the_log": row[0], "counting": row[1] },
            "cpu_milliseconds": { "source": row[2], "watcher": row[3] },
        }));
    }
    report::print("finding 100 deletes (medians)", table, 0);
    report::write(context, "deletes", json!(figures))
}

/// In milliseconds.
struct Round {
    /// From the source's acknowledgment until the log has all deletes.
    all: f64,
    /// The requests that compare the shards with the ledger.
    counting: f64,
    source: f64,
    watcher: f64,
}

async fn measure(context: &Context, documents: u64) -> Result<Vec<Round>> {
    let options = NodeOptions {
        heap_megabytes: 2048,
        optimised: true,
        ..NodeOptions::default()
    };
    eprintln!("deletes: {documents} documents…");
    let (source, nats) = tokio::try_join!(
        SearchNode::start_with(Product::Es8, options),
        NatsServer::start(NatsOptions::default()),
    )?;
    let index = Index::FLIGHTS;
    index.create(&source.http()).await?;
    // Small: what is counted are documents, not bytes.
    let small = ["{\"changed\":0}".to_owned()];
    index.fill(&source.http(), &small, documents).await?;
    let (from, log) = (source.url(), nats.url());
    let mut watcher = context
        .program
        .watcher(&from, &log, index.name(), &[])
        .await?;
    until(&watcher, "syncline_watcher_changes_total", documents).await?;
    // The first count comes without a reason.
    until(&watcher, "syncline_watcher_counts_total", 1).await?;
    let mut dice = fastrand::Rng::with_seed(1);
    let mut gone = std::collections::HashSet::new();
    let mut rounds = Vec::new();
    // The first round is not counted: the node compiles what it runs often.
    for round in 0..=context.pick(ROUNDS, 1) {
        let mut body = String::new();
        let mut chosen = 0;
        while chosen < DELETED {
            let id = dice.u64(1..=documents);
            if gone.insert(id) {
                body.push_str(&format!("{{\"delete\":{{\"_id\":\"{id}\"}}}}\n"));
                chosen += 1;
            }
        }
        let before = seen(&watcher, &source).await?;
        let path = format!("/{}/_bulk?filter_path=errors", index.name());
        source.http().post_ndjson(&path, body).await?;
        let acknowledged = Instant::now();
        let found = before.deletes + DELETED;
        until(&watcher, "syncline_watcher_deletes_total", found).await?;
        let all = acknowledged.elapsed();
        let after = seen(&watcher, &source).await?;
        if round > 0 {
            rounds.push(Round {
                all: milliseconds(all),
                counting: (after.counting - before.counting) * 1e3,
                source: milliseconds(after.source.since(&before.source).cpu()),
                watcher: milliseconds(after.watcher.since(&before.watcher).cpu()),
            });
        }
    }
    watcher.process.stop().await?;
    Ok(rounds)
}

struct Seen {
    deletes: u64,
    counting: f64,
    source: Usage,
    watcher: Usage,
}

async fn seen(watcher: &Service, source: &SearchNode) -> Result<Seen> {
    Ok(Seen {
        deletes: watcher.metric("syncline_watcher_deletes_total").await?,
        counting: watcher
            .value("syncline_watcher_count_seconds_total")
            .await?,
        source: Usage::of(source.pid())?,
        watcher: Usage::of(watcher.process.pid())?,
    })
}

async fn until(watcher: &Service, metric: &str, value: u64) -> Result<()> {
    let began = Instant::now();
    while watcher.metric(metric).await? < value {
        ensure!(
            began.elapsed() < PATIENCE,
            "{metric} has not come to {value}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
