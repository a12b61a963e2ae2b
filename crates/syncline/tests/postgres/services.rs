//! es-watcher with a PostgreSQL source, nats-server and es-writer as three processes.

use anyhow::Result;
use testkit::{PostgresOptions, PostgresServer, Product, SearchNode};

use crate::{
    database_name,
    support::{pipeline::Pipeline, program::PATIENCE},
    truth::Table,
};

#[tokio::test]
async fn changes_arrive_through_a_stream_and_survive_the_kill_of_each_process() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = database_name("stream");
    server
        .psql("postgres", &format!("CREATE DATABASE {name}"))
        .await?;
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
