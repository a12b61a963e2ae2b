//! The whole program between real servers: every test ends with a complete comparison of source and
//! target, or with an exit code and the sentence that explains it.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod canary;
mod definitions;
mod deletes;
mod disk;
mod explain;
mod gateway;
mod health;
mod histories;
mod large;
mod letters;
mod lineage;
mod lost_end;
mod lost_tails;
mod query;
mod refusals;
mod restart;
mod resync;
mod rolled_over;
mod services;
mod stream;
mod sync;
mod templates;
mod up;
mod verify;

use testkit::{Product, SearchNode, unique_name};

/// Source and target of the tests that do not care which products they are.
async fn nodes() -> (&'static SearchNode, &'static SearchNode) {
    tokio::join!(
        SearchNode::shared(Product::Es8),
        SearchNode::shared(Product::Os2)
    )
}

/// An index name of a test's own, with dots in it.
fn index_name(test: &str) -> String {
    format!("{}.v1.2", unique_name(&format!("e2e-{test}")))
}
