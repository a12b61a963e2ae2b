//! The gateway between two streams: the deployment modes of the README with their command lines, ports and
//! folders aside, and every process killed in the middle.

mod microvm;
mod modes;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::{Http, wait_until};

use crate::support::{
    equal::{Contents, contents, difference},
    program::PATIENCE,
};

/// A port that nobody has just now.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until a target has what `lens` makes of the documents of a source, and nothing else.
async fn until_seen_through(
    (source, index): (&Http, &str),
    (target, place): (&Http, &str),
    lens: impl Fn(&Value) -> Option<Value>,
) -> Result<usize> {
    let wanted = async || -> Result<Contents> {
        let all = contents(source, index).await?;
        let seen = all
            .into_iter()
            .filter_map(|(key, document)| Some((key, lens(&document)?)));
        Ok(seen.collect())
    };
    let is_so = wait_until("the target has what it should", PATIENCE, async || {
        match (wanted().await, contents(target, place).await) {
            (Ok(wanted), Ok(found)) => difference(&wanted, &found).is_none(),
            _ => false,
        }
    });
    let late = is_so.await;
    let (wanted, found) = (wanted().await?, contents(target, place).await?);
    match difference(&wanted, &found) {
        None => Ok(wanted.len()),
        Some(difference) => {
            late.with_context(|| difference.clone())?;
            anyhow::bail!("it was right and is not any more: {difference}")
        }
    }
}
