//! PostgreSQL as a source, between real servers. What a database has is asked with the server's own client
//! and its own JSON; every test of a data path ends by comparing that with every document of the index.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod encryption;
mod refusals;
mod services;
mod soak;
mod tables;
mod truth;
mod types;

use testkit::unique_name;

/// A database's name of a test's own; indices begin with it.
fn database_name(test: &str) -> String {
    unique_name(&format!("pg_{test}")).replace('-', "_")
}
