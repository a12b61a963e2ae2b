//! Read your writes of PostgreSQL through the whole pipeline: a search with the position of a commit sees it.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Http, PostgresOptions, PostgresServer, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::{
        pipeline::Pipeline,
        program::{PATIENCE, Program},
    },
    truth::Table,
};

/// Where the server's log ends after a script.
async fn after(server: &PostgresServer, database: &str, script: &str) -> Result<String> {
    server.psql(database, script).await?;
    let lsn = server.psql(database, "SELECT pg_current_wal_lsn()").await?;
    Ok(lsn.trim().to_owned())
}

/// The service over an index, for anybody.
pub(crate) async fn api(target: &str, index: &str, flags: &[&str]) -> Result<(Program, Http)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = listener.local_addr()?.to_string();
    drop(listener);
    let arguments = [
        "query-api",
        "--es-hosts",
        target,
        "--indices",
        index,
        "--listen",
        &listen,
        "--anonymous",
        "--schema-interval",
        "100ms",
    ];
    let api = Program::start([&arguments, flags].concat())?;
    api.ready().await?;
    Ok((api, Http::new(&format!("http://{listen}"))))
}

async fn titles(asked: &Http, index: &str, lsn: &str) -> Result<Vec<String>> {
    let lsn = search::encode(lsn);
    let path = format!("/v1/{index}/search?sort=id&min_lsn={lsn}&limit=100");
    let found = asked.get_json(&path).await?;
    let hits = found["hits"].as_array().context("no hits")?;
    let title = |hit: &Value| hit["document"]["title"].as_str().map(str::to_owned);
    hits.iter()
        .map(|hit| title(hit).context("no title"))
        .collect()
}

#[tokio::test]
async fn a_search_with_the_position_of_a_commit_sees_it_whatever_the_commit_was_about() -> Result<()>
{
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "positions").await?;
    let tables = "
        CREATE TABLE films (id int PRIMARY KEY, title text NOT NULL, gross numeric(20, 2), seen bigint);
        CREATE TABLE rooms (id int PRIMARY KEY);
        CREATE TABLE left_out (id int PRIMARY KEY);
        INSERT INTO films VALUES (1, 'Alien', 9007199254740993.25, 9007199254740993)";
    server.psql(&name, tables).await?;
    let source = server.url(&name);
    let mut pipeline = Pipeline::new(&source, &target.url(), "*,-*left_out").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), source.clone()];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let films = Table {
        server: &server,
        database: &name,
        name: "public.films",
        id: "t.id",
    };
    films.until_equal(&target.http(), PATIENCE).await?;
    let index = films.index();
    let (api, asked) = api(&target.url(), &index, &["--position-timeout", "60s"]).await?;

    for n in 2..12 {
        let script = format!("INSERT INTO films VALUES ({n}, 'Alien {n}')");
        let lsn = after(&server, &name, &script).await?;
        let found = titles(&asked, &index, &lsn).await?;
        assert_eq!(found.last(), Some(&format!("Alien {n}")), "{found:?}");
    }
    // What has nothing to say to this index, or to any, does not keep it waiting.
    for script in [
        "INSERT INTO rooms VALUES (1)",
        "INSERT INTO left_out VALUES (1)",
    ] {
        let lsn = after(&server, &name, script).await?;
        assert_eq!(titles(&asked, &index, &lsn).await?.len(), 11, "{script}");
    }

    // A kill in the middle keeps nothing from being told, and nothing is told too early.
    let fill = "INSERT INTO films SELECT n, 'many' FROM generate_series(1000, 20000) n";
    server.psql(&name, fill).await?;
    writer.kill().await?;
    let lsn = after(&server, &name, "INSERT INTO films VALUES (0, 'Last')").await?;
    let (hasty, asked_hastily) =
        self::api(&target.url(), &index, &["--position-timeout", "300ms"]).await?;
    let path = format!("/v1/{index}/count?min_lsn={}", search::encode(&lsn));
    let refused = asked_hastily.get_json(&path).await.unwrap_err().to_string();
    assert!(refused.contains("position-not-reached"), "{refused}");
    let writer = pipeline.writer()?;
    let counted = asked.get_json(&path).await?;
    assert_eq!(counted["count"], 11 + 19_001 + 1, "{counted}");
    assert_eq!(titles(&asked, &index, &lsn).await?[0], "Last");

    // The columns' types are PostgreSQL's, and the digits, too.
    let described = asked.get_json(&format!("/v1/{index}")).await?;
    let gross = &described["fields"]["gross"]["postgres_type"];
    assert_eq!(gross, "numeric(20,2)", "{described}");
    let found = asked.get_json(&format!("/v1/{index}/1")).await?;
    assert_eq!(
        found["document"]["seen"], 9_007_199_254_740_993_i64,
        "{found}"
    );

    films.until_equal(&target.http(), PATIENCE).await?;
    hasty.stop().await?;
    api.stop().await?;
    watcher.stop().await?;
    writer.stop().await
}

/// The gateway looks into every row, and what it leaves out moves nothing at the target: only that the source has come
/// further.
#[tokio::test]
async fn a_position_is_reached_through_a_gateway_whatever_its_rules_leave_out() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "filtered").await?;
    let table = "
        CREATE TABLE films (id int PRIMARY KEY, kind text);
        INSERT INTO films VALUES (0, 'live')";
    server.psql(&name, table).await?;
    let source = server.url(&name);
    let mut pipeline = Pipeline::new(&source, &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), source.clone()];
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("rules.yaml");
    let live = "filters: [{ keep: { document: { field: kind, equals: live } } }]";
    std::fs::write(&rules, live)?;
    let arguments = pipeline.gateway_arguments(&rules, &[]);
    let mut gateway = Program::start(&arguments)?;
    gateway.ready().await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let index = format!("{name}.public.films");
    wait_until("the first row is there", PATIENCE, async || {
        target
            .http()
            .count(&index)
            .await
            .is_ok_and(|held| held == 1)
    })
    .await?;
    let (api, asked) = api(&target.url(), &index, &["--position-timeout", "60s"]).await?;
    let mut live = 1;
    for n in 1..16 {
        let kind = if n % 3 == 0 { "live" } else { "dead" };
        let script = format!("INSERT INTO films VALUES ({n}, '{kind}')");
        let lsn = after(&server, &name, &script).await?;
        if n % 5 == 0 {
            gateway.kill().await?;
            gateway = Program::start(&arguments)?;
        }
        live += u64::from(kind == "live");
        let path = format!("/v1/{index}/count?min_lsn={}", search::encode(&lsn));
        let counted = asked.get_json(&path).await?;
        assert_eq!(counted["count"], live, "{script}: {counted}");
    }
    for program in [api, watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

/// Nobody needs positions in order to have the documents: neither they nor the slot wait for them.
#[tokio::test]
async fn a_target_that_will_not_have_positions_gets_everything_else() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    // Of its own: what is closed here is used by others.
    let target = SearchNode::start(Product::Os2).await?;
    let http = target.http();
    http.put_json("/.syncline-positions", &json!({})).await?;
    http.post_json("/.syncline-positions/_close", &json!({}))
        .await?;
    let name = create_database(&server, "unwanted").await?;
    let tables = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)";
    server.psql(&name, tables).await?;
    let source = server.url(&name);
    let mut pipeline = Pipeline::new(&source, &target.url(), "*").await?;
    pipeline.of_watcher = vec!["--source".to_owned(), source.clone()];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    writer.says(&["positions cannot be written"]).await?;
    let lsn = after(&server, &name, "INSERT INTO t VALUES (2)").await?;
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    table.until_equal(&http, PATIENCE).await?;
    let question = format!(
        "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE database = '{name}' AND NOT temporary"
    );
    wait_until("the slot is let go", PATIENCE, async || {
        let answer = server.psql(&name, &question).await;
        answer.is_ok_and(|answer| answer.trim() == "t")
    })
    .await
    .with_context(|| writer.last_words())?;
    watcher.stop().await?;
    writer.stop().await
}
