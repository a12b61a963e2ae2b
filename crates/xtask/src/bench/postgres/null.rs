//! Into nothing: what of the way from the server is ours.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use model::Change;
use pg_watcher::SlotLife;
use testkit::PostgresServer;
use testkit::process::Usage;

use super::{Context, DATABASE, FLIGHTS, Source, Way, print};
use crate::bench::runs::Run;
use crate::process::Process;

/// The slot and publication of the measured stream.
pub(super) const SLOT: &str = "syncline_bench";
/// Rows of a transaction.
const TRANSACTION: u64 = 100;

/// The same content of a slot read by the source and by `pg_recvlogical`.
pub(super) async fn stream(context: &Context, server: &PostgresServer) -> Result<Vec<Way>> {
    eprintln!("postgres: filling a slot…");
    server
        .psql(DATABASE, "CREATE TABLE live (LIKE flights INCLUDING ALL)")
        .await?;
    let source = Source::of(server, "nycflights.public.live", SlotLife::Stays)?;
    source.prime().await?;
    let rows = fill(server).await?;
    let mut ways = [
        Way::new("syncline, rows become documents"),
        Way::new("pg_recvlogical to /dev/null"),
    ];
    for round in 0..=context.pick(3, 1) {
        let runs = [
            measured(rows, source.drain(rows, None)).await?,
            recvlogical(context, server, rows).await?,
        ];
        // The first round warms up.
        for (way, run) in ways.iter_mut().zip(runs) {
            eprintln!("postgres: {}: {:.0}/s", way.name, run.per_second());
            if round > 0 {
                way.runs.push(run);
            }
        }
    }
    let drop = format!(
        "SELECT pg_drop_replication_slot('{SLOT}'); DROP PUBLICATION {SLOT}; DROP TABLE live"
    );
    server.psql(DATABASE, &drop).await?;
    print("stream of a slot into nothing (medians)", &ways);
    Ok(ways.into())
}

/// Inserts and updates, a hundred rows a transaction; returns how many changes that is.
async fn fill(server: &PostgresServer) -> Result<u64> {
    let rows = count(server, "flights").await?;
    let last = server.psql(DATABASE, "SELECT max(id) FROM flights").await?;
    let last: u64 = last.trim().parse()?;
    // All rows before the first update: what of one id comes together becomes one change.
    let mut script = String::new();
    for statement in [
        "INSERT INTO live SELECT * FROM flights",
        "UPDATE live SET arr_delay = arr_delay + 1",
    ] {
        for first in (1..=last).step_by(TRANSACTION as usize) {
            let range = format!("id BETWEEN {first} AND {}", first + TRANSACTION - 1);
            script.push_str(&format!("{statement} WHERE {range};\n"));
        }
    }
    // Committed without waiting for the disk: only what the slot has is measured.
    server
        .psql(
            DATABASE,
            &format!("SET synchronous_commit = off;\n{script}"),
        )
        .await?;
    Ok(2 * rows)
}

async fn recvlogical(context: &Context, server: &PostgresServer, rows: u64) -> Result<Run> {
    let copied = format!(
        "SELECT pg_copy_logical_replication_slot('{SLOT}', 'peer');
         SELECT pg_current_wal_insert_lsn()"
    );
    let said = server.psql(DATABASE, &copied).await?;
    let end = said.lines().last().context("no position")?.to_owned();
    let url = server.url(DATABASE);
    let (end, names) = (
        format!("--endpos={end}"),
        format!("publication_names={SLOT}"),
    );
    let arguments = [
        "--dbname",
        &url,
        "--slot=peer",
        "--start",
        "--no-loop",
        "--file=/dev/null",
        "--option=proto_version=1",
        "--option",
        &names,
        &end,
    ];
    let program = PostgresServer::program("pg_recvlogical")?;
    let log = context.program.file("pg_recvlogical.log");
    let finished = Process::start("pg_recvlogical", &program, &arguments, log)?
        .succeed()
        .await?;
    server
        .psql(DATABASE, "SELECT pg_drop_replication_slot('peer')")
        .await?;
    Ok(Run {
        documents: rows,
        elapsed: finished.elapsed,
        used: Some(finished.used),
    })
}

/// The same table copied by the source and by `COPY … TO STDOUT`; and what the source made of it.
pub(super) async fn snapshot(
    context: &Context,
    server: &PostgresServer,
) -> Result<(Vec<Way>, Vec<Change>)> {
    let rows = count(server, "flights").await?;
    let source = Source::of(server, FLIGHTS, SlotLife::Connection)?;
    let mut ways = [
        Way::new("syncline, rows become documents"),
        Way::new("COPY flights TO STDOUT"),
    ];
    for round in 0..=context.pick(3, 1) {
        // Nothing is remembered from the round before.
        let fresh = Source::of(server, FLIGHTS, SlotLife::Connection)?;
        let runs = [
            measured(rows, fresh.drain(u64::MAX, None)).await?,
            copy(context, server, ("flights", rows)).await?,
        ];
        for (way, run) in ways.iter_mut().zip(runs) {
            eprintln!("postgres: {}: {:.0}/s", way.name, run.per_second());
            if round > 0 {
                way.runs.push(run);
            }
        }
    }
    print("snapshot of a table into nothing (medians)", &ways);
    let mut changes = Vec::new();
    source.drain(u64::MAX, Some(&mut changes)).await?;
    ensure!(changes.len() as u64 == rows, "not every row has come");
    Ok((ways.into(), changes))
}

/// A table as the server's own client copies it.
pub(super) async fn copy(
    context: &Context,
    server: &PostgresServer,
    (table, rows): (&str, u64),
) -> Result<Run> {
    let url = server.url(DATABASE);
    let command = format!("--command=COPY {table} TO STDOUT");
    let arguments = [
        "--no-psqlrc",
        "--dbname",
        &url,
        "--output=/dev/null",
        &command,
    ];
    let program = PostgresServer::program("psql")?;
    let log = context.program.file("copy.log");
    let finished = Process::start("psql", &program, &arguments, log)?
        .succeed()
        .await?;
    Ok(Run {
        documents: rows,
        elapsed: finished.elapsed,
        used: Some(finished.used),
    })
}

/// What a run of the source in this process takes; its memory is this process's and says nothing.
async fn measured(rows: u64, run: impl Future<Output = Result<u64>>) -> Result<Run> {
    let (before, began) = (Usage::of_this_process()?, Instant::now());
    let came = run.await?;
    let elapsed = began.elapsed();
    let used = Usage::of_this_process()?.since(&before);
    ensure!(came == rows, "{came} changes have come of {rows}");
    Ok(Run {
        documents: rows,
        elapsed,
        used: Some(Usage {
            peak_resident: 0,
            ..used
        }),
    })
}

pub(super) async fn count(server: &PostgresServer, table: &str) -> Result<u64> {
    let count = server
        .psql(DATABASE, &format!("SELECT count(*) FROM {table}"))
        .await?;
    Ok(count.trim().parse()?)
}
