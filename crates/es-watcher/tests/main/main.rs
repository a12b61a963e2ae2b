//! The capture against real clusters: while writers go on, whatever happens to the copies that are
//! read, every document arrives in its last state.
#![allow(clippy::unwrap_used, reason = "tests")]

mod follower;
mod load;
mod recreated;

use std::time::Duration;

use anyhow::Result;
use es_watcher::{Ledger, SourceRefresh};
use pipeline::ChangeSource;
use serde_json::json;
use testkit::{Product, SearchCluster, SearchNode, unique_name, wait_until};

use follower::Follower;
use load::{Load, truth};

/// Compares what was captured with what the index holds, completely.
async fn assert_equal(follower: &Follower, node: &SearchNode, index: &str) -> Result<()> {
    let expected = truth(node, index).await?;
    let arrived = wait_until(
        "everything is captured",
        Duration::from_secs(60),
        || async { follower.captured() == expected },
    );
    if arrived.await.is_err() {
        let captured = follower.captured();
        let missing = expected
            .keys()
            .filter(|id| !captured.contains_key(*id))
            .count();
        let differing = expected
            .iter()
            .filter(|(id, n)| captured.get(*id).is_some_and(|c| c != *n));
        let differing = differing.count();
        let ghosts = captured
            .keys()
            .filter(|id| !expected.contains_key(*id))
            .count();
        panic!(
            "of {} documents {missing} are missing and {differing} differ, and {ghosts} were deleted and are there",
            expected.len()
        );
    }
    Ok(())
}

async fn create(node: &SearchNode, index: &str, settings: serde_json::Value) -> Result<()> {
    node.http()
        .put_json(&format!("/{index}"), &json!({ "settings": settings }))
        .await?;
    Ok(())
}

async fn captures_under_load(product: Product, refresh: SourceRefresh) -> Result<()> {
    let node = SearchNode::shared(product).await;
    let index = unique_name("capture");
    create(
        node,
        &index,
        json!({ "number_of_shards": 3, "number_of_replicas": 0 }),
    )
    .await?;
    let load = Load::start(&node.url(), &index, 4);
    let follower = Follower::start(&node.url(), &index, refresh).await;
    load.wait_for(4_000).await?;
    load.stop().await?;
    assert_equal(&follower, node, &index).await?;
    follower.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_while_writers_go_on_elasticsearch() -> Result<()> {
    captures_under_load(Product::Es7_17, SourceRefresh::Force).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_while_writers_go_on_opensearch() -> Result<()> {
    captures_under_load(Product::Os2, SourceRefresh::Force).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_when_only_the_index_itself_refreshes() -> Result<()> {
    captures_under_load(Product::Es8, SourceRefresh::Natural).await
}

/// One replica, and the node that holds a primary is killed in the middle.
async fn survives_failover(product: Product, settings: serde_json::Value) -> Result<()> {
    let mut cluster = SearchCluster::start(product, 2).await?;
    let index = unique_name("failover");
    create(&cluster.nodes()[0], &index, settings).await?;
    cluster.wait_for_green().await?;
    let load = Load::start(&cluster.nodes()[0].url(), &index, 4);
    let follower = Follower::start(&cluster.nodes()[0].url(), &index, SourceRefresh::Force).await;
    load.wait_for(2_000).await?;
    let victim = load::holder_of_a_primary(&cluster, &index).await?;
    cluster.kill(victim);
    load.wait_for(4_000).await?;
    load.stop().await?;
    assert_equal(&follower, &cluster.nodes()[0], &index).await?;
    follower.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_when_the_node_of_a_primary_is_killed_elasticsearch() -> Result<()> {
    let settings = json!({ "number_of_shards": 4, "number_of_replicas": 1 });
    survives_failover(Product::Es8, settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_with_segment_replication_when_a_primary_is_killed() -> Result<()> {
    let settings = json!({
        "number_of_shards": 4, "number_of_replicas": 1, "replication.type": "SEGMENT",
    });
    survives_failover(Product::Os2, settings).await
}

/// With an asynchronous translog the global checkpoint stands still until the next sync. What is above
/// it can be searched, and may vanish with the node: it must not be captured.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_above_the_global_checkpoint_is_captured() -> Result<()> {
    for product in [Product::Es8, Product::Os2] {
        let node = SearchNode::shared(product).await;
        let (waits, marker) = (unique_name("async"), unique_name("marker"));
        let asynchronous = json!({
            "number_of_shards": 1, "number_of_replicas": 0,
            "translog.durability": "async", "translog.sync_interval": "600s",
        });
        create(node, &waits, asynchronous).await?;
        create(
            node,
            &marker,
            json!({ "number_of_shards": 1, "number_of_replicas": 0 }),
        )
        .await?;
        let follower = Follower::start(
            &node.url(),
            &format!("{waits},{marker}"),
            SourceRefresh::Force,
        )
        .await;
        let write = async |index: &str, id: &str| {
            let body = format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n{{\"n\":1}}\n");
            let path = format!("/{index}/_bulk?refresh=true");
            node.http().post_ndjson(&path, body).await
        };
        for round in 0..10 {
            write(&waits, &format!("above {round}")).await?;
            // Written later and captured: the watcher has looked at the first since.
            let id = format!("marker {round}");
            write(&marker, &id).await?;
            wait_until(
                "the marker is captured",
                Duration::from_secs(60),
                || async { follower.captured().contains_key(&id) },
            )
            .await?;
            let captured = follower.captured();
            assert!(
                captured.keys().all(|id| id.starts_with("marker")),
                "{product}: {captured:?}"
            );
        }
        let flush = format!("/{waits}/_flush?force=true");
        node.http().post_json(&flush, &json!(null)).await?;
        write(&waits, "last").await?;
        node.http().post_json(&flush, &json!(null)).await?;
        wait_until(
            "what is synced is captured",
            Duration::from_secs(60),
            || async { follower.captured().len() == 21 },
        )
        .await?;
        follower.stop().await;
    }
    Ok(())
}

/// A watcher that goes back, because the stream has lost its end or the target knows a higher epoch, opens
/// its ledger again in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_closed_has_let_go_of_its_ledger() -> Result<()> {
    let node = SearchNode::shared(Product::Es8).await;
    let (index, folder) = (unique_name("reopened"), tempfile::tempdir()?);
    create(
        node,
        &index,
        json!({ "number_of_shards": 5, "number_of_replicas": 0 }),
    )
    .await?;
    let documents = (0..500).map(|n| (n.to_string(), json!({ "n": n })));
    node.http().index_documents(&index, documents).await?;
    for round in 0..20 {
        let ledger = Ledger::open(folder.path())?;
        let mut source = follower::start(&node.url(), &index, SourceRefresh::Force, ledger).await;
        for _ in 0..round % 7 {
            // The first are what the index looks like and its first pages.
            source.next().await?;
        }
        source.close().await;
    }
    Ok(())
}
