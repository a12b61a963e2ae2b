//! The client against real clusters of every product this machine can run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod capture;
mod hosts;
mod metadata;
mod security;
mod write;

use anyhow::Result;
use model::{DocumentId, IndexName};
use search::{Client, ClientConfig};
use testkit::SearchNode;

fn config(node: &SearchNode) -> ClientConfig {
    ClientConfig::new(vec![node.url().parse().unwrap()])
}

async fn client(node: &SearchNode) -> Result<Client> {
    Ok(Client::connect(&config(node)).await?)
}

/// An index name of the test's own, with a dot in it.
fn index_name(prefix: &str) -> IndexName {
    let name = testkit::unique_name(prefix).replace('-', ".");
    IndexName::try_from(name).unwrap()
}

fn id(text: &str) -> DocumentId {
    DocumentId::try_from(text).unwrap()
}
