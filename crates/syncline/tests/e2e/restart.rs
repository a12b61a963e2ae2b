//! Stopping in order, and going on where one was.

use anyhow::{Result, ensure};
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, Program},
};

#[tokio::test]
async fn after_a_stop_both_go_on_from_where_they_were() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("restart");
    corpus::create(&source.http(), &index, 3, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..5000, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await?;

    corpus::index_numbers(&source.http(), &index, 4990..5010, 1).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(
        watcher.metric("syncline_watcher_changes_total").await? == 20.0,
        "the watcher read more than what was new"
    );
    ensure!(
        writer.metric("syncline_writer_changes_total").await? == 20.0,
        "the writer read more than what was new"
    );
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_backfill_loses_nothing_and_repeats_little() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("middle");
    const DOCUMENTS: usize = 40_000;
    corpus::create(&source.http(), &index, 2, false).await?;
    // A kilobyte each: much more than may be under way between the source and the stream.
    for start in (0..DOCUMENTS).step_by(4000) {
        corpus::index_padded(&source.http(), &index, start..start + 4000, 1000).await?;
    }
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    // The stream holds a part of it only, so that the watcher cannot be far ahead of the writer.
    let mut arguments = pipeline.watcher_arguments("watcher");
    for text in ["--stream-max-bytes", "5MB", "--zstd-level", "0"] {
        arguments.push(text.to_owned());
    }
    let watcher = Program::start(&arguments)?;
    watcher.readiness_is(503, "full").await?;
    let writer = pipeline.writer()?;
    wait_until("the target has a part", PATIENCE, async || {
        let changes = writer.metric("syncline_writer_changes_total").await;
        changes.is_ok_and(|changes| changes > 20_000.0)
    })
    .await?;
    // Both end in order while there is work.
    watcher.stop().await?;
    writer.stop().await?;
    let there = target.http().count(&index).await? as f64;

    let (watcher, writer) = (Program::start(&arguments)?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let read = watcher.metric("syncline_watcher_changes_total").await?;
    let written = writer.metric("syncline_writer_changes_total").await?;
    eprintln!("{there} of {DOCUMENTS} were there; then {read} were read, {written} written");
    let all = DOCUMENTS as f64;
    ensure!(
        read < all - 5000.0 && written < all - 5000.0,
        "they did not go on near where they were: {there} documents were there, {read} were read, {written} written"
    );
    watcher.stop().await?;
    writer.stop().await?;
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == DOCUMENTS);
    Ok(())
}
