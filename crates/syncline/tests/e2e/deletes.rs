//! What is deleted at the source goes from the target, whatever happens in between.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, ODD_IDS, delete_by_query},
    equal::{assert_equal, contents, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, Program, run, text},
};

async fn delete_ids(http: &Http, index: &str, ids: &[&str]) -> Result<()> {
    delete_by_query(http, index, json!({ "ids": { "values": ids } })).await
}

#[tokio::test]
async fn deletes_arrive_through_the_stream_with_odd_ids_routing_and_children() -> Result<()> {
    for (from, to) in [
        (Product::Es8, Product::Os2),
        (Product::Os2, Product::Es7_17),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let pipeline_ends = (source.url(), target.url());
        let (source, target) = (source.http(), target.http());
        let index = index_name("deletes");
        let with_join = corpus::has_join(from, to);
        corpus::create(&source, &index, 3, with_join).await?;
        let loaded = corpus::load(&source, &index, with_join).await?;
        let pipeline = Pipeline::new(&pipeline_ends.0, &pipeline_ends.1, &index).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&source, &target, &index, PATIENCE).await?;

        delete_ids(&source, &index, &ODD_IDS[..6]).await?;
        delete_ids(
            &source,
            &index,
            &["answer", "nested", "é".repeat(256).as_str()],
        )
        .await?;
        delete_by_query(
            &source,
            &index,
            json!({ "range": { "number": { "lt": 100 } } }),
        )
        .await?;
        let left = until_equal(&source, &target, &index, PATIENCE).await?;
        ensure!(left < loaded - 100, "{left} of {loaded} are left");
        // A document that comes back has the same id and is another.
        corpus::load(&source, &index, with_join).await?;
        until_equal(&source, &target, &index, PATIENCE).await?;
        delete_by_query(&source, &index, json!({ "match_all": {} })).await?;
        ensure!(until_equal(&source, &target, &index, PATIENCE).await? == 0);
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_while_the_watcher_is_dead_is_missed_by_its_successor() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("dead");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..2000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.kill().await?;
    // Forgotten completely: even its tombstones are gone when the successor looks.
    delete_by_query(
        &source.http(),
        &index,
        json!({ "range": { "number": { "lt": 700 } } }),
    )
    .await?;
    let merge = format!("/{index}/_forcemerge?max_num_segments=1&flush=true");
    source.http().post_json(&merge, &Value::Null).await?;
    corpus::index_numbers(&source.http(), &index, 600..800, 1).await?;
    let watcher = pipeline.watcher()?;
    let left = until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(left == 1400);
    let deletes = watcher.metric("syncline_watcher_deletes_total").await?;
    ensure!(deletes >= 600.0, "only {deletes} deletes were counted");
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_delete_that_was_found_and_not_yet_stored_is_found_again_after_a_kill() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("found");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..1000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "4s".to_owned()];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    // Without a log to take them, the deletes that the watcher finds stay in its hands.
    pipeline.nats.kill();
    delete_by_query(
        &source.http(),
        &index,
        json!({ "range": { "number": { "lt": 100 } } }),
    )
    .await?;
    wait_until("the deletes are found", PATIENCE, async || {
        let found = watcher.metric("syncline_watcher_deletes_total").await;
        found.is_ok_and(|found| found >= 100.0)
    })
    .await?;
    watcher.kill().await?;
    pipeline.nats.restart().await?;
    let watcher = pipeline.watcher()?;
    ensure!(until_equal(&source.http(), &target.http(), &index, PATIENCE).await? == 900);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_repeated_copy_with_a_checkpoint_folder_carries_deletes_and_one_without_does_not()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("repeated");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let folder = tempfile::tempdir()?;
    let (from, to, checkpoints) = (source.url(), target.url(), text(folder.path()));
    let plain = ["sync", &from, &to, "--indices", &index];
    let remembering = [&plain[..], &["--checkpoint-path", &checkpoints]].concat();
    run(remembering.clone()).await?.success()?;
    assert_equal(&source.http(), &target.http(), &index).await?;
    delete_by_query(
        &source.http(),
        &index,
        json!({ "range": { "number": { "lt": 50 } } }),
    )
    .await?;
    run(plain).await?.success()?;
    ensure!(contents(&target.http(), &index).await?.len() == 500);
    run([&remembering[..], &["--deletes", "off"]].concat())
        .await?
        .success()?;
    ensure!(contents(&target.http(), &index).await?.len() == 500);
    run(remembering).await?.success()?;
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == 450);
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_created_anew_leaves_nothing_of_the_old_one() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("anew");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..1000, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    source.http().delete(&format!("/{index}")).await?;
    // The target is left alone for as long as there is nothing to put in its place.
    ensure!(contents(&target.http(), &index).await?.len() == 1000);
    corpus::create(&source.http(), &index, 3, false).await?;
    corpus::index_numbers(&source.http(), &index, 900..1200, 1).await?;
    ensure!(until_equal(&source.http(), &target.http(), &index, PATIENCE).await? == 300);
    // And the new one is watched like any other.
    delete_by_query(
        &source.http(),
        &index,
        json!({ "range": { "number": { "lt": 950 } } }),
    )
    .await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 2).await?;
    ensure!(until_equal(&source.http(), &target.http(), &index, PATIENCE).await? == 260);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_ledger_that_was_lost_is_said_aloud_and_built_anew() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("lost");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..300, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    std::fs::remove_dir_all(pipeline.checkpoint_path("watcher").join("ledger"))?;
    delete_ids(&source.http(), &index, &["1"]).await?;
    let watcher = Program::start(pipeline.watcher_arguments("watcher"))?;
    watcher
        .says(&["the ledger of this shard is younger", "syncline verify"])
        .await?;
    // What was deleted before is not known any more; what is deleted from now on is.
    delete_ids(&source.http(), &index, &["2"]).await?;
    wait_until("the second delete has arrived", PATIENCE, async || {
        target
            .http()
            .post_json(&format!("/{index}/_refresh"), &Value::Null)
            .await
            .is_ok()
            && target
                .http()
                .count(&index)
                .await
                .is_ok_and(|count| count == 299)
    })
    .await?;
    ensure!(
        watcher
            .metric("syncline_watcher_incomplete_ledgers_total")
            .await?
            >= 1.0,
        "no alarm"
    );
    // What was missed is named, and taken away on request.
    let (from, to) = (source.url(), target.url());
    let verify = ["verify", &from, &to, "--indices", &index, "--lag", "0"];
    let differing = run(verify).await?;
    ensure!(
        differing.code == Some(3) && differing.stdout.contains("at the target only: 1"),
        "{differing:?}"
    );
    let repaired = run([&verify[..], &["--delete-extra"]].concat())
        .await?
        .success()?;
    ensure!(
        repaired.stdout.contains("0 documents written, 1 deleted"),
        "{repaired:?}"
    );
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == 298);
    watcher.stop().await?;
    writer.stop().await
}
