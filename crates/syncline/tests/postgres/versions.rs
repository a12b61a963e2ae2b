//! The oldest and the newest PostgreSQL that are supported; all other tests run on the one that the system has.

use anyhow::{Context, Result};
use testkit::PostgresVersion;

use crate::{soak, types};

/// Enough that a run covers copies, the live stream and a kill or two.
const STEPS: u64 = 15;

async fn transactions(version: PostgresVersion) -> Result<()> {
    let seed = fastrand::u64(..);
    soak::run(version, seed, STEPS)
        .await
        .with_context(|| format!("seed {seed}, {STEPS} steps"))
}

#[tokio::test]
async fn every_type_of_the_oldest_version_becomes_the_same_document() -> Result<()> {
    types::run(PostgresVersion::Oldest).await
}

#[tokio::test]
async fn transactions_of_the_oldest_version_are_followed_like_those_of_the_installed_one()
-> Result<()> {
    transactions(PostgresVersion::Oldest).await
}

#[tokio::test]
async fn the_newest_version_is_followed_like_the_installed_one() -> Result<()> {
    types::run(PostgresVersion::Newest).await.context("types")?;
    transactions(PostgresVersion::Newest).await
}
