//! What cannot work says so, in one sentence with the remedy; and what was lost is copied again.

use anyhow::{Result, ensure};
use testkit::{PostgresOptions, PostgresServer, Product, SearchNode};

use crate::{
    create_database,
    support::program::{PATIENCE, Program, run, text},
    truth::Table,
};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')";

#[tokio::test]
async fn each_obstacle_is_one_sentence_with_its_remedy() -> Result<()> {
    let mut server = PostgresServer::start(PostgresOptions {
        hba: Some(
            "host all locked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
                .to_owned(),
        ),
        ..PostgresOptions::default()
    })
    .await?;
    let node = SearchNode::shared(Product::Es8).await;
    let name = create_database(&server, "refused").await?;
    server
        .psql(
            &name,
            &format!(
                "{TABLE}; CREATE TABLE bare (v int); CREATE TABLE \"T\" (id int PRIMARY KEY);
                 CREATE ROLE locked LOGIN PASSWORD 'right'; CREATE ROLE plain LOGIN;
                 CREATE ROLE streams LOGIN REPLICATION;
                 SELECT pg_create_physical_replication_slot('physical');"
            ),
        )
        .await?;
    let sync = async |url: &str, flags: &[&str]| {
        let target = node.url();
        let mut arguments = vec!["sync", url, &target];
        arguments.extend(flags);
        run(arguments).await
    };
    let own = server.url(&name);
    let as_user = |user: &str| own.replace("postgres@", &format!("{user}@"));
    let only_t = format!("{name}.public.bare");
    for (url, flags, words) in [
        (as_user("locked"), vec![], vec!["password", "PGPASSWORD"]),
        (
            as_user("locked:wrong"),
            vec![],
            vec!["password authentication failed"],
        ),
        (
            as_user("nobody"),
            vec![],
            vec!["role \"nobody\" does not exist"],
        ),
        (
            server.url("nowhere"),
            vec![],
            vec!["database \"nowhere\" does not exist"],
        ),
        (
            format!("{own}?sslmode=require"),
            vec![],
            vec!["no TLS", "sslmode=disable"],
        ),
        (
            as_user("plain"),
            vec!["--indices", "*.t"],
            vec!["replication"],
        ),
        (
            as_user("streams"),
            vec!["--indices", "*.other.*"],
            vec!["no table", "template"],
        ),
        (
            own.clone(),
            vec!["--indices", &only_t],
            vec!["public.bare", "primary key"],
        ),
        (
            own.clone(),
            vec![],
            vec!["public.T", "public.t", "--index-template"],
        ),
        (
            own.clone(),
            vec!["--pg-publication", "none"],
            vec!["publication \"none\"", "--pg-publication"],
        ),
        ("postgres://h/d".to_owned(), vec![], vec!["names no user"]),
    ] {
        sync(&url, &flags)
            .await?
            .refused(1, &words)
            .map_err(|error| error.context(format!("{url} {flags:?}")))?;
    }
    server.configure(PostgresOptions {
        config: "wal_level = replica".to_owned(),
        ..PostgresOptions::default()
    })?;
    server.restart().await?;
    sync(&own, &["--indices", "*.public.t", "--follow"])
        .await?
        .refused(1, &["wal_level", "restart"])
}

#[tokio::test]
async fn check_names_each_obstacle_and_what_would_break_the_application() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions {
        config: "max_slot_wal_keep_size = 100MB".to_owned(),
        ..PostgresOptions::default()
    })
    .await?;
    let name = create_database(&server, "check").await?;
    server
        .psql(
            &name,
            &format!(
                "{TABLE}; CREATE TABLE bare (v int); CREATE ROLE plain LOGIN; CREATE ROLE streams LOGIN REPLICATION;
                 CREATE PUBLICATION harmful FOR TABLE t, bare; CREATE PUBLICATION partial FOR TABLE t WITH (publish = 'insert');"
            ),
        )
        .await?;
    let own = server.url(&name);
    let as_user = |user: &str| own.replace("postgres@", &format!("{user}@"));
    for (url, flags, code, words) in [
        (
            own.clone(),
            vec![],
            0,
            vec![
                "1 would be captured",
                "public.bare is left out",
                "may stream",
                "100MB",
            ],
        ),
        (
            own.clone(),
            vec!["--pg-no-key", "refuse"],
            1,
            vec!["public.bare is left out", "primary key"],
        ),
        (
            own.clone(),
            vec!["--pg-publication", "harmful"],
            1,
            vec!["public.bare has no replica identity", "application"],
        ),
        (
            own.clone(),
            vec!["--pg-publication", "partial"],
            1,
            vec!["ALTER PUBLICATION \"partial\""],
        ),
        (
            as_user("plain"),
            vec![],
            1,
            vec![
                "ALTER ROLE \"plain\" REPLICATION",
                "GRANT SELECT ON \"public\".\"t\"",
            ],
        ),
        (
            as_user("streams"),
            vec![],
            1,
            vec!["another owner: t", "--pg-publication"],
        ),
        (server.url("nowhere"), vec![], 1, vec!["does not exist"]),
    ] {
        let mut arguments = vec!["check", "--source", &url];
        arguments.extend(&flags);
        let ended = run(arguments).await?;
        ensure!(ended.code == Some(code), "{url} {flags:?}: {ended:?}");
        for word in words {
            ensure!(
                ended.stdout.contains(word),
                "{url} {flags:?}: {word:?} is not said: {ended:?}"
            );
        }
    }
    let left = "SELECT count(*) FROM pg_replication_slots";
    ensure!(server.psql(&name, left).await?.trim() == "0");
    Ok(())
}

#[tokio::test]
async fn a_slot_that_was_dropped_or_lost_is_followed_by_a_copy_over_what_is_there() -> Result<()> {
    let mut server = PostgresServer::start(PostgresOptions::default()).await?;
    let node = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "lost").await?;
    server.psql(&name, TABLE).await?;
    let folder = tempfile::tempdir()?;
    let arguments = [
        "sync".to_owned(),
        server.url(&name),
        node.url(),
        "--pg-slot".to_owned(),
        "mine".to_owned(),
        "--checkpoint-path".to_owned(),
        text(folder.path()),
    ];
    let equal = async |server: &PostgresServer| {
        let table = Table {
            server,
            database: &name,
            name: "public.t",
            id: "t.id",
        };
        table.until_equal(&node.http(), PATIENCE).await
    };
    let program = Program::follow(&arguments)?;
    ensure!(equal(&server).await? == 2);
    program.stop().await?;
    // Dropped by somebody: what was deleted meanwhile is in no stream.
    server
        .psql(&name, "SELECT pg_drop_replication_slot('mine'); DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'c')")
        .await?;
    let program = Program::follow(&arguments)?;
    ensure!(equal(&server).await? == 2);
    program.stop().await?;
    // Read by somebody else: what they took is in no stream of ours.
    server
        .psql(
            &name,
            "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 'd');
             SELECT count(*) FROM pg_logical_slot_get_binary_changes('mine', NULL, NULL, 'proto_version', '1', 'publication_names', 'mine');",
        )
        .await?;
    let program = Program::follow(&arguments)?;
    ensure!(equal(&server).await? == 2);
    program.stop().await?;
    // Thrown away by the server because it had become too long.
    server.configure(PostgresOptions {
        config: "max_slot_wal_keep_size = 1MB\nmax_wal_size = 32MB".to_owned(),
        ..PostgresOptions::default()
    })?;
    server.restart().await?;
    server
        .psql(
            &name,
            "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (5, 'e');
             CREATE TABLE noise AS SELECT n, repeat('x', 1000) FROM generate_series(1, 60000) n; CHECKPOINT;",
        )
        .await?;
    let lost = server
        .psql(
            &name,
            "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'mine'",
        )
        .await?;
    ensure!(lost.trim() == "lost", "{lost}");
    let program = Program::follow(&arguments)?;
    ensure!(equal(&server).await? == 2);
    program.stop().await
}
