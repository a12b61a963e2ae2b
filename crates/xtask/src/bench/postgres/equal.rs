//! `verify` of a table of 1,000,000 rows and its index, beside the server's own client copying that table.

use anyhow::{Result, ensure};
use testkit::{PostgresServer, SearchNode};

use super::{Context, DATABASE, Way, null, print};
use crate::bench::runs::Run;

const TABLE: &str = "million";

pub(super) async fn run(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
) -> Result<Vec<Way>> {
    let rows = context.pick(1_000_000, 50_000);
    eprintln!("postgres: a table of {rows} rows, and its index…");
    let script = format!(
        "CREATE TABLE {TABLE} AS SELECT n AS id, n % 1000 AS number, n / 7.0 AS ratio, now() AS at, md5(n::text) AS name, \
         repeat(md5((n + 1)::text), 5) AS text FROM generate_series(1, {rows}) n; \
         ALTER TABLE {TABLE} ADD PRIMARY KEY (id); ANALYZE {TABLE}"
    );
    server.psql(DATABASE, &script).await?;
    let index = format!("{DATABASE}.public.{TABLE}");
    let (from, to) = (server.url(DATABASE), node.url());
    let sync = ["sync", &from, &to, "--indices", &index];
    context.program.command("sync", &sync)?.succeed().await?;
    let mut ways = [
        Way::new("syncline verify, every row and every document"),
        Way::new("COPY of the table TO STDOUT, and no index"),
    ];
    for round in 0..=context.pick(3, 1) {
        let verify = [
            "verify",
            "--source",
            &from,
            "--target",
            &to,
            "--indices",
            &index,
        ];
        let finished = context
            .program
            .command("verify", &verify)?
            .succeed()
            .await?;
        let verified = Run {
            documents: rows,
            elapsed: finished.elapsed,
            used: Some(finished.used),
        };
        let runs = [verified, null::copy(context, server, (TABLE, rows)).await?];
        for (way, run) in ways.iter_mut().zip(runs) {
            eprintln!("postgres: {}: {:.0}/s", way.name, run.per_second());
            if round > 0 {
                way.runs.push(run);
            }
        }
    }
    let count = node.http().count(&index).await?;
    ensure!(count == rows, "{count} documents are there");
    node.http().delete(&format!("/{index}")).await?;
    server
        .psql(DATABASE, &format!("DROP TABLE {TABLE}"))
        .await?;
    print("a table and its index compared (medians)", &ways);
    Ok(ways.into())
}
