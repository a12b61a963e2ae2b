//! PostgreSQL as a source, between real servers. What a database has is asked with the server's own client
//! and its own JSON; every test of a data path ends by comparing that with every document of the index.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod docs;
mod encryption;
mod gateway;
mod positions;
mod questions;
mod refusals;
mod servers;
mod services;
mod soak;
mod tables;
mod truth;
mod types;
mod verify;
// There are binaries of them for this.
#[cfg(target_arch = "x86_64")]
mod versions;

use anyhow::Result;
use testkit::{PostgresServer, unique_name};

/// Creates a database of a test's own, and returns its name; indices begin with it.
async fn create_database(server: &PostgresServer, test: &str) -> Result<String> {
    let name = unique_name(&format!("pg_{test}")).replace('-', "_");
    server
        .psql("postgres", &format!("CREATE DATABASE {name}"))
        .await?;
    Ok(name)
}
