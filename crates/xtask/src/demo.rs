//! `cargo xtask demo`: the whole journey on real servers with real data, in about a minute, with the proof at its end.
//!
//! Elasticsearch is loaded; watcher and writer carry it over JetStream into OpenSearch while documents change; then
//! `syncline verify` compares both sides completely. Everything ends with this process, however that ends.

mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::datasets::Dataset;
use testkit::process::Usage;
use testkit::{NatsOptions, NatsServer, NodeOptions, Product, SearchNode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::changes::{Changer, Lag, look_for};
use crate::indices::Index;
use crate::program::{Program, Service};
use crate::steps::Steps;
use report::{Figures, Load};

/// Flags of `cargo xtask demo`.
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
/// How long copying, or catching up, may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the task.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let running = tokio::select! {
        biased;
        stopped = signals() => {
            stopped?;
            bail!("stopped before the end; everything has been shut down")
        }
        ended = demo(args) => ended?,
    };
    if args.keep {
        running.show();
        signals().await?;
    }
    running.stop().await
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
    let mut pipeline = Pipeline::start(&program, &servers, &steps).await?;
    let mut figures = pipeline.follow(&servers, loads, &steps).await?;
    figures.equal = verify(&program, &servers, &steps).await?;
    println!("{}", figures.table(began.elapsed()));
    let running = Running { pipeline, servers };
    if !figures.equal && !args.keep {
        running.stop().await?;
        bail!("source and target differ");
    }
    Ok(running)
}

/// What runs at the end of the demo.
struct Running {
    pipeline: Pipeline,
    servers: Servers,
}

impl Running {
    fn show(&self) {
        let (source, target) = (&self.servers.source, &self.servers.target);
        println!("\nleft running:");
        println!("  source      {}  {}", source.url(), source.product());
        println!("  target      {}  {}", target.url(), target.product());
        println!("  nats        {}", self.servers.nats.url());
        println!(
            "  es-watcher  http://{}/metrics",
            self.pipeline.watcher.address()
        );
        println!(
            "  es-writer   http://{}/metrics",
            self.pipeline.writer.address()
        );
        println!("Ctrl-C ends all of it.");
    }

    /// Ends the services in order, then the servers.
    async fn stop(mut self) -> Result<()> {
        self.pipeline.watcher.process.stop().await?;
        self.pipeline.writer.process.stop().await?;
        Ok(())
    }
}

/// The three servers.
struct Servers {
    source: SearchNode,
    target: SearchNode,
    nats: NatsServer,
}

impl Servers {
    async fn start(steps: &Steps) -> Result<Servers> {
        let what = format!(
            "starting {}, {} and nats-server",
            Product::Es8,
            Product::Os2
        );
        let step = steps.begin(&what, None);
        let options = NodeOptions {
            heap_megabytes: 1024,
            ..NodeOptions::default()
        };
        let (source, target, nats) = tokio::try_join!(
            SearchNode::start_with(Product::Es8, options.clone()),
            SearchNode::start_with(Product::Os2, options),
            NatsServer::start(NatsOptions::default()),
        )?;
        step.done(steps, "they answer");
        Ok(Servers {
            source,
            target,
            nats,
        })
    }
}

async fn load(servers: &Servers, steps: &Steps) -> Result<Vec<Load>> {
    let source = servers.source.http();
    let mut loads = Vec::new();
    for index in INDICES {
        let name = index.name();
        let total = index.dataset.documents()? as u64;
        let step = steps.begin(&format!("loading {name}"), Some(total));
        index.create(&source).await?;
        let (documents, bytes) = index.load(&source, |done| step.at(done)).await?;
        step.done(steps, &format!("{documents} documents"));
        loads.push(Load {
            index,
            documents,
            bytes,
        });
    }
    Ok(loads)
}

/// The two services.
struct Pipeline {
    began: Instant,
    watcher: Service,
    writer: Service,
}

impl Pipeline {
    async fn start(program: &Program, servers: &Servers, steps: &Steps) -> Result<Pipeline> {
        let step = steps.begin("starting es-watcher and es-writer", None);
        let (source, target) = (servers.source.url(), servers.target.url());
        let nats = servers.nats.url();
        let names = INDICES.map(Index::name).join(",");
        let began = Instant::now();
        let watcher = program.watcher(&source, &nats, &names, &[]).await?;
        let writer = program.writer(&target, &nats).await?;
        step.done(steps, "they are ready");
        Ok(Pipeline {
            began,
            watcher,
            writer,
        })
    }

    /// Changes documents while everything is copied, then for some seconds more, and waits for the last of them.
    async fn follow(
        &mut self,
        servers: &Servers,
        loads: Vec<Load>,
        steps: &Steps,
    ) -> Result<Figures> {
        let places = loads.iter().map(|load| (load.index, load.documents));
        let mut changer = Changer::new(servers.source.http(), places.collect());
        let total = loads.iter().map(|load| load.documents).sum();
        let copied = self.copy(&mut changer, total, steps).await?;
        let copying = self.began.elapsed();
        let lag = self.changes(&mut changer, servers, steps).await?;

        let step = steps.begin("waiting until all is settled", None);
        let settled = self.caught_up().await?;
        step.done(steps, &format!("{settled} changes"));
        Ok(Figures {
            loads,
            copied,
            copying,
            settled,
            lag,
            processes: vec![
                ("es-watcher", self.watcher.process.used()?),
                ("es-writer", self.writer.process.used()?),
                ("nats-server", Usage::of(servers.nats.pid())?),
                ("Elasticsearch", Usage::of(servers.source.pid())?),
                ("OpenSearch", Usage::of(servers.target.pid())?),
            ],
            equal: false,
        })
    }

    /// Waits until as many documents are written as were loaded; returns how many were.
    async fn copy(&mut self, changer: &mut Changer, total: u64, steps: &Steps) -> Result<u64> {
        let what = format!("copying, with {CHANGES_PER_SECOND} changes/s");
        let step = steps.begin(&what, Some(total));
        let mut settled = Ok(0);
        let copied = async {
            settled = self.until_settled(|settled| step.at(settled), total).await;
        };
        changer.run(CHANGES_PER_SECOND, None, copied).await?;
        let settled = settled?;
        step.done(steps, &format!("{settled} written"));
        Ok(settled)
    }

    async fn until_settled(&mut self, show: impl Fn(u64), total: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let settled = self.writer.metric(SETTLED).await?;
            show(settled);
            if settled >= total {
                return Ok(settled);
            }
            self.expect_going_on(deadline)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn changes(
        &mut self,
        changer: &mut Changer,
        servers: &Servers,
        steps: &Steps,
    ) -> Result<Lag> {
        // What changed during the copy has to be through, or its end would be taken for lag.
        self.caught_up().await?;
        let what = format!("following {CHANGES_PER_SECOND} changes/s");
        let step = steps.begin(&what, None);
        let (samples, arriving) = mpsc::channel(10_000);
        let target = servers.target.http();
        let end = tokio::time::sleep(FOLLOW);
        let (changed, lag) = tokio::try_join!(
            changer.run(CHANGES_PER_SECOND, Some(samples), end),
            look_for(&target, arriving),
        )?;
        let how = format!("{} changes, {} looked for", changed.changes, lag.samples());
        step.done(steps, &how);
        Ok(lag)
    }

    /// Waits until the watcher has seen the source at rest and everything published is written; returns how many
    /// changes that were.
    async fn caught_up(&mut self) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        let looks = self.watcher.metric(LOOKS).await?;
        loop {
            // A look that began after now sees every change that came before.
            let looked = self.watcher.metric(LOOKS).await? >= looks + 2;
            let behind = self.watcher.metric(BEHIND).await?;
            let published = self.watcher.metric(PUBLISHED).await?;
            let settled = self.writer.metric(SETTLED).await?;
            if looked && behind == 0 && published == settled {
                return Ok(settled);
            }
            self.expect_going_on(deadline).with_context(|| {
                format!("behind {behind}, published {published}, settled {settled}")
            })?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn expect_going_on(&mut self, deadline: Instant) -> Result<()> {
        self.watcher.process.expect_alive()?;
        self.writer.process.expect_alive()?;
        ensure!(
            Instant::now() < deadline,
            "nothing more came for {PATIENCE:?}"
        );
        Ok(())
    }
}

const SETTLED: &str = "syncline_writer_changes_total";
const PUBLISHED: &str = "syncline_watcher_changes_total";
const LOOKS: &str = "syncline_watcher_looks_total";
const BEHIND: &str = "syncline_watcher_behind_operations";

/// Compares both sides completely.
async fn verify(program: &Program, servers: &Servers, steps: &Steps) -> Result<bool> {
    let step = steps.begin("verifying every document", None);
    let (source, target) = (servers.source.url(), servers.target.url());
    let names = INDICES.map(Index::name).join(",");
    let arguments = ["verify", &source, &target, "--indices", &names];
    let mut verify = program.command("verify", &arguments)?;
    let finished = verify.finish().await?;
    let how = if finished.success {
        "equal"
    } else {
        "different"
    };
    step.done(steps, how);
    println!("{}", verify.output().trim_end());
    Ok(finished.success)
}
