//! The longer development tasks behind the Makefile: `cargo xtask TASK`.

mod bench;
mod carrier;
mod changes;
mod chaos;
mod datasets;
mod demo;
mod indices;
mod microvm;
mod nycflights;
mod process;
mod program;
mod servers;
mod setup;
mod steps;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The longer development tasks behind the Makefile.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs what is missing and fetches what the tests and the demo run against.
    Setup(setup::Args),
    /// Starts, stops and shows the servers for development.
    #[command(subcommand)]
    Servers(servers::Command),
    /// Fetches the datasets and writes them as lines of JSON.
    Datasets,
    /// Syncs real data between real clusters, over JetStream, and proves it equal.
    Demo(demo::Args),
    /// Syncs relational data from a real PostgreSQL, over JetStream, proves it equal, and asks it by REST.
    DemoPostgres(demo::Args),
    /// Measures against other tools, and what this one costs.
    Bench(bench::Args),
    /// Boots the gateway's microVM under QEMU.
    Microvm(microvm::Args),
    /// Kills and pauses a pipeline under load, seed after seed, and wants equality.
    Chaos(chaos::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Servers(command) => servers::run(command).await,
        Task::Datasets => datasets::run(),
        Task::Chaos(args) => chaos::run(&args),
        Task::Microvm(args) => microvm::run(&args).await,
        Task::Demo(args) => demo::run(&args).await,
        Task::DemoPostgres(args) => demo::postgres::run(&args).await,
        Task::Bench(args) => bench::run(&args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
