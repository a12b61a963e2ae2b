//! `cargo xtask demo-postgres`: five tables of real relational data from PostgreSQL into OpenSearch, changed and attacked
//! meanwhile, proved equal, and asked by REST.
//!
//! The processes are those that a user would run: PostgreSQL, nats-server, OpenSearch, `es-watcher --source
//! postgres://…`, `es-writer`, and at the end `query-api`. Both services are killed once, without warning, while rows,
//! keys and tables change.

mod questions;
mod workload;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::process::Usage;
use testkit::{
    NatsOptions, NatsServer, NodeOptions, PostgresOptions, PostgresServer, Product, SearchNode,
    wait_until,
};
use tokio::sync::mpsc;

use super::report::{Figures, Load};
use super::{Args, FOLLOW, until_stopped};
use crate::carrier::Carrier;
use crate::changes::{Lag, look_for};
use crate::nycflights::{DATABASE, TABLES};
use crate::program::{Program, Service};
use crate::steps::Steps;
use workload::{Bench, PER_SECOND, SAMPLED_PER_SECOND};

/// How long the target may take to come to where the database is, while the machine has other work.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the task.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let mut running = until_stopped(demo(args)).await?;
    if args.keep {
        running.show();
        super::signals().await?;
    }
    running.api.process.stop().await?;
    running.carrier.stop().await?;
    ensure!(running.equal, "tables and indices differ");
    Ok(())
}

async fn demo(args: &Args) -> Result<Running> {
    let folder = testkit::checkout().join("target/demo-postgres");
    let program = Program::prepare(args.program.as_deref(), folder)?;
    let began = Instant::now();
    let steps = Steps::default();
    let servers = Servers::start(&steps).await?;
    let loads = load(&servers.source, &steps).await?;
    let carrier = start(&program, &servers, &steps).await?;
    let mut sync = Sync {
        program,
        servers,
        carrier,
    };
    let figures = sync.follow(loads, &steps).await?;
    sync.trouble(&steps).await?;
    let equal = sync.prove(&steps).await?;
    println!("{}", figures.text(equal, began.elapsed()));
    let (api, url) = sync.ask().await?;
    Ok(Running {
        api,
        url,
        carrier: sync.carrier,
        servers: sync.servers,
        equal,
    })
}

/// What runs at the end. The services end before the servers.
struct Running {
    api: Service,
    url: String,
    carrier: Carrier,
    servers: Servers,
    equal: bool,
}

impl Running {
    fn show(&self) {
        println!("left running:");
        println!("  source      {}", self.servers.source.url(DATABASE));
        println!("  target      {}", self.servers.target.url());
        println!("  query API   {}/docs", self.url);
        for service in [&self.carrier.watcher, &self.carrier.writer] {
            let (name, address) = (service.process.name(), service.address());
            println!("  {name:10}  http://{address}/metrics");
        }
        println!("Ctrl-C ends all of it.");
    }
}

/// The three servers.
struct Servers {
    source: PostgresServer,
    target: SearchNode,
    nats: NatsServer,
}

impl Servers {
    async fn start(steps: &Steps) -> Result<Servers> {
        let target = Product::Os2;
        let step = steps.begin(&format!("starting PostgreSQL, {target}, nats-server"), None);
        let options = NodeOptions {
            heap_megabytes: 1024,
            ..NodeOptions::default()
        };
        let (source, target, nats) = tokio::try_join!(
            PostgresServer::start(PostgresOptions::default()),
            SearchNode::start_with(target, options),
            NatsServer::start(NatsOptions::default()),
        )?;
        let version = source.psql("postgres", "SHOW server_version").await?;
        step.done(steps, &format!("PostgreSQL {} answers", version.trim()));
        Ok(Servers {
            source,
            target,
            nats,
        })
    }

    /// What each has used so far; PostgreSQL has a process for each connection, which makes no figure.
    fn used(&self) -> Result<[(&'static str, Usage); 2]> {
        Ok([
            ("nats-server", Usage::of(self.nats.pid())?),
            ("OpenSearch", Usage::of(self.target.pid())?),
        ])
    }
}

async fn load(source: &PostgresServer, steps: &Steps) -> Result<Vec<Load>> {
    source
        .psql("postgres", &format!("CREATE DATABASE {DATABASE}"))
        .await?;
    let mut loads = Vec::new();
    for table in TABLES {
        let step = steps.begin(&format!("loading {}", table.name), None);
        let (documents, bytes) = table.load(source).await?;
        step.done(steps, &format!("{documents} rows"));
        loads.push(Load {
            name: table.name,
            shards: 1,
            documents,
            bytes,
        });
    }
    Ok(loads)
}

async fn start(program: &Program, servers: &Servers, steps: &Steps) -> Result<Carrier> {
    let step = steps.begin("starting es-watcher and es-writer", None);
    let nats = servers.nats.url();
    let began = Instant::now();
    let carrier = Carrier {
        began,
        watcher: watcher(program, servers).await?,
        writer: program.writer(&servers.target.url(), &nats).await?,
    };
    step.done(steps, "they are ready");
    Ok(carrier)
}

async fn watcher(program: &Program, servers: &Servers) -> Result<Service> {
    let template = ["--index-template", "{table}"];
    let (source, nats) = (servers.source.url(DATABASE), servers.nats.url());
    program.pg_watcher(&source, &nats, &template).await
}

/// Servers and services at work.
struct Sync {
    program: Program,
    servers: Servers,
    carrier: Carrier,
}

impl Sync {
    /// Changes rows while everything is copied, then for some seconds more with a look at how long changes take.
    async fn follow(&mut self, loads: Vec<Load>, steps: &Steps) -> Result<Figures> {
        let before = self.servers.used()?;
        let total = loads.iter().map(|load| load.documents).sum();
        let copied = self.copy(total, steps).await?;
        let copying = self.carrier.began.elapsed();
        self.caught_up().await?;
        let lag = self.changes(steps).await?;
        self.caught_up().await?;
        let settled = self.carrier.until_settled(copied, |_| ()).await?;
        let mut processes = vec![
            ("es-watcher", self.carrier.watcher.process.used()?),
            ("es-writer", self.carrier.writer.process.used()?),
        ];
        let servers = self.servers.used()?.into_iter().zip(before);
        processes.extend(servers.map(|((name, now), (_, before))| (name, now.since(&before))));
        Ok(Figures {
            loads,
            copied,
            copying,
            settled,
            deletes: self
                .number("SELECT sum(n_tup_del) FROM pg_stat_user_tables")
                .await?,
            lag,
            processes,
        })
    }

    /// Waits until as many documents are written as were loaded; returns how many were.
    async fn copy(&mut self, total: u64, steps: &Steps) -> Result<u64> {
        let what = format!("copying, with {PER_SECOND} transactions/s");
        let step = steps.begin(&what, Some(total));
        let bench = Bench::start(&self.program, &self.servers.source, PATIENCE)?;
        let settled = self.carrier.until_settled(total, |done| step.at(done));
        let settled = settled.await?;
        bench.stop()?;
        step.done(steps, &format!("{settled} written"));
        Ok(settled)
    }

    async fn changes(&mut self, steps: &Steps) -> Result<Lag> {
        let step = steps.begin(&format!("following {PER_SECOND} transactions/s"), None);
        let mut bench = Bench::start(&self.program, &self.servers.source, FOLLOW)?;
        let (samples, arriving) = mpsc::channel(1000);
        let target = self.servers.target.http();
        let writing = workload::sample(&self.servers.source, FOLLOW, samples);
        let ((), lags) = tokio::try_join!(writing, look_for(&target, arriving))?;
        let transactions = bench.finish().await?;
        let samples = lags.documents.samples();
        let how = format!(
            "{transactions} of pgbench; {samples} more, {SAMPLED_PER_SECOND}/s, looked for"
        );
        step.done(steps, &how);
        Ok(lags.documents)
    }

    /// Kills both services while rows, keys and tables change; nothing may come of it.
    async fn trouble(&mut self, steps: &Steps) -> Result<()> {
        let nats = self.servers.nats.url();
        let mut bench = Bench::start(&self.program, &self.servers.source, FOLLOW)?;
        for (what, script) in workload::TROUBLE {
            let step = steps.begin(what, None);
            self.servers.source.psql(DATABASE, script).await?;
            step.done(steps, "done");
            if what == workload::KILL_WATCHER_AFTER {
                let step = steps.begin("kill -9 of es-watcher, and a new one", None);
                self.carrier.watcher.process.kill()?;
                self.carrier.watcher = watcher(&self.program, &self.servers).await?;
                step.done(steps, "it is ready");
            }
            if what == workload::KILL_WRITER_AFTER {
                let step = steps.begin("kill -9 of es-writer, and a new one", None);
                self.carrier.writer.process.kill()?;
                let target = self.servers.target.url();
                self.carrier.writer = self.program.writer(&target, &nats).await?;
                step.done(steps, "it is ready");
            }
        }
        let step = steps.begin("letting the transactions end and the target catch up", None);
        let transactions = bench.finish().await?;
        self.caught_up().await?;
        step.done(steps, &format!("{transactions} transactions meanwhile"));
        Ok(())
    }

    /// Waits until the slot is let go up to where the database is now: it is when the target has everything before.
    async fn caught_up(&mut self) -> Result<()> {
        let source = &self.servers.source;
        let now = source
            .psql(DATABASE, "SELECT pg_current_wal_insert_lsn()")
            .await?;
        let question = format!(
            "SELECT bool_and(confirmed_flush_lsn >= '{}') FROM pg_replication_slots WHERE NOT temporary",
            now.trim()
        );
        wait_until("the slot is let go", PATIENCE, async || {
            let answer = source.psql(DATABASE, &question).await;
            answer.is_ok_and(|answer| answer.trim() == "t")
        })
        .await?;
        self.carrier.watcher.process.expect_alive()?;
        self.carrier.writer.process.expect_alive()
    }

    /// Compares every row with every document.
    async fn prove(&self, steps: &Steps) -> Result<bool> {
        let step = steps.begin("verifying every row", None);
        let (source, target) = (self.servers.source.url(DATABASE), self.servers.target.url());
        let arguments = ["verify", &source, &target, "--index-template", "{table}"];
        let mut verify = self.program.command("verify", &arguments)?;
        let equal = verify.finish().await?.success;
        step.done(steps, if equal { "equal" } else { "NOT equal" });
        println!("{}", verify.output().trim_end());
        Ok(equal)
    }

    /// Starts the query API and asks; returns it and where it answers.
    async fn ask(&self) -> Result<(Service, String)> {
        let indices = questions::INDICES;
        let (api, address) = self
            .program
            .query_api(&self.servers.target.url(), indices)
            .await?;
        let url = format!("http://{address}");
        questions::ask(&url, &self.servers.source).await?;
        Ok((api, url))
    }

    async fn number(&self, question: &str) -> Result<u64> {
        let answer = self.servers.source.psql(DATABASE, question).await?;
        Ok(answer.trim().parse()?)
    }
}
