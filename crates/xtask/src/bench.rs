//! `cargo xtask bench`: what this costs and how it compares, on real servers with real data.
//!
//! Figures that are compared come from one run on one machine, tools taking turns, and are to be read as ratios: the
//! machine has other work too. Nothing here is asserted. Each benchmark prints its tables and leaves all its figures
//! in `target/bench/NAME.json`.

#[cfg(feature = "bench")]
mod bare;
#[cfg(feature = "bench")]
mod copy;
#[cfg(feature = "bench")]
mod deletes;
#[cfg(feature = "bench")]
mod gateway;
#[cfg(feature = "bench")]
mod lag;
#[cfg(feature = "bench")]
mod memory;
#[cfg(feature = "bench")]
mod microvm;
#[cfg(feature = "bench")]
mod postgres;
#[cfg(feature = "bench")]
mod query;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod rules;
#[cfg(feature = "bench")]
mod runs;
#[cfg(feature = "bench")]
mod source_cost;
#[cfg(feature = "bench")]
mod stream;
#[cfg(feature = "bench")]
mod tools;
#[cfg(feature = "bench")]
mod verify;

use std::path::PathBuf;

use anyhow::Result;

/// Flags of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this one; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Benchmark>,
    /// Less of everything: to see that it works.
    #[arg(long)]
    quick: bool,
    /// A binary to use instead of building one.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Benchmark {
    /// `sync` beside elasticdump, `_reindex` from remote and a bare bulk loader.
    Copy,
    /// The memory of `sync` for 10,000, 100,000 and 1,000,000 documents.
    Memory,
    /// Into JetStream and out of it.
    Stream,
    /// From the source's acknowledgment to the target, at 2,000 changes a second.
    Lag,
    /// Finding 100 deletes among 1,000,000 and 10,000,000 documents.
    Deletes,
    /// What watching costs the source's processor.
    SourceCost,
    /// Through the gateway, beside a loop that only copies; its latency, memory and start.
    Gateway,
    /// Reading bodies, applying rules and writing bodies, in one thread and without a network.
    Rules,
    /// The memory of a guest of 128 MB with 1,000,000 changes in its streams.
    Microvm,
    /// `verify` of 1,000,000 equal documents by content and by version, beside a bare scroll over one side.
    Verify,
    /// A search sent directly and through the query API.
    Query,
    /// PostgreSQL: stream and snapshot beside its own clients, a bare loader and pgsync; from commit to get.
    Postgres,
}

/// Runs the task: an optimised build of itself.
#[cfg(not(feature = "bench"))]
#[allow(clippy::unused_async, reason = "the other one is")]
pub(crate) async fn run(_: &Args) -> Result<()> {
    use std::os::unix::process::CommandExt;
    eprintln!("building the benchmarks (release; minutes the first time)…");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let failed = std::process::Command::new(cargo)
        .args(["run", "--release", "--package", "xtask"])
        .args(["--features", "bench", "--", "bench"])
        .args(std::env::args_os().skip(2))
        .exec();
    Err(anyhow::Error::from(failed).context("cannot run cargo"))
}

/// Runs the task.
#[cfg(feature = "bench")]
pub(crate) async fn run(args: &Args) -> Result<()> {
    use clap::ValueEnum;
    let context = Context::prepare(args)?;
    for benchmark in Benchmark::value_variants() {
        if !args.only.is_empty() && !args.only.contains(benchmark) {
            continue;
        }
        match benchmark {
            Benchmark::Copy => copy::run(&context).await?,
            Benchmark::Memory => memory::run(&context).await?,
            Benchmark::Stream => stream::run(&context).await?,
            Benchmark::Lag => lag::run(&context).await?,
            Benchmark::Deletes => deletes::run(&context).await?,
            Benchmark::SourceCost => source_cost::run(&context).await?,
            Benchmark::Gateway => gateway::run(&context).await?,
            Benchmark::Rules => rules::run(&context)?,
            Benchmark::Microvm => microvm::run(&context).await?,
            Benchmark::Verify => verify::run(&context).await?,
            Benchmark::Query => query::run(&context).await?,
            Benchmark::Postgres => postgres::run(&context).await?,
        }
    }
    Ok(())
}

/// What every benchmark has.
#[cfg(feature = "bench")]
struct Context {
    program: crate::program::Program,
    quick: bool,
}

#[cfg(feature = "bench")]
impl Context {
    fn prepare(args: &Args) -> Result<Context> {
        let folder = testkit::checkout().join("target/bench/run");
        let program = crate::program::Program::prepare(args.program.as_deref(), folder)?;
        Ok(Context {
            program,
            quick: args.quick,
        })
    }

    /// One number for a real measurement, another to see that it works.
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
