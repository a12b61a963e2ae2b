//! `cargo xtask servers`: a source, a target and a nats-server to develop against (`make dev-up`, `make dev-down`).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, Record, SearchNode};

/// Subcommands of `cargo xtask servers`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// Starts Elasticsearch, OpenSearch and nats-server, on their usual ports where these are free.
    Start,
    /// Stops them.
    Stop {
        /// Stops those that tests share instead, without waiting for the minute after which they end by themselves.
        #[arg(long)]
        tests: bool,
    },
    /// Shows what is running.
    Status,
}

/// Under which names source, target and nats-server are on record.
const SERVERS: [&str; 3] = ["dev-source", "dev-target", "dev-nats"];

/// Runs the task.
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Start => start().await,
        Command::Stop { tests } => stop(tests),
        Command::Status => status(),
    }
}

async fn start() -> Result<()> {
    let [source, target, nats] = SERVERS;
    let on_port = |port| NodeOptions {
        port: Some(port),
        ..NodeOptions::default()
    };
    let nats_options = NatsOptions {
        port: Some(4222),
        ..NatsOptions::default()
    };
    let (source, target, nats) = tokio::try_join!(
        SearchNode::standing(source, Product::Es8, on_port(9200)),
        SearchNode::standing(target, Product::Os2, on_port(9201)),
        NatsServer::standing(nats, nats_options),
    )?;
    let environment = format!(
        "ES_SOURCE={}\nES_TARGET={}\nNATS_URL={}\nNATS_SERVER={}\n",
        source.url(),
        target.url(),
        nats.url(),
        NatsServer::binary()?.display()
    );
    let file = environment_file();
    fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    fs::write(&file, environment).with_context(|| format!("cannot write {}", file.display()))?;
    println!("source  {}  {}", source.url(), source.product());
    println!("target  {}  {}", target.url(), target.product());
    println!("nats    {}", nats.url());
    println!("as variables: {}", file.display());
    Ok(())
}

fn stop(tests: bool) -> Result<()> {
    for server in Record::running()? {
        if SERVERS.contains(&server.name.as_str()) == tests {
            continue;
        }
        server.stop()?;
        println!("stopped {}", server.name);
    }
    if !tests {
        fs::remove_file(environment_file()).ok();
    }
    Ok(())
}

fn status() -> Result<()> {
    let running = Record::running()?;
    if running.is_empty() {
        println!("nothing is running");
    }
    for server in running {
        println!(
            "{:24}  {}  pid {}  {}",
            server.name,
            server.url,
            server.pid(),
            server.log.display()
        );
    }
    Ok(())
}

fn environment_file() -> PathBuf {
    testkit::checkout().join("target/dev/servers.env")
}
