//! The most memory that `sync` takes, which must not grow with the index.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::Run;
use crate::indices::Index;

pub(super) async fn run(context: &Context) -> Result<()> {
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    let (source, target) = tokio::try_join!(
        SearchNode::start_with(Product::Es8, options.clone()),
        SearchNode::start_with(Product::Os2, options),
    )?;
    let sizes = context.pick([10_000, 100_000, 1_000_000], [1_000, 10_000, 100_000]);
    let mut table = report::table([
        "documents",
        "most memory, MB",
        "documents/s",
        "µs CPU/document",
    ]);
    let mut figures: Vec<Value> = Vec::new();
    let index = Index::FLIGHTS;
    let flights = index.documents()?;
    for documents in sizes {
        eprintln!("memory: {documents} documents…");
        index.create(&source.http()).await?;
        index.fill(&source.http(), &flights, documents).await?;
        index.create(&target.http()).await?;
        let (from, to) = (source.url(), target.url());
        let arguments = ["sync", &from, &to, "--indices", index.name()];
        let finished = context
            .program
            .command("sync", &arguments)?
            .succeed()
            .await?;
        let count = target.http().count(index.name()).await?;
        ensure!(
            count == documents,
            "{count} documents have arrived of {documents}"
        );
        let run = Run {
            documents,
            elapsed: finished.elapsed,
            used: Some(finished.used),
        };
        table.add_row([
            documents.to_string(),
            figure(run.peak(), 1),
            figure(Some(run.per_second()), 0),
            figure(run.cpu(), 2),
        ]);
        figures.push(run.figures());
    }
    report::print("`sync`, memory", table, 0);
    report::write(context, "memory", json!(figures))
}
