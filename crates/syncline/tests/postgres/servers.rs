//! What becomes of the server itself: a stand-by that had fallen behind takes over, a backup is restored, somebody
//! else holds the slot; and rows larger than a message.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use testkit::{PostgresOptions, PostgresServer, Product, Recovery, SearchNode, wait_until};

use crate::{
    create_database,
    support::{
        pipeline::Pipeline,
        program::{PATIENCE, Program, text},
    },
    truth::Table,
};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT n, 'first' FROM generate_series(1, 100) n";

/// What the target gets and the server that takes over never had: more of the log than it will soon have.
const LOST: &str =
    "UPDATE t SET v = 'lost' WHERE id <= 50; DELETE FROM t WHERE id BETWEEN 51 AND 60;
    INSERT INTO t SELECT n, repeat('lost', 500) FROM generate_series(1001, 3000) n";

/// What happens on the server that has taken over.
const AFTER: &str =
    "UPDATE t SET v = 'after' WHERE id BETWEEN 40 AND 55; DELETE FROM t WHERE id = 1;
    INSERT INTO t VALUES (1001, 'another row of that key'), (5000, 'new')";

/// Replaces a server by an older copy of its disk while its changes are followed; the target follows it back.
async fn an_older_copy_takes_over(test: &str, recovery: Recovery, said: &[&str]) -> Result<()> {
    let mut server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, test).await?;
    server.psql(&name, TABLE).await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let equal = async |server: &PostgresServer| {
        let table = Table {
            server,
            database: &name,
            name: "public.t",
            id: "t.id",
        };
        table.until_equal(&target.http(), PATIENCE * 2).await
    };
    ensure!(equal(&server).await? == 100);
    let backup = server.backup().await?;
    server.psql(&name, LOST).await?;
    ensure!(equal(&server).await? == 2090);
    server.replace(backup, recovery).await?;
    if recovery == Recovery::StandBy {
        watcher.says(&["trying again", "is in recovery"]).await?;
        server.promote().await?;
    }
    server.psql(&name, AFTER).await?;
    let settled = equal(&server).await;
    ensure!(settled.with_context(|| watcher.last_words())? == 101);
    ensure!(watcher.has_said(said), "{}", watcher.last_words());
    // It is followed from there on, too.
    server
        .psql(&name, "UPDATE t SET v = 'followed' WHERE id < 20")
        .await?;
    equal(&server).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_stand_by_that_had_fallen_behind_is_promoted_and_the_target_follows_it_back() -> Result<()>
{
    let said = ["timeline has changed", "every table is copied again"];
    an_older_copy_takes_over("failover", Recovery::StandBy, &said).await
}

#[tokio::test]
async fn a_restored_backup_takes_the_target_back_with_it() -> Result<()> {
    let said = ["every table is copied again"];
    an_older_copy_takes_over("restored", Recovery::Restored, &said).await
}

#[tokio::test]
async fn a_slot_that_another_reads_is_waited_for_and_never_taken_away() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Es8).await;
    let name = create_database(&server, "taken").await?;
    server.psql(&name, TABLE).await?;
    let folder = tempfile::tempdir()?;
    let arguments = [
        "sync".to_owned(),
        server.url(&name),
        target.url(),
        "--pg-slot".to_owned(),
        "mine".to_owned(),
        "--checkpoint-path".to_owned(),
        text(folder.path()),
    ];
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    let program = Program::follow(&arguments)?;
    ensure!(table.until_equal(&target.http(), PATIENCE).await? == 100);
    program.stop().await?;
    // It confirms nothing, so it takes nothing out of the slot.
    let mut other = std::process::Command::new(PostgresServer::program("pg_recvlogical")?)
        .args(["--dbname", &server.url(&name), "--slot=mine", "--start"])
        .args(["--no-loop", "--file=/dev/null", "--status-interval=0"])
        .args([
            "--option=proto_version=1",
            "--option=publication_names=mine",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let is_read = "SELECT active FROM pg_replication_slots WHERE slot_name = 'mine'";
    wait_until("another reads the slot", PATIENCE, async || {
        matches!(server.psql(&name, is_read).await.as_deref(), Ok("t\n"))
    })
    .await?;
    let program = Program::follow(&arguments)?;
    let said = program.says(&["mine", "is active for PID"]).await;
    other.kill()?;
    other.wait()?;
    said?;
    server
        .psql(&name, "UPDATE t SET v = 'after it' WHERE id < 10")
        .await?;
    table.until_equal(&target.http(), PATIENCE).await?;
    program.stop().await
}

#[tokio::test]
async fn a_row_larger_than_a_message_arrives_by_copy_and_by_stream() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "large").await?;
    // Text that does not compress, of five megabytes.
    let large = |id: u32| {
        format!(
            "INSERT INTO t SELECT {id}, 1, string_agg(md5((n * {id})::text), '') FROM generate_series(1, 160000) n"
        )
    };
    let script = format!(
        "CREATE TABLE t (id int PRIMARY KEY, n int, v text); {}",
        large(1)
    );
    server.psql(&name, &script).await?;
    let mut pipeline = Pipeline::new(&server.url(&name), &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), server.url(&name)];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    ensure!(table.until_equal(&target.http(), PATIENCE).await? == 1);
    // As it is streamed, and as it is read again because the stream leaves out what was not changed.
    let script = format!("{}; UPDATE t SET n = 2 WHERE id = 1", large(2));
    server.psql(&name, &script).await?;
    ensure!(table.until_equal(&target.http(), PATIENCE).await? == 2);
    let rows = table.rows().await?;
    ensure!(
        rows.values()
            .all(|row| row["v"].as_str().map_or(0, str::len) > 5_000_000)
    );
    watcher.stop().await?;
    writer.stop().await
}
