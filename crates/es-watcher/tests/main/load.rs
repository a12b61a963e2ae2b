//! Writers that go on, and what is there when they have stopped.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchCluster, SearchNode, wait_until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Documents by id: the number each holds.
pub(crate) type Documents = BTreeMap<String, u64>;

/// Tasks that index, update and delete the same few thousand documents.
pub(crate) struct Load {
    written: Arc<AtomicU64>,
    stop: CancellationToken,
    writers: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(url: &str, index: &str, writers: u64) -> Load {
        let seed = fastrand::u64(..);
        println!("load of {index}: seed {seed}");
        let (written, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (http, index) = (Http::new(url), index.to_owned());
            let (written, stop) = (Arc::clone(&written), stop.clone());
            let mut dice = fastrand::Rng::with_seed(seed ^ writer);
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let (body, count) = bulk(&mut dice);
                    // A bulk fails while a primary moves; what is there in the end is what counts.
                    if http
                        .post_ndjson(&format!("/{index}/_bulk"), body)
                        .await
                        .is_ok()
                    {
                        written.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
        Load {
            written,
            stop,
            writers: tasks,
        }
    }

    /// Waits until so many more operations are written.
    pub(crate) async fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.written.load(Ordering::Relaxed) + more;
        wait_until("the load is written", Duration::from_secs(60), || async {
            self.written.load(Ordering::Relaxed) >= goal
        })
        .await
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

fn bulk(dice: &mut fastrand::Rng) -> (String, u64) {
    let count = [1, 10, 60][dice.usize(0..3)];
    let mut body = String::new();
    for _ in 0..count {
        let (id, n) = (dice.u32(0..5_000), dice.u64(0..1 << 40));
        let (action, document) = match dice.u8(0..4) {
            0 => {
                body.push_str(&json!({ "delete": { "_id": id.to_string() } }).to_string());
                body.push('\n');
                continue;
            }
            1 => (
                "update",
                json!({ "doc": { "n": n }, "doc_as_upsert": true }),
            ),
            _ => ("index", json!({ "n": n })),
        };
        body.push_str(&json!({ action: { "_id": id.to_string() } }).to_string());
        body.push('\n');
        body.push_str(&document.to_string());
        body.push('\n');
    }
    (body, count)
}

/// All documents of an index, after a refresh, as its primaries have them: with segment replication
/// a replica lags behind even then. Elasticsearch has no such replicas, and no such preference.
pub(crate) async fn truth(node: &SearchNode, index: &str) -> Result<Documents> {
    let http = node.http();
    let copies = match node.product() {
        Product::Os2 | Product::Os3 => "?preference=_primary",
        _ => "",
    };
    let yellow = format!("/_cluster/health/{index}?wait_for_status=yellow&timeout=60s");
    http.get_json(&yellow).await?;
    http.get_json(&format!("/{index}/_refresh")).await?;
    let query = json!({ "size": 10_000, "track_total_hits": true });
    let found = http
        .post_json(&format!("/{index}/_search{copies}"), &query)
        .await?;
    let hits = found["hits"]["hits"].as_array().context("hits")?;
    let total = found["hits"]["total"]["value"].as_u64().context("total")?;
    ensure!(
        hits.len() as u64 == total,
        "a page holds all {total} documents"
    );
    let pair = |hit: &Value| {
        let id = hit["_id"].as_str().context("id")?.to_owned();
        Ok((id, hit["_source"]["n"].as_u64().context("n")?))
    };
    hits.iter().map(pair).collect()
}

/// A node of the cluster, other than the first, that holds a primary of the index.
pub(crate) async fn holder_of_a_primary(cluster: &SearchCluster, index: &str) -> Result<usize> {
    let path = format!("/_cat/shards/{index}?format=json&h=prirep,node");
    let shards = cluster.nodes()[0].http().get_json(&path).await?;
    let shards = shards.as_array().context("shards")?;
    let primaries = shards.iter().filter(|shard| shard["prirep"] == "p");
    let names = primaries.filter_map(|shard| shard["node"].as_str()?.strip_prefix('n'));
    let mut numbers = names.filter_map(|number| number.parse().ok());
    numbers
        .find(|number| *number != 0)
        .context("a primary on a node that may die")
}
