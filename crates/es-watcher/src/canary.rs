//! A document that the watcher writes into the source now and then, so that the lag can be measured from
//! end to end also while nothing else changes.

use std::time::Duration;

use model::{Canary, IndexName};
use search::{Client, Error, Request, encode};
use serde_json::json;

use crate::WatcherMetrics;

/// How a canary is sent.
#[derive(Debug, Clone)]
pub(crate) struct CanaryOptions {
    /// Into which index.
    pub(crate) index: IndexName,
    /// How often.
    pub(crate) interval: Duration,
    /// The document's id: each watcher has its own.
    pub(crate) id: String,
}

/// Sends canaries for ever. What cannot be sent is told when it begins; capturing does not depend on it.
pub(crate) async fn send(client: &Client, options: &CanaryOptions, metrics: &WatcherMetrics) {
    let mut works = true;
    loop {
        match write(client, options).await {
            Ok(()) => {
                metrics.canary();
                works = true;
            }
            Err(error) if works => {
                tracing::warn!(%error, index = %options.index, "no canary could be written at the source");
                works = false;
            }
            Err(_) => {}
        }
        tokio::time::sleep(options.interval).await;
    }
}

async fn write(client: &Client, options: &CanaryOptions) -> Result<(), Error> {
    let index = encode(options.index.as_str());
    if !client.index_exists(&options.index).await? {
        let body = json!({ "settings": { "number_of_shards": 1, "auto_expand_replicas": "0-1" } });
        let request = Request::put(format!("/{index}")).json(body.to_string());
        match client.send(request).await {
            Err(Error::Rejected { kind, .. }) if kind == "resource_already_exists_exception" => {}
            created => drop(created?),
        }
    }
    let path = format!("/{index}/_doc/{}", encode(&options.id));
    let request = Request::put(path).json(json!(Canary::now()).to_string());
    client.send(request).await.map(drop)
}
