//! `syncline sync postgres://… http://… --follow`: every kind of change, and what is left after a crash.

use anyhow::{Result, ensure};
use testkit::{PostgresOptions, PostgresServer, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::program::{PATIENCE, Program, run, text},
    truth::Table,
};

/// A table with a key, a large value that is stored apart, and one with a key of two columns.
const SCHEMA: &str = "
    CREATE TABLE films (id int PRIMARY KEY, title text NOT NULL, script text, rating double precision, seen bool);
    ALTER TABLE films ALTER script SET STORAGE EXTERNAL;
    CREATE TABLE casts (film int, actor text, role text, PRIMARY KEY (film, actor));
    INSERT INTO films SELECT n, 'film ' || n, repeat(md5(n::text), 300), n / 7.0, n % 2 = 0
        FROM generate_series(1, 500) n;
    INSERT INTO casts SELECT n % 50, 'actor|' || n, NULL FROM generate_series(1, 300) n;
";

/// Every kind of change, some of them several times in one transaction.
const CHANGES: &str = "
    UPDATE films SET rating = 1 WHERE id <= 100;
    DELETE FROM films WHERE id BETWEEN 101 AND 150;
    UPDATE films SET id = id + 10000 WHERE id BETWEEN 151 AND 200;
    BEGIN;
    INSERT INTO films VALUES (7000, 'a', 'b', NULL, NULL);
    UPDATE films SET title = 'c' WHERE id = 7000;
    DELETE FROM films WHERE id = 7000;
    INSERT INTO films VALUES (7000, 'd', repeat('x', 9000), 2, true);
    UPDATE films SET seen = false WHERE id = 7000;
    COMMIT;
    BEGIN; INSERT INTO films VALUES (7001, 'gone', '', 0, true); ROLLBACK;
    BEGIN;
    INSERT INTO casts VALUES (1, 'before', 'x');
    TRUNCATE casts;
    INSERT INTO casts VALUES (1, 'after', 'y'), (2, 'a|b\\c', 'z');
    COMMIT;
    INSERT INTO casts SELECT n, 'new', 'w' FROM generate_series(10, 60) n;
    UPDATE casts SET film = 99 WHERE film = 60;
";

fn tables<'a>(server: &'a PostgresServer, database: &'a str) -> [Table<'a>; 2] {
    let escaped = r"t.film || '|' || replace(replace(t.actor, '\', '\\'), '|', '\|')";
    [("public.films", "t.id"), ("public.casts", escaped)].map(|(name, id)| Table {
        server,
        database,
        name,
        id,
    })
}

async fn database(server: &PostgresServer, test: &str) -> Result<String> {
    let name = create_database(server, test).await?;
    server.psql(&name, SCHEMA).await?;
    Ok(name)
}

#[tokio::test]
async fn a_database_is_copied_and_nothing_is_left_behind_in_it() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    for product in [Product::Es8, Product::Os2] {
        let target = SearchNode::shared(product).await;
        let name = database(&server, "copied").await?;
        // The second run finds what is gone since.
        for changes in ["", CHANGES] {
            server.psql(&name, changes).await?;
            run(["sync", &server.url(&name), &target.url()])
                .await?
                .success()?;
            for table in tables(&server, &name) {
                let difference = table.difference(&target.http()).await?;
                ensure!(difference.is_none(), "{product}: {difference:?}");
            }
        }
        let left = "SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_publication)";
        ensure!(server.psql(&name, left).await?.trim() == "0|0");
    }
    Ok(())
}

#[tokio::test]
async fn every_change_arrives_and_a_killed_copy_goes_on_where_it_was() -> Result<()> {
    let mut server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Es8).await;
    let name = database(&server, "followed").await?;
    let folder = tempfile::tempdir()?;
    let arguments = [
        "sync".to_owned(),
        server.url(&name),
        target.url(),
        "--checkpoint-path".to_owned(),
        text(folder.path()),
    ];
    let equal = async |server: &PostgresServer| -> Result<()> {
        for table in tables(server, &name) {
            table.until_equal(&target.http(), PATIENCE).await?;
        }
        Ok(())
    };
    let program = Program::follow(&arguments)?;
    equal(&server).await?;
    server.psql(&name, CHANGES).await?;
    equal(&server).await?;
    // What happens while nobody reads waits in the slot.
    program.kill().await?;
    server
        .psql(&name, "TRUNCATE films; INSERT INTO films VALUES (1, 'again', 'x', 1, true); DELETE FROM casts WHERE film < 20")
        .await?;
    let program = Program::follow(&arguments)?;
    equal(&server).await?;
    // So does what happens around a crash of the server.
    server.restart().await?;
    server
        .psql(
            &name,
            "UPDATE casts SET role = NULL; INSERT INTO casts VALUES (5, 'x', 'y')",
        )
        .await?;
    equal(&server).await?;
    program
        .says(&["behind: ", " bytes of the server's log"])
        .await?;
    let patterns = format!("{name}.*");
    let compare = [
        "verify",
        &server.url(&name),
        &target.url(),
        "--indices",
        &patterns,
    ];
    run([&compare[..], &["--lag", "2s"]].concat())
        .await?
        .success()?;
    program.kill().await
}

/// Two chunks: the second is not copied yet when the first is.
#[tokio::test]
async fn a_copy_that_is_killed_between_two_chunks_goes_on_with_the_second() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "chunks").await?;
    // A row fills a page.
    let schema = "CREATE TABLE t (id int PRIMARY KEY, pad text);
        ALTER TABLE t ALTER pad SET STORAGE PLAIN;
        INSERT INTO t SELECT n, repeat(md5(n::text), 230) FROM generate_series(1, 6000) n";
    server.psql(&name, schema).await?;
    let folder = tempfile::tempdir()?;
    let arguments = [
        "sync".to_owned(),
        server.url(&name),
        target.url(),
        "--pg-copies".to_owned(),
        "1".to_owned(),
        "--checkpoint-path".to_owned(),
        text(folder.path()),
    ];
    let slowly = ["--max-rate".to_owned(), "500/s".to_owned()];
    let program = Program::follow([&arguments[..], &slowly[..]].concat())?;
    let state = folder.path().join(format!("postgres/{name}.json"));
    wait_until("a chunk is copied", PATIENCE, async || {
        let state = std::fs::read_to_string(&state).unwrap_or_default();
        state.contains("\"chunks\":[0]")
    })
    .await?;
    program.kill().await?;
    server
        .psql(
            &name,
            "UPDATE t SET id = id + 10000 WHERE id % 10 = 0; DELETE FROM t WHERE id % 10 = 1;
             UPDATE t SET pad = 'short' WHERE id % 10 = 2",
        )
        .await?;
    let program = Program::follow(&arguments)?;
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    table.until_equal(&target.http(), PATIENCE).await?;
    run(["verify", &server.url(&name), &target.url(), "--lag", "2s"])
        .await?
        .success()?;
    program.kill().await
}
