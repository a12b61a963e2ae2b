//! Kills, pauses, cuts off, fills up and misleads everything between two clusters at random, and the clusters too,
//! under load, and wants equality: processes and search nodes die, connections break, hang, slow down, end in the
//! middle or are refused, bulks come late and twice, disks and the stream are full, clocks jump, nats-server loses
//! power, primaries are taken from their nodes, indices are deleted and created anew.
//!
//! A run is its seed: the load and the faults follow from it, though not their exact interleaving.
//! `cargo xtask chaos` runs many long ones; as a test it runs a few short ones with fresh seeds. How
//! many, how long and from which seed on is in `CHAOS_SEEDS`, `CHAOS_SECONDS` and `CHAOS_SEED`.

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod load;
mod network;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use faults::{Actors, Tally};
use load::{Load, Plan};
use network::Troubles;
use support::{
    equal::{assert_equal, until_equal},
    pipeline::Pipeline,
};
use testkit::{NodeOptions, Product, SearchNode};
use tokio::time::timeout;

/// How long everything may take to arrive once nothing is killed any more.
const CONVERGE_WITHIN: Duration = Duration::from_secs(120);
/// How long a run may take beside the time of its faults.
const LONGEST: Duration = Duration::from_secs(480);
/// Short, so that pauses outlast it.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// What a seed has shown.
struct Outcome {
    tally: Tally,
    troubles: Troubles,
    node_kills: usize,
    operations: usize,
    documents: usize,
    converged: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_or_paused_the_target_ends_up_equal() -> Result<()> {
    let first = number("CHAOS_SEED", u64::from(fastrand::u32(..)))?;
    let seeds = number("CHAOS_SEEDS", 6)?;
    let seconds = Duration::from_secs(number("CHAOS_SECONDS", 10)?);
    // Of its own, so that a load of minutes does not take the heap that other tests share.
    let options = || NodeOptions {
        heap_megabytes: 1024,
        ..NodeOptions::default()
    };
    let (mut one, mut other) = tokio::try_join!(
        SearchNode::start_with(Product::Es8, options()),
        SearchNode::start_with(Product::Os2, options()),
    )?;
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        // Both directions: what deletes and recovers differs between the products.
        let (source, target) = match seed % 2 {
            0 => (&mut one, &mut other),
            _ => (&mut other, &mut one),
        };
        let names = format!("{} to {}", source.product(), target.product());
        match run(seed, seconds, source, target).await {
            Ok(outcome) => println!(
                "seed {seed}, {names}: {}, {} search nodes killed; {}; {} operations, {} documents, equal after {:.1?}",
                outcome.tally,
                outcome.node_kills,
                outcome.troubles,
                outcome.operations,
                outcome.documents,
                outcome.converged
            ),
            Err(error) => {
                println!("seed {seed}: FAILED: {error:?}");
                failed.push(seed);
            }
        }
    }
    ensure!(failed.is_empty(), "these seeds failed: {failed:?}");
    Ok(())
}

/// One seed; leaves nothing behind in the clusters.
async fn run(
    seed: u64,
    seconds: Duration,
    source: &mut SearchNode,
    target: &mut SearchNode,
) -> Result<Outcome> {
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = Plan::new(&mut random);
    let pipeline = Pipeline::new(&source.url(), &target.url(), &plan.patterns()).await?;
    let clusters = (source.http(), target.http());
    let nodes = (source, target);
    // Whatever hangs is a failure of this seed, and no end of all.
    let life = live(&plan, pipeline, &mut random, seconds, nodes);
    let outcome = timeout(seconds + LONGEST, life).await;
    let outcome = outcome.unwrap_or_else(|late| Err(late).context("it hangs"));
    for index in plan.indices() {
        for cluster in [&clusters.0, &clusters.1] {
            let path = format!("/{index}?ignore_unavailable=true");
            let deleted = cluster.delete(&path).await;
            // What went wrong before says more.
            if outcome.is_ok() {
                deleted?;
            }
        }
    }
    outcome
}

/// A pipeline from its first to its last breath.
async fn live(
    plan: &Plan,
    mut pipeline: Pipeline,
    random: &mut fastrand::Rng,
    seconds: Duration,
    nodes: (&mut SearchNode, &mut SearchNode),
) -> Result<Outcome> {
    let (source, target) = (&nodes.0.http(), &nodes.1.http());
    let addresses = (nodes.0.address(), nodes.1.address());
    plan.create(source).await?;
    pipeline.common = vec!["--lease".to_owned(), format!("{}ms", LEASE.as_millis())];
    if random.u32(0..3) == 0 {
        // Full again and again.
        pipeline.of_watcher = ["--stream-max-bytes", "8MB"].map(str::to_owned).into();
    }
    let load = Load::start(nodes.0, plan, random);
    let mut actors = Actors::start(pipeline, addresses, random).await?;
    let fates = [fate(random, seconds), fate(random, seconds)];
    let (harassed, node_kills) = tokio::join!(
        actors.harass(random, Instant::now() + seconds),
        kill_nodes(nodes, fates),
    );
    // First: a client waits for a source that is away, and one that has not come back never answers.
    let node_kills = node_kills?;
    harassed?;
    let operations = timeout(CONVERGE_WITHIN, load.stop()).await;
    let operations = operations.context("the source does not take what the clients send")??;
    actors.restore().await?;

    let quiet = Instant::now();
    let mut documents = 0;
    for index in plan.indices() {
        let left = CONVERGE_WITHIN.saturating_sub(quiet.elapsed());
        let equal = tokio::select! {
            equal = until_equal(source, target, index, left) => equal,
            error = actors.tend() => bail!("nothing was killed any more, and yet {error:#}"),
        };
        documents += equal.with_context(|| actors.last_words())?;
    }
    let converged = quiet.elapsed();
    let (tally, troubles) = actors.stop().await?;
    // What was still under way has arrived too, and has changed nothing.
    for index in plan.indices() {
        let equal = assert_equal(source, target, index).await;
        equal.context("after the stop")?;
    }
    Ok(Outcome {
        tally,
        troubles,
        node_kills,
        operations,
        documents,
        converged,
    })
}

/// When a search node dies in this run, if it does.
fn fate(random: &mut fastrand::Rng, seconds: Duration) -> Option<Duration> {
    let (dies, at) = (random.u32(0..5) == 0, random.f64());
    dies.then(|| seconds.mul_f64(at * 0.7))
}

/// Kills nodes when their time has come, and starts them again.
async fn kill_nodes(
    (source, target): (&mut SearchNode, &mut SearchNode),
    [of_source, of_target]: [Option<Duration>; 2],
) -> Result<usize> {
    let kill = async |node: &mut SearchNode, after: Option<Duration>| {
        let Some(after) = after else {
            return Ok(0);
        };
        tokio::time::sleep(after).await;
        node.kill();
        node.restart().await.map(|()| 1)
    };
    let (source, target) = tokio::try_join!(kill(source, of_source), kill(target, of_target))?;
    Ok(source + target)
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}
