//! A shard that has lost the end of its history: with its node, by being taken back to an earlier state,
//! or because a copy was forced into office that did not have it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Http, NodeOptions, Product, SearchCluster, SearchNode, wait_until};

use super::index_name;
use crate::support::{
    corpus::{self, delete_by_query},
    equal::{assert_equal, contents, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, run, text},
};

/// A small node of its own, with a folder for its data.
async fn own_node(product: Product, data: &Path) -> Result<SearchNode> {
    let options = NodeOptions {
        heap_megabytes: 256,
        data: Some(data.to_owned()),
        ..NodeOptions::default()
    };
    SearchNode::start_with(product, options).await
}

/// How far a shard is: its highest number and its global checkpoint, once there is a primary.
async fn standing(http: &Http, index: &str) -> Result<(i64, i64)> {
    let path = format!("/{index}/_stats/docs?level=shards");
    let stats = http.get_json(&path).await?;
    let seq_no = &stats["indices"][index]["shards"]["0"][0]["seq_no"];
    let number = |key: &str| seq_no[key].as_i64().context("no primary");
    Ok((number("max_seq_no")?, number("global_checkpoint")?))
}

/// Waits until a node that was started again has its shard.
async fn until_there(http: &Http, index: &str) -> Result<()> {
    wait_until("the shard is there", PATIENCE, async || {
        let yellow = format!("/_cluster/health/{index}?wait_for_status=yellow&timeout=1s");
        let health = http.get_json(&yellow).await;
        health.is_ok_and(|health| health["timed_out"] == false)
            && standing(http, index).await.is_ok()
    })
    .await
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// What a node that is killed has not synced is lost, and its numbers are given again to other operations.
/// Nothing of it was captured, because it lay above the global checkpoint.
#[tokio::test]
async fn what_an_asynchronous_translog_loses_with_its_node_never_was_at_the_target() -> Result<()> {
    for (product, other) in [(Product::Es8, Product::Os2), (Product::Os2, Product::Es8)] {
        let data = tempfile::tempdir()?;
        let mut source = own_node(product, data.path()).await?;
        let target = SearchNode::shared(other).await;
        let (index, marker) = (index_name("async"), index_name("marker"));
        let asynchronous = json!({ "settings": { "index": {
            "number_of_shards": 1, "number_of_replicas": 0,
            "translog.durability": "async", "translog.sync_interval": "600s",
        }}});
        source
            .http()
            .put_json(&format!("/{index}"), &asynchronous)
            .await?;
        corpus::create(&source.http(), &marker, 1, false).await?;
        let patterns = format!("{index},{marker}");
        let pipeline = Pipeline::new(&source.url(), &target.url(), &patterns).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        corpus::index_numbers(&source.http(), &index, 0..100, 0).await?;
        let flush = format!("/{index}/_flush?force=true");
        source.http().post_json(&flush, &Value::Null).await?;
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

        // Above the checkpoint: new, changed, deleted. It is captured after the marker, if at all.
        corpus::index_numbers(&source.http(), &index, 50..150, 1).await?;
        let gone = json!({ "ids": { "values": ["1", "2", "3"] } });
        delete_by_query(&source.http(), &index, gone).await?;
        corpus::index_numbers(&source.http(), &marker, 0..10, 0).await?;
        until_equal(&source.http(), &target.http(), &marker, PATIENCE).await?;
        let (before, checkpoint) = standing(&source.http(), &index).await?;
        source.kill();
        source.restart().await?;
        until_there(&source.http(), &index).await?;
        let (after, _) = standing(&source.http(), &index).await?;
        ensure!(
            after < before,
            "{product} has lost nothing: {before} {after}"
        );
        ensure!(after == checkpoint, "{product}: {after} {checkpoint}");

        // The same numbers, other operations.
        corpus::index_numbers(&source.http(), &index, 120..300, 2).await?;
        source.http().post_json(&flush, &Value::Null).await?;
        ensure!(until_equal(&source.http(), &target.http(), &index, PATIENCE).await? == 280);
        let taken_back = watcher.metric("syncline_watcher_shards_taken_back_total");
        ensure!(taken_back.await? == 0.0, "nothing was taken back");
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

/// A node that is taken back to an earlier state with its disk.
struct Restored {
    node: SearchNode,
    data: TempDir,
    saved: TempDir,
}

impl Restored {
    /// A node with an index of a hundred documents, and a copy of its disk.
    async fn new(product: Product, index: &str) -> Result<Restored> {
        let (data, saved) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut node = own_node(product, data.path()).await?;
        corpus::create(&node.http(), index, 1, false).await?;
        corpus::index_numbers(&node.http(), index, 0..100, 0).await?;
        node.kill();
        copy_folder(data.path(), saved.path())?;
        node.restart().await?;
        until_there(&node.http(), index).await?;
        Ok(Restored { node, data, saved })
    }

    async fn take_back(&mut self, index: &str) -> Result<()> {
        self.node.kill();
        std::fs::remove_dir_all(self.data.path())?;
        copy_folder(self.saved.path(), self.data.path())?;
        self.node.restart().await?;
        until_there(&self.node.http(), index).await?;
        ensure!(self.node.http().count(index).await? == 100);
        Ok(())
    }

    /// What the copy does not have: changed, new, deleted.
    async fn write_on(&self, index: &str) -> Result<()> {
        corpus::index_numbers(&self.node.http(), index, 50..200, 1).await?;
        let gone = json!({ "ids": { "values": ["1", "2", "3"] } });
        delete_by_query(&self.node.http(), index, gone).await
    }
}

/// A disk that is restored from a copy keeps the history's UUID, and even the primary term. What was
/// captured since the copy is not there any more, and its numbers are given again: fewer than before, or
/// more.
#[tokio::test]
async fn a_shard_that_is_taken_back_with_its_disk_takes_the_target_back_with_it() -> Result<()> {
    for (product, other, seen_again, unseen_again) in [
        (Product::Es8, Product::Os2, 10, 300),
        (Product::Os2, Product::Es8, 300, 10),
    ] {
        let index = index_name("taken-back");
        let mut source = Restored::new(product, &index).await?;
        let (from, to) = (source.node.http(), SearchNode::shared(other).await);
        let pipeline = Pipeline::new(&source.node.url(), &to.url(), &index).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        source.write_on(&index).await?;
        until_equal(&from, &to.http(), &index, PATIENCE).await?;

        // Under the watcher's eyes.
        source.take_back(&index).await?;
        corpus::index_numbers(&from, &index, 1000..1000 + seen_again, 2).await?;
        watcher.says(&["taken back", "higher epoch"]).await?;
        let arrived = until_equal(&from, &to.http(), &index, PATIENCE).await?;
        ensure!(arrived == 100 + seen_again, "{product}: {arrived}");
        let taken_back = watcher.metric("syncline_watcher_shards_taken_back_total");
        ensure!(taken_back.await? == 1.0, "it is taken back once");
        source.write_on(&index).await?;
        until_equal(&from, &to.http(), &index, PATIENCE).await?;
        watcher.stop().await?;

        // While nobody looks.
        source.take_back(&index).await?;
        corpus::index_numbers(&from, &index, 1000..1000 + unseen_again, 3).await?;
        let watcher = pipeline.watcher()?;
        watcher.says(&["taken back", "higher epoch"]).await?;
        let arrived = until_equal(&from, &to.http(), &index, PATIENCE).await?;
        ensure!(arrived == 100 + unseen_again, "{product}: {arrived}");
        source.write_on(&index).await?;
        until_equal(&from, &to.http(), &index, PATIENCE).await?;
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_repeated_copy_takes_the_target_back_with_a_shard_with_deletes_and_without() -> Result<()>
{
    let index = index_name("taken-back-sync");
    let mut source = Restored::new(Product::Es7_17, &index).await?;
    let (from, to) = (source.node.http(), SearchNode::shared(Product::Os2).await);
    let folder = tempfile::tempdir()?;
    let (checkpoints, url) = (text(folder.path()), source.node.url());
    let (to_url, to) = (to.url(), to.http());
    let copy = ["sync", &url, &to_url, "--indices", &index];
    let copy = [&copy[..], &["--checkpoint-path", &checkpoints]].concat();
    source.write_on(&index).await?;
    run(copy.clone()).await?.success()?;
    source.take_back(&index).await?;
    run(copy.clone()).await?.success()?;
    ensure!(assert_equal(&from, &to, &index).await? == 100);

    // Without a ledger the earlier versions come back as well, and what is new stays.
    source.write_on(&index).await?;
    let without = [&copy[..], &["--deletes", "off"]].concat();
    run(without.clone()).await?.success()?;
    source.take_back(&index).await?;
    run(without).await?.success()?;
    let (source, mut target) = (contents(&from, &index).await?, contents(&to, &index).await?);
    ensure!(target.len() == 200, "{}", target.len());
    target.retain(|key, _| source.contains_key(key));
    ensure!(target == source);
    Ok(())
}

/// Asks for a primary that is not up to date, again and again until the cluster agrees: it has to have
/// noticed that the others are gone.
async fn force_primary(http: &Http, index: &str, command: &str, node: &str) -> Result<()> {
    let commands = json!({ "commands": [{
        command: { "index": index, "shard": 0, "node": node, "accept_data_loss": true },
    }]});
    wait_until(command, Duration::from_secs(90), async || {
        let path = "/_cluster/reroute?timeout=5s";
        http.post_json(path, &commands).await.is_ok()
    })
    .await?;
    until_there(http, index).await
}

#[tokio::test]
async fn a_primary_that_is_forced_from_a_stale_copy_or_from_nothing_takes_the_target_with_it()
-> Result<()> {
    let options = NodeOptions {
        heap_megabytes: 256,
        ..NodeOptions::default()
    };
    let mut cluster = SearchCluster::start_with(Product::Es8, 3, options).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let (master, index) = (cluster.nodes()[0].http(), index_name("forced"));
    let settings = json!({ "settings": { "index": {
        "number_of_shards": 1, "number_of_replicas": 1,
        "routing.allocation.exclude._name": "n0", "unassigned.node_left.delayed_timeout": "0s",
    }}});
    master.put_json(&format!("/{index}"), &settings).await?;
    cluster.wait_for_green().await?;
    corpus::index_numbers(&master, &index, 0..200, 0).await?;
    let pipeline = Pipeline::new(&cluster.nodes()[0].url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&master, &target.http(), &index, PATIENCE).await?;

    // The replica's node goes first, so its copy is stale when that of the primary is gone for ever.
    let path = format!("/_cat/shards/{index}?format=json");
    let shards = master.get_json(&path).await?;
    let primary = shards.as_array().into_iter().flatten();
    let primary = primary
        .filter(|shard| shard["prirep"] == "p")
        .find_map(|shard| shard["node"].as_str())
        .context("no primary")?;
    let (primary, replica) = if primary == "n1" { (1, 2) } else { (2, 1) };
    cluster.kill(replica);
    cluster.wait_for_nodes(2).await?;
    corpus::index_numbers(&master, &index, 100..300, 1).await?;
    let gone = json!({ "ids": { "values": ["1", "2", "3"] } });
    delete_by_query(&master, &index, gone).await?;
    until_equal(&master, &target.http(), &index, PATIENCE).await?;
    cluster.kill(primary);
    cluster.wait_for_nodes(1).await?;
    let name = format!("n{replica}");
    let (restarted, forced) = tokio::join!(
        cluster.node_mut(replica).restart(),
        force_primary(&master, &index, "allocate_stale_primary", &name),
    );
    forced.and(restarted)?;
    ensure!(until_equal(&master, &target.http(), &index, PATIENCE).await? == 200);
    corpus::index_numbers(&master, &index, 150..250, 2).await?;
    ensure!(until_equal(&master, &target.http(), &index, PATIENCE).await? == 250);

    // Now that copy is gone, too.
    cluster.kill(replica);
    cluster.wait_for_nodes(1).await?;
    let anywhere = json!({ "index.routing.allocation.exclude._name": null });
    master
        .put_json(&format!("/{index}/_settings"), &anywhere)
        .await?;
    force_primary(&master, &index, "allocate_empty_primary", "n0").await?;
    ensure!(until_equal(&master, &target.http(), &index, PATIENCE).await? == 0);
    corpus::index_numbers(&master, &index, 290..310, 3).await?;
    until_equal(&master, &target.http(), &index, PATIENCE).await?;
    ensure!(contents(&target.http(), &index).await?.len() == 20);
    watcher.stop().await?;
    writer.stop().await
}
