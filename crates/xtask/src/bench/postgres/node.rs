//! The snapshot of a table into a real node, beside a loader that sends the same bodies and does nothing else.

use anyhow::{Context as _, Result, ensure};
use model::Change;
use serde_json::{Value, json};
use testkit::{PostgresServer, SearchNode};

use super::{Context, DATABASE, FLIGHTS, Way, print};
use crate::bench::bare::Bodies;
use crate::bench::runs::Run;

pub(super) async fn run(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
    changes: &[Change],
) -> Result<Vec<Way>> {
    let bodies = Bodies::of_changes(changes);
    let mut ways = [
        Way::new("syncline sync postgres://…"),
        Way::new("bare _bulk, prebuilt bodies, reads nothing"),
    ];
    let mut definition = None;
    for round in 0..=context.pick(3, 1) {
        for (at, way) in ways.iter_mut().enumerate() {
            let run = match (at, &definition) {
                (0, _) | (_, None) => sync(context, server, node, changes.len() as u64).await?,
                (_, Some(definition)) => bare(node, definition, &bodies).await?,
            };
            let count = node.http().count(FLIGHTS).await?;
            ensure!(
                count == changes.len() as u64,
                "{}: {count} documents have arrived",
                way.name
            );
            eprintln!("postgres: {}: {:.0}/s", way.name, run.per_second());
            if round > 0 {
                way.runs.push(run);
            }
            if definition.is_none() {
                definition = Some(defined(node).await?);
            }
            node.http().delete(&format!("/{FLIGHTS}")).await?;
        }
    }
    print("snapshot of a table into OpenSearch (medians)", &ways);
    Ok(ways.into())
}

async fn sync(
    context: &Context,
    server: &PostgresServer,
    node: &SearchNode,
    documents: u64,
) -> Result<Run> {
    let letters = context.program.file("refused.ndjson").display().to_string();
    let (from, to) = (server.url(DATABASE), node.url());
    let arguments = ["sync", &from, &to, "--indices", FLIGHTS];
    let arguments = [&arguments[..], &["--dead-letters", &letters]].concat();
    let finished = context
        .program
        .command("sync", &arguments)?
        .succeed()
        .await?;
    Ok(Run {
        documents,
        elapsed: finished.elapsed,
        used: Some(finished.used),
    })
}

async fn bare(node: &SearchNode, definition: &Value, bodies: &Bodies) -> Result<Run> {
    node.http()
        .put_json(&format!("/{FLIGHTS}"), definition)
        .await?;
    bodies.load(&node.url(), FLIGHTS).await
}

/// The index as `sync` has made it, for another of its kind.
async fn defined(node: &SearchNode) -> Result<Value> {
    let mut answer = node.http().get_json(&format!("/{FLIGHTS}")).await?;
    let index = answer.get_mut(FLIGHTS).context("no such index")?;
    let mut settings = index["settings"]["index"].take();
    let settings = settings.as_object_mut().context("no settings")?;
    for own in ["uuid", "creation_date", "provided_name", "version"] {
        settings.remove(own);
    }
    Ok(json!({ "settings": { "index": settings }, "mappings": index["mappings"] }))
}
