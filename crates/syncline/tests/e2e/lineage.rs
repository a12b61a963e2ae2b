//! Where an index comes from: epochs that survive the loss of everything but the target, and a
//! second source that is refused.

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use testkit::{Product, SearchNode, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, run},
};

/// The index as another one of the same name, with other documents.
async fn create_anew(http: &testkit::Http, index: &str, upto: usize) -> Result<()> {
    http.delete(&format!("/{index}")).await?;
    corpus::create(http, index, 1, false).await?;
    corpus::index_numbers(http, index, 0..upto, upto).await
}

#[tokio::test]
async fn changes_arrive_although_checkpoints_and_bucket_were_lost_after_a_recreation() -> Result<()>
{
    let (source, target) = nodes().await;
    let index = index_name("lineage");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    create_anew(&source.http(), &index, 500).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;

    // All that is left is what the target says of itself.
    std::fs::remove_dir_all(pipeline.checkpoint_path("watcher"))?;
    let client = async_nats::connect(pipeline.nats.url()).await?;
    let bucket = async_nats::jetstream::new(client)
        .get_key_value("SYNCLINE")
        .await?;
    let mut keys: Vec<String> = bucket.keys().await?.try_collect().await?;
    keys.retain(|key| key.starts_with("lineage."));
    ensure!(keys.len() == 1, "{keys:?}");
    bucket.purge(&keys[0]).await?;
    let watcher = pipeline.watcher()?;
    corpus::index_numbers(&source.http(), &index, 200..700, 2).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.says(&["higher epoch"]).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_checkpoint_folder_that_was_lost_alone_costs_no_epoch() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("lineage-folder");
    corpus::create(&source.http(), &index, 1, false).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    create_anew(&source.http(), &index, 300).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    std::fs::remove_dir_all(pipeline.checkpoint_path("watcher"))?;
    let watcher = pipeline.watcher()?;
    corpus::index_numbers(&source.http(), &index, 200..400, 2).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(!watcher.has_said(&["higher epoch"]));
    let settled = async || {
        let already = writer.metric("syncline_writer_changes_total").await;
        already.is_ok_and(|settled| settled >= 700.0)
    };
    wait_until("what the target had is settled too", PATIENCE, settled).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_copy_without_any_memory_replaces_what_an_earlier_index_has_left() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("lineage-sync");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..400, 0).await?;
    let indices = format!("--indices={index}");
    let copy = ["sync".to_owned(), source.url(), target.url(), indices];
    run(&copy).await?.success()?;
    create_anew(&source.http(), &index, 400).await?;
    run(&copy).await?.success()?;
    assert_equal(&source.http(), &target.http(), &index)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_second_source_for_an_index_is_refused() -> Result<()> {
    let (first, target) = nodes().await;
    let second = SearchNode::shared(Product::Es7_17).await;
    let index = index_name("two-sources");
    for source in [first, second] {
        corpus::create(&source.http(), &index, 1, false).await?;
        corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    }
    let copy = |from: &SearchNode| {
        let indices = format!("--indices={index}");
        run(["sync".to_owned(), from.url(), target.url(), indices])
    };
    copy(first).await?.success()?;
    let refused = copy(second).await?;
    refused.refused(
        1,
        &[&index, "it is filled from", "an index of its own", "_meta"],
    )?;
    copy(first).await?.success()?;
    assert_equal(&first.http(), &target.http(), &index)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_version_that_somebody_else_wrote_at_the_target_is_said_and_a_repetition_is_not()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("stranger");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..100, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    // All of it once more, older changes after newer ones: nobody else has written that.
    watcher.stop().await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 1).await?;
    std::fs::remove_dir_all(pipeline.checkpoint_path("watcher"))?;
    let watcher = pipeline.watcher()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(
        writer
            .metric("syncline_writer_foreign_versions_total")
            .await?
            == 0.0
    );

    // 150 operations so far: the next ones are below this version, and then the shard comes past it.
    let (by_hand, version) = (serde_json::json!({ "by": "hand" }), 160);
    let path = format!("/{index}/_doc/7?version={version}&version_type=external");
    target.http().put_json(&path, &by_hand).await?;
    corpus::index_numbers(&source.http(), &index, 5..10, 2).await?;
    corpus::index_numbers(&source.http(), &index, 20..60, 3).await?;
    writer
        .says(&["somebody else has written", "\"7\"", "verify --repair"])
        .await?;
    ensure!(
        writer
            .metric("syncline_writer_foreign_versions_total")
            .await?
            == 1.0
    );
    watcher.stop().await?;
    writer.stop().await
}
