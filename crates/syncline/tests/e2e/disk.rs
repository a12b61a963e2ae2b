//! A disk that is full: the checkpoint cannot be written.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, delete_by_query},
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program},
};

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_said_and_tried_again_and_nothing_is_lost()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("fulldisk");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    // Without a ledger, which would not let anything pass that it cannot note.
    let mut arguments = pipeline.watcher_arguments("watcher");
    arguments.extend(["--deletes", "off"].map(str::to_owned));
    let watcher = Program::start_where_the_disk_may_fill(&arguments)?;
    let writer = pipeline.writer()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

    watcher.limit_files("1")?;
    corpus::index_numbers(&source.http(), &index, 400..900, 1).await?;
    watcher.readiness_is(503, "checkpoint").await?;
    watcher.readiness_is(503, "free space").await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

    // Killed now, it goes on from the position it could store last.
    watcher.kill().await?;
    corpus::index_numbers(&source.http(), &index, 800..1000, 2).await?;
    let watcher = Program::start_where_the_disk_may_fill(&arguments)?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

    watcher.limit_files("1")?;
    corpus::index_numbers(&source.http(), &index, 0..10, 3).await?;
    watcher.readiness_is(503, "checkpoint").await?;
    watcher.limit_files("unlimited")?;
    watcher.ready().await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;

    // What was stored after the disk had room again is what the next one begins with.
    let watcher = Program::start(&arguments)?;
    watcher.ready().await?;
    corpus::index_numbers(&source.http(), &index, 0..1, 4).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(watcher.metric("syncline_watcher_changes_total").await? == 1.0);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn nothing_is_published_that_a_full_disk_keeps_out_of_the_ledger() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("fullledger");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let watcher = Program::start_where_the_disk_may_fill(pipeline.watcher_arguments("watcher"))?;
    let writer = pipeline.writer()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

    watcher.limit_files("1")?;
    corpus::index_numbers(&source.http(), &index, 400..900, 1).await?;
    watcher.readiness_is(503, "ledger").await?;
    watcher.readiness_is(503, "free space").await?;
    ensure!(watcher.metric("syncline_watcher_changes_total").await? == 500.0);
    // Killed now, it knows what it has published and nothing else.
    watcher.kill().await?;
    delete_by_query(
        &source.http(),
        &index,
        json!({ "range": { "number": { "lt": 50 } } }),
    )
    .await?;
    let watcher = Program::start_where_the_disk_may_fill(pipeline.watcher_arguments("watcher"))?;
    ensure!(until_equal(&source.http(), &target.http(), &index, PATIENCE).await? == 850);

    watcher.limit_files("1")?;
    corpus::index_numbers(&source.http(), &index, 60..70, 3).await?;
    watcher.readiness_is(503, "ledger").await?;
    watcher.limit_files("unlimited")?;
    watcher.ready().await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_checkpoint_folder_that_cannot_be_used_is_refused_with_the_flag_that_moves_it()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("nofolder");
    corpus::create(&source.http(), &index, 1, false).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let mut arguments = pipeline.watcher_arguments("watcher");
    let at = arguments
        .iter()
        .position(|text| text == "--checkpoint-path")
        .unwrap_or_default();
    arguments[at + 1] = "/proc/nowhere".to_owned();
    let ended = crate::support::program::run(arguments).await?;
    ended.refused(1, &["/proc/nowhere", "--checkpoint-path"])
}
