//! `cargo xtask demo`: the whole journey on real servers with real data, in about a minute, with the proof at its end.
//!
//! Elasticsearch is loaded; watcher and writer carry it over JetStream into OpenSearch while documents change; then
//! `syncline verify` compares both sides completely. Everything ends with this process, however that ends.

pub(crate) mod postgres;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use testkit::datasets::Dataset;
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::carrier::Carrier;
use crate::changes::{Changer, Lag, look_for};
use crate::indices::Index;
use crate::program::Program;
use crate::steps::Steps;
use report::{Figures, Load};

/// Flags of `cargo xtask demo` and `cargo xtask demo-postgres`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leaves everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// A binary to use instead of building one.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

const INDICES: [Index; 3] = [
    Index {
        dataset: Dataset::Movies,
        shards: 1,
    },
    Index {
        dataset: Dataset::Zipcodes,
        shards: 2,
    },
    Index {
        dataset: Dataset::Flights,
        shards: 3,
    },
];

/// Changes a second, from the start of the copy to the end.
const CHANGES_PER_SECOND: u32 = 200;
/// How long changes are followed after the copy, with a look at how long they take.
const FOLLOW: Duration = Duration::from_secs(10);

/// Runs the task.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let mut running = until_stopped(demo(args)).await?;
    if args.keep {
        running.show();
        signals().await?;
    }
    running.carrier.stop().await?;
    ensure!(running.equal, "source and target differ");
    Ok(())
}

/// What a demo comes to, unless it is ended by a signal.
async fn until_stopped<T>(demo: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        stopped = signals() => {
            stopped?;
            bail!("stopped before the end; everything has been shut down")
        }
        ended = demo => ended,
    }
}

async fn signals() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn demo(args: &Args) -> Result<Running> {
    let folder = testkit::checkout().join("target/demo");
    let program = Program::prepare(args.program.as_deref(), folder)?;
    let began = Instant::now();
    let steps = Steps::default();
    let servers = Servers::start(&steps).await?;
    let loads = load(&servers, &steps).await?;
    let mut running = start(&program, servers, &steps).await?;
    let figures = running.follow(loads, &steps).await?;
    running.equal = verify(&program, &running.servers, &steps).await?;
    println!("{}", figures.text(running.equal, began.elapsed()));
    Ok(running)
}

/// The three servers.
struct Servers {
    source: SearchNode,
    target: SearchNode,
    nats: NatsServer,
}

impl Servers {
    async fn start(steps: &Steps) -> Result<Servers> {
        let (source, target) = (Product::Es8, Product::Os2);
        let step = steps.begin(&format!("starting {source}, {target}, nats-server"), None);
        let options = NodeOptions {
            heap_megabytes: 1024,
            ..NodeOptions::default()
        };
        let (source, target, nats) = tokio::try_join!(
            SearchNode::start_with(source, options.clone()),
            SearchNode::start_with(target, options),
            NatsServer::start(NatsOptions::default()),
        )?;
        step.done(steps, "they answer");
        Ok(Servers {
            source,
            target,
            nats,
        })
    }

    /// What each has used so far.
    fn used(&self) -> Result<[(&'static str, Usage); 3]> {
        Ok([
            ("nats-server", Usage::of(self.nats.pid())?),
            ("Elasticsearch", Usage::of(self.source.pid())?),
            ("OpenSearch", Usage::of(self.target.pid())?),
        ])
    }
}

async fn load(servers: &Servers, steps: &Steps) -> Result<Vec<Load>> {
    let source = servers.source.http();
    let mut loads = Vec::new();
    for index in INDICES {
        let total = index.dataset.documents()? as u64;
        let step = steps.begin(&format!("loading {}", index.name()), Some(total));
        index.create(&source).await?;
        let (documents, bytes) = index.load(&source, |done| step.at(done)).await?;
        step.done(steps, &format!("{documents} documents"));
        loads.push(Load {
            name: index.name(),
            shards: index.shards,
            documents,
            bytes,
        });
    }
    Ok(loads)
}

async fn start(program: &Program, servers: Servers, steps: &Steps) -> Result<Running> {
    let step = steps.begin("starting es-watcher and es-writer", None);
    let (source, target) = (servers.source.url(), servers.target.url());
    let nats = servers.nats.url();
    let carrier = Carrier::start(program, &source, &nats, &target, &names(), &[]).await?;
    step.done(steps, "they are ready");
    Ok(Running {
        carrier,
        servers,
        equal: false,
    })
}

/// What runs once everything is loaded. The services end before the servers.
struct Running {
    carrier: Carrier,
    servers: Servers,
    equal: bool,
}

impl Running {
    /// Changes documents while everything is copied, then for some seconds more, and waits for the last of them.
    async fn follow(&mut self, loads: Vec<Load>, steps: &Steps) -> Result<Figures> {
        let before = self.servers.used()?;
        let places = INDICES.into_iter().zip(&loads);
        let places = places.map(|(index, load)| (index, load.documents));
        let mut changer = Changer::new(self.servers.source.http(), places.collect());
        let total = loads.iter().map(|load| load.documents).sum();
        let copied = self.copy(&mut changer, total, steps).await?;
        let copying = self.carrier.began.elapsed();
        let lag = self.changes(&mut changer, steps).await?;
        let settled = self.carrier.caught_up().await?;
        let deletes = self.carrier.deletes().await?;
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
            deletes,
            lag,
            processes,
        })
    }

    /// Waits until as many documents are written as were loaded; returns how many were.
    async fn copy(&mut self, changer: &mut Changer, total: u64, steps: &Steps) -> Result<u64> {
        let what = format!("copying, with {CHANGES_PER_SECOND} changes/s");
        let step = steps.begin(&what, Some(total));
        let mut settled = Ok(0);
        let copied = async {
            settled = self
                .carrier
                .until_settled(total, |done| step.at(done))
                .await;
        };
        changer.run(CHANGES_PER_SECOND, None, copied).await?;
        let settled = settled?;
        step.done(steps, &format!("{settled} written"));
        Ok(settled)
    }

    async fn changes(&mut self, changer: &mut Changer, steps: &Steps) -> Result<Lag> {
        // What changed during the copy has to be through, or its end would be taken for lag.
        self.carrier.caught_up().await?;
        let what = format!("following {CHANGES_PER_SECOND} changes/s");
        let step = steps.begin(&what, None);
        let (samples, arriving) = mpsc::channel(10_000);
        let target = self.servers.target.http();
        let end = tokio::time::sleep(FOLLOW);
        let (changed, lags) = tokio::try_join!(
            changer.run(CHANGES_PER_SECOND, Some(samples), end),
            look_for(&target, arriving),
        )?;
        let (changes, samples) = (changed.changes, lags.documents.samples());
        step.done(steps, &format!("{changes} changes, {samples} looked for"));
        Ok(lags.documents)
    }

    fn show(&self) {
        let (source, target) = (&self.servers.source, &self.servers.target);
        println!("\nleft running:");
        println!("  source      {}  {}", source.url(), source.product());
        println!("  target      {}  {}", target.url(), target.product());
        println!("  nats        {}", self.servers.nats.url());
        for service in [&self.carrier.watcher, &self.carrier.writer] {
            let (name, address) = (service.process.name(), service.address());
            println!("  {name:10}  http://{address}/metrics");
        }
        println!("Ctrl-C ends all of it.");
    }
}

fn names() -> String {
    INDICES.map(Index::name).join(",")
}

/// Compares both sides completely.
async fn verify(program: &Program, servers: &Servers, steps: &Steps) -> Result<bool> {
    let step = steps.begin("verifying every document", None);
    let (source, target) = (servers.source.url(), servers.target.url());
    let names = names();
    let arguments = ["verify", &source, &target, "--indices", &names];
    let mut verify = program.command("verify", &arguments)?;
    let equal = verify.finish().await?.success;
    step.done(steps, if equal { "equal" } else { "NOT equal" });
    println!("{}", verify.output().trim_end());
    Ok(equal)
}
