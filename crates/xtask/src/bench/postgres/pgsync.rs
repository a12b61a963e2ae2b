//! pgsync (PyPI, with a Redis) beside `sync`: a flat table copied as a whole, then changed while both follow.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{PostgresServer, SearchNode, wait_until};

use super::{Context, DATABASE, FLIGHTS, Way, figures, print};
use crate::bench::runs::Run;
use crate::process::Process;

const INDEX: &str = "pgsync";
const WITHIN: Duration = Duration::from_secs(900);
/// Rows of a transaction of the live part.
const TRANSACTION: u64 = 100;

pub(super) async fn run(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
) -> Result<Value> {
    let tools = tokio::task::spawn_blocking(testkit::pgsync_tools).await??;
    let rows = super::null::count(server, "flights").await?;
    let mut copies = [Way::new("syncline sync"), Way::new("pgsync")];
    let mut lives = [
        Way::new("syncline sync --follow"),
        Way::new("pgsync --daemon"),
    ];
    let changes = context.pick(20_000, 1_000).min(rows);

    eprintln!("postgres: sync, as pgsync will…");
    let folder = context.program.file("follow").display().to_string();
    let (from, to) = (server.url(DATABASE), node.url());
    let arguments = ["sync", &from, &to, "--indices", FLIGHTS, "--follow"];
    let arguments = [&arguments[..], &["--checkpoint-path", &folder]].concat();
    let began = Instant::now();
    let mut sync = context.program.command("sync-follow", &arguments)?;
    until(node, FLIGHTS, "*", rows).await?;
    copies[0].runs.push(done(rows, began, sync.used()?));
    let before = sync.used()?;
    let began = change(server, changes, 1).await?;
    until(node, FLIGHTS, "changed:1", changes).await?;
    lives[0]
        .runs
        .push(done(changes, began, sync.used()?.since(&before)));
    sync.stop().await?;

    eprintln!("postgres: pgsync…");
    let pgsync = Pgsync::start(context, server, node, tools).await?;
    let began = Instant::now();
    let bootstrap = pgsync.run("bootstrap", &[])?.succeed().await?.used;
    let copied = pgsync.run("pgsync", &[])?.succeed().await?.used;
    until(node, INDEX, "*", rows).await?;
    let used = Usage {
        user: bootstrap.user + copied.user,
        system: bootstrap.system + copied.system,
        ..copied
    };
    copies[1].runs.push(done(rows, began, used));
    let mut daemon = pgsync.run("pgsync", &["--daemon"])?;
    // It follows when a change comes through.
    change(server, 1, 2).await?;
    until(node, INDEX, "changed:2", 1).await?;
    let before = daemon.used()?;
    let began = change(server, changes, 3).await?;
    until(node, INDEX, "changed:3", changes).await?;
    lives[1]
        .runs
        .push(done(changes, began, daemon.used()?.since(&before)));
    daemon.kill()?;
    print("bootstrap: a flat table into OpenSearch (one run)", &copies);
    print(
        &format!("live: {changes} updates, {TRANSACTION} a transaction (one run)"),
        &lives,
    );
    Ok(json!({ "bootstrap": figures(&copies), "live": figures(&lives) }))
}

/// Updates so many flights; returns when it began.
async fn change(server: &PostgresServer, rows: u64, number: u64) -> Result<Instant> {
    let ids = server
        .psql(
            DATABASE,
            &format!("SELECT id FROM flights ORDER BY id LIMIT {rows}"),
        )
        .await?;
    let ids: Vec<&str> = ids.lines().collect();
    let statements = ids.chunks(TRANSACTION as usize).map(|ids| {
        format!(
            "UPDATE flights SET changed = {number} WHERE id IN ({});\n",
            ids.join(",")
        )
    });
    let began = Instant::now();
    server
        .psql(DATABASE, &statements.collect::<String>())
        .await?;
    Ok(began)
}

/// Waits until so many documents that a query finds can be searched.
async fn until(node: &SearchNode, index: &str, query: &str, count: u64) -> Result<()> {
    let target = node.http();
    let what = format!("{index} has {count} of {query}");
    wait_until(&what, WITHIN, async || {
        let refreshed = target
            .post_json(&format!("/{index}/_refresh"), &Value::Null)
            .await;
        let found = target.get_json(&format!("/{index}/_count?q={query}")).await;
        refreshed.is_ok() && found.is_ok_and(|found| found["count"].as_u64() >= Some(count))
    })
    .await
}

fn done(documents: u64, began: Instant, used: Usage) -> Run {
    Run {
        documents,
        elapsed: began.elapsed(),
        used: Some(used),
    }
}

/// What pgsync needs: a Redis, a schema, and its settings in the environment.
struct Pgsync<'a> {
    context: &'a Context,
    tools: PathBuf,
    settings: Vec<String>,
    schema: String,
    _redis: Process,
}

impl Pgsync<'_> {
    async fn start<'a>(
        context: &'a Context,
        server: &PostgresServer,
        node: &SearchNode,
        tools: PathBuf,
    ) -> Result<Pgsync<'a>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let flags = [
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ];
        let log = context.program.file("redis.log");
        let redis = Process::start("redis-server", &tools.join("redis-server"), &flags, log)?;
        wait_until("Redis answers", Duration::from_secs(20), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await?;
        let schema = context.program.file("pgsync.json");
        let nodes = json!({ "table": "flights", "schema": "public" });
        let one = json!([{ "database": DATABASE, "index": INDEX, "nodes": nodes }]);
        std::fs::write(&schema, one.to_string())?;
        let folder = context.program.file("pgsync-checkpoints");
        std::fs::create_dir_all(&folder)?;
        let host = node.url();
        let search_port = host.rsplit(':').next().context("a URL with a port")?;
        let settings = [
            ("PG_HOST", "127.0.0.1".to_owned()),
            ("PG_PORT", server.port().to_string()),
            ("PG_USER", "postgres".to_owned()),
            ("PG_PASSWORD", "trusted".to_owned()),
            ("PG_DATABASE", DATABASE.to_owned()),
            ("REDIS_HOST", "127.0.0.1".to_owned()),
            ("REDIS_PORT", port.to_string()),
            ("ELASTICSEARCH", "false".to_owned()),
            ("OPENSEARCH", "true".to_owned()),
            ("ELASTICSEARCH_HOST", "127.0.0.1".to_owned()),
            (
                "ELASTICSEARCH_PORT",
                search_port.trim_end_matches('/').to_owned(),
            ),
            ("ELASTICSEARCH_SCHEME", "http".to_owned()),
            ("CHECKPOINT_PATH", folder.display().to_string()),
        ];
        Ok(Pgsync {
            context,
            tools,
            settings: settings
                .map(|(name, value)| format!("{name}={value}"))
                .into(),
            schema: schema.display().to_string(),
            _redis: redis,
        })
    }

    /// Starts one of its programs.
    fn run(&self, program: &str, more: &[&str]) -> Result<Process> {
        let path = self.tools.join(program).display().to_string();
        let mut arguments: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        arguments.extend([path.as_str(), "--config", &self.schema]);
        arguments.extend(more);
        let log = self.context.program.file(&format!("{program}.log"));
        Process::start(program, "env".as_ref(), &arguments, log)
    }
}
