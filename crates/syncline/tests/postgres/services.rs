//! es-watcher with a PostgreSQL source, nats-server and es-writer as three processes.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{NatsServer, PostgresOptions, PostgresServer, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::{
        equal::{contents, difference},
        pipeline::Pipeline,
        program::{PATIENCE, Program, run, text},
    },
    truth::Table,
};

#[tokio::test]
async fn changes_arrive_through_a_stream_and_survive_the_kill_of_each_process() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "stream").await?;
    server
        .psql(
            &name,
            "CREATE TABLE t (id int PRIMARY KEY, v text, n bigint);
             INSERT INTO t SELECT i, md5(i::text), i FROM generate_series(1, 20000) i",
        )
        .await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    table.until_equal(&target.http(), PATIENCE).await?;
    let changes = "
        UPDATE t SET v = 'x' || v, n = n + 1 WHERE id % 3 = 0;
        DELETE FROM t WHERE id % 5 = 0;
        UPDATE t SET id = id + 100000 WHERE id % 7 = 0;
        INSERT INTO t SELECT i, 'new', i FROM generate_series(200000, 201000) i;";
    server.psql(&name, changes).await?;
    watcher.kill().await?;
    server
        .psql(&name, "UPDATE t SET n = -n WHERE id % 2 = 0")
        .await?;
    let watcher = pipeline.watcher()?;
    writer.kill().await?;
    server
        .psql(
            &name,
            "TRUNCATE t; INSERT INTO t SELECT i, 'after', i FROM generate_series(1, 5000) i",
        )
        .await?;
    let writer = pipeline.writer()?;
    table.until_equal(&target.http(), PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn one_program_with_one_file_carries_a_database_and_goes_on_after_a_restart() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Es8).await;
    let name = create_database(&server, "up").await?;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text, raw bytea);
        INSERT INTO t SELECT n, 'v' || n, NULL FROM generate_series(1, 2000) n";
    server.psql(&name, schema).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    std::fs::write(
        &file,
        format!(
            "nats-server:\n  binary: {binary}\n  listen: 127.0.0.1:{port}\n  store_dir: {folder}/jetstream\n\
             es-watcher:\n  source: {source}\n  checkpoint_path: {folder}/checkpoint\n\
             es-writer:\n  es_hosts: [{target}]\n",
            binary = NatsServer::binary()?.display(),
            folder = folder.path().display(),
            source = server.url(&name),
            target = target.url(),
        ),
    )?;
    for round in 1..3 {
        let program = Program::start(["up", &text(&file)])?;
        program.ready().await?;
        program
            .says(&["public.t.raw", "--pg-columns public.t.raw=base64"])
            .await?;
        let script = format!(
            "UPDATE t SET v = 'round {round}' WHERE id % 3 = {round}; DELETE FROM t WHERE id % 7 = {round};
             INSERT INTO t SELECT n, 'new', '\\x00' FROM generate_series({round} * 10000, {round} * 10000 + 50) n"
        );
        server.psql(&name, &script).await?;
        let (source, target) = (server.url(&name), target.url());
        wait_until("source and target are equal", PATIENCE, async || {
            let compared = run(["verify", &source, &target, "--lag", "0ms"]).await;
            compared.is_ok_and(|compared| compared.code == Some(0))
        })
        .await?;
        program.stop().await?;
    }
    // By the server's own word, but for the bytes that are left out.
    let view = "CREATE TABLE seen AS SELECT id, v FROM t";
    server.psql(&name, view).await?;
    let seen = Table {
        server: &server,
        database: &name,
        name: "public.seen",
        id: "t.id",
    };
    let there = contents(&target.http(), &format!("{name}.public.t")).await?;
    let difference = difference(&seen.rows().await?, &there);
    ensure!(difference.is_none(), "{difference:?}");
    Ok(())
}

#[tokio::test]
async fn a_slot_is_let_go_only_when_the_target_has_what_it_holds() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "gate").await?;
    server
        .psql(
            &name,
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'copied')",
        )
        .await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    let watcher = pipeline.watcher()?;
    let published = async |count: f64| {
        wait_until("the stream has it", PATIENCE, async || {
            let changes = watcher.metric("syncline_watcher_changes_total").await;
            changes.is_ok_and(|changes| changes >= count)
        })
        .await
    };
    published(1.0).await?;
    let script = "INSERT INTO t SELECT n, 'streamed' FROM generate_series(1, 100) n RETURNING pg_current_wal_lsn()";
    let lsn = server.psql(&name, script).await?;
    let lsn = lsn.lines().next().unwrap_or_default().to_owned();
    published(101.0).await?;
    // The watcher has said twice how far it has read, and each time how far the slot may be let go.
    let told = format!(
        "SELECT coalesce(bool_or(write_lsn > '{lsn}'), false) FROM pg_stat_replication WHERE application_name = 'syncline'"
    );
    wait_until("the server is told", PATIENCE, async || {
        matches!(server.psql(&name, &told).await.as_deref(), Ok("t\n"))
    })
    .await?;
    let let_go = format!("SELECT confirmed_flush_lsn > '{lsn}' FROM pg_replication_slots");
    ensure!(
        server.psql(&name, &let_go).await? == "f\n",
        "no reader has it"
    );
    let writer = pipeline.writer()?;
    wait_until("the slot is let go", PATIENCE, async || {
        matches!(server.psql(&name, &let_go).await.as_deref(), Ok("t\n"))
    })
    .await?;
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    ensure!(table.until_equal(&target.http(), PATIENCE).await? == 101);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn what_a_truncate_removes_takes_its_dead_letters_along() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Es8).await;
    let name = create_database(&server, "letters").await?;
    server
        .psql(&name, "CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await?;
    let index = format!("{name}.public.t");
    let mapping = json!({ "mappings": { "properties": { "v": { "type": "integer" } } } });
    target
        .http()
        .put_json(&format!("/{index}"), &mapping)
        .await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let letters = async |count: usize| {
        let nats = pipeline.nats.url();
        wait_until("so many letters", PATIENCE, async || {
            let listed = run(["dlq", "list", "--json", "--nats-url", &nats]).await;
            listed.is_ok_and(|listed| listed.stdout.matches("\"reason\"").count() == count)
        })
        .await
    };
    server
        .psql(
            &name,
            "INSERT INTO t VALUES (1, '1'), (2, 'no number'), (3, 'nor this')",
        )
        .await?;
    letters(2).await?;
    server
        .psql(
            &name,
            "BEGIN; TRUNCATE t; INSERT INTO t VALUES (4, '4'), (5, 'five'); COMMIT",
        )
        .await?;
    letters(1).await?;
    let found = contents(&target.http(), &index).await?;
    let ids: Vec<&str> = found.keys().map(|(id, _)| id.as_str()).collect();
    ensure!(ids == ["4"], "{ids:?}");
    watcher.stop().await?;
    writer.stop().await
}
