//! Copying 336,776 flights from Elasticsearch 7.17 to OpenSearch 2.19, beside what else can do it.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{NodeOptions, Product, SearchNode};

use super::Context;
use super::bare::Bodies;
use super::report::{self, figure};
use super::runs::{Run, median};
use super::tools::{Clusters, Way, elasticdump};
use crate::indices::Index;

/// Compared in every round.
const WAYS: [Way; 4] = [
    Way::Sync,
    Way::Elasticdump(5000),
    Way::Reindex(5000),
    Way::Bare,
];
/// Settings that are slower: shown once.
const DEFAULTS: [Way; 2] = [Way::Elasticdump(100), Way::Reindex(1000)];

pub(super) async fn run(context: &Context) -> Result<()> {
    let clusters = clusters().await?;
    let usable = |way: &Way| clusters.elasticdump.is_some() || !matches!(way, Way::Elasticdump(_));
    eprintln!("copy: warming up…");
    for way in [Way::Bare, Way::Sync] {
        clusters.copy(way, context).await?;
    }
    let mut runs: Vec<(Way, Vec<Run>)> = WAYS
        .into_iter()
        .chain(DEFAULTS)
        .filter(usable)
        .map(|way| (way, Vec::new()))
        .collect();
    let rounds = context.pick(3, 1);
    for round in 1..=rounds {
        for (way, runs) in &mut runs {
            if DEFAULTS.contains(way) && round != rounds {
                continue;
            }
            let run = clusters.copy(*way, context).await?;
            eprintln!(
                "copy: round {round}: {}: {:.0}/s",
                way.title(),
                run.per_second()
            );
            runs.push(run);
        }
    }
    print(&runs);
    report::write(context, "copy", figures(&runs))
}

async fn clusters() -> Result<Clusters> {
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    eprintln!("copy: starting {} and {}…", Product::Es7_17, Product::Os2);
    let elasticdump = tokio::task::spawn_blocking(elasticdump).await?;
    let (source, target) = tokio::try_join!(
        SearchNode::start_with(Product::Es7_17, options.clone()),
        SearchNode::start_with(Product::Os2, options),
    )?;
    let index = Index::FLIGHTS;
    index.create(&source.http()).await?;
    let (documents, _) = index.load(&source.http(), |_| ()).await?;
    Ok(Clusters {
        source,
        target,
        index,
        documents,
        bodies: Bodies::of(index)?,
        elasticdump,
    })
}

fn print(runs: &[(Way, Vec<Run>)]) {
    let of = |wanted: Way| {
        let runs = runs.iter().find(|(way, _)| *way == wanted);
        runs.and_then(|(_, runs)| speed(runs))
    };
    let sync = of(Way::Sync);
    let mut table = report::table([
        "",
        "runs",
        "documents/s",
        "sync is × as fast",
        "µs CPU/document",
        "most memory, MB",
    ]);
    for (way, runs) in runs {
        let ratio = sync.zip(speed(runs)).map(|(sync, other)| sync / other);
        let peak = median(runs.iter().filter_map(Run::peak)).filter(|peak| *peak > 0.0);
        table.add_row([
            way.title(),
            runs.len().to_string(),
            figure(speed(runs), 0),
            figure(ratio, 2),
            figure(cpu(runs), 2),
            figure(peak, 0),
        ]);
    }
    report::print(
        "copying 336,776 flights, Elasticsearch 7.17 → OpenSearch 2.19 (medians)",
        table,
        1,
    );
}

fn speed(runs: &[Run]) -> Option<f64> {
    median(runs.iter().map(Run::per_second))
}

fn cpu(runs: &[Run]) -> Option<f64> {
    median(runs.iter().filter_map(Run::cpu))
}

fn figures(runs: &[(Way, Vec<Run>)]) -> Value {
    let tools: Vec<Value> = runs
        .iter()
        .map(|(way, runs)| {
            json!({
                "tool": way.title(),
                "documents_per_second": speed(runs),
                "cpu_microseconds_per_document": cpu(runs),
                "runs": runs.iter().map(Run::figures).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!(tools)
}
