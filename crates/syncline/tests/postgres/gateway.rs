//! A gateway behind a PostgreSQL source: TRUNCATE reaches every place that a route gives.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Http, PostgresOptions, PostgresServer, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::{
        equal::{Contents, contents, difference},
        pipeline::Pipeline,
        program::{PATIENCE, Program, run, text},
    },
    truth::Table,
};

/// Waits until each place has the rows of its country, and nothing else.
async fn until_routed(table: &Table<'_>, target: &Http) -> Result<()> {
    for country in ["de", "fr"] {
        let place = format!("{}-{country}", table.index());
        let differs = async || -> Result<Option<String>> {
            let mut rows: Contents = table.rows().await?;
            rows.retain(|_, row| row["country"] == country);
            Ok(difference(&rows, &contents(target, &place).await?))
        };
        let waited = wait_until("the place has its rows", PATIENCE, async || {
            matches!(differs().await, Ok(None))
        });
        let waited = waited.await;
        if let Some(difference) = differs().await? {
            return Err(waited
                .err()
                .unwrap_or_else(|| anyhow::anyhow!("not any more"))
                .context(difference));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_truncated_table_is_emptied_in_every_place_of_its_rows_whoever_is_killed() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "routed").await?;
    let rows = |from: usize, to: usize| {
        format!(
            "INSERT INTO t SELECT i, CASE i % 2 WHEN 0 THEN 'de' ELSE 'fr' END, i
                 FROM generate_series({from}, {to}) i;"
        )
    };
    let create = "CREATE TABLE t (id int PRIMARY KEY, country text, n bigint);";
    server
        .psql(&name, &format!("{create} {}", rows(1, 3000)))
        .await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("rules.yaml");
    std::fs::write(
        &rules,
        "transforms: [{ route: { index: '{index}-{country}', values: [de, fr] } }]",
    )?;
    let (url, arguments) = (pipeline.nats.url(), pipeline.gateway_arguments(&rules, &[]));
    let gateway = || Program::start(&arguments);
    let mut running = gateway()?;
    running.ready().await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_routed(&table, &target.http()).await?;

    // A row that has no place is a letter, and goes with the others.
    server
        .psql(&name, "INSERT INTO t VALUES (9001, 'xx', 1)")
        .await?;
    let letters = async || -> Result<usize> {
        let listed = run(["dlq", "list", "--json", "--nats-url", &url])
            .await?
            .success()?;
        Ok(listed.stdout.lines().count())
    };
    wait_until("the row is a letter", PATIENCE, async || {
        letters().await.is_ok_and(|n| n == 1)
    })
    .await?;
    let truncate = format!(
        "UPDATE t SET n = -n WHERE id < 500; TRUNCATE t; {}",
        rows(2000, 2500)
    );
    server.psql(&name, &truncate).await?;
    running.kill().await?;
    running = gateway()?;
    until_routed(&table, &target.http()).await?;
    wait_until("the letter is gone", PATIENCE, async || {
        letters().await.is_ok_and(|n| n == 0)
    })
    .await?;

    // Twice in one transaction, and the writer is killed.
    let twice = format!(
        "BEGIN; TRUNCATE t; {} TRUNCATE t; {} COMMIT;",
        rows(1, 100),
        rows(50, 80)
    );
    server.psql(&name, &twice).await?;
    writer.kill().await?;
    let writer = pipeline.writer()?;
    until_routed(&table, &target.http()).await?;
    ensure!(!running.has_said(&["stays at"]), "{}", running.last_words());
    for program in [watcher, running, writer] {
        program.stop().await?;
    }
    what_the_rules_make_of_the_rows_is_compared(&table, &rules, target).await
}

/// Compares the places with what the rules make of the table, and edits one of them by hand.
async fn what_the_rules_make_of_the_rows_is_compared(
    table: &Table<'_>,
    rules: &Path,
    target: &SearchNode,
) -> Result<()> {
    let (source, to) = (table.server.url(table.database), target.url());
    let rules = text(rules);
    let verify = [
        "verify", &source, &to, "--rules", &rules, "--lag", "0", "--json",
    ];
    run(verify).await?.success()?;
    let place = format!("{}-de", table.index());
    target
        .http()
        .delete(&format!("/{place}/_doc/50?refresh=true"))
        .await?;
    let ended = run(verify).await?;
    ensure!(ended.code == Some(3), "{ended:#?}");
    let report: Value = serde_json::from_str(&ended.stdout)?;
    let indices = report["indices"].as_array().context("no indices")?;
    ensure!(indices.len() == 2, "{report:#}");
    for index in indices {
        let missing = u64::from(index["target"] == place);
        ensure!(index["missing"]["count"] == missing, "{report:#}");
    }
    run([&verify[..], &["--repair", "--yes"]].concat())
        .await?
        .success()?;
    until_routed(table, &target.http()).await
}
