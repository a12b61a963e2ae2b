//! Stopping in order, and going on where one was.

use anyhow::{Result, ensure};
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    pipeline::Pipeline,
    program::PATIENCE,
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
    const DOCUMENTS: usize = 120_000;
    corpus::create(&source.http(), &index, 2, false).await?;
    for start in (0..DOCUMENTS).step_by(10_000) {
        corpus::index_numbers(&source.http(), &index, start..start + 10_000, 0).await?;
    }
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    wait_until("the target has a part", PATIENCE, async || {
        writer
            .metric("syncline_writer_changes_total")
            .await
            .is_ok_and(|changes| changes > 50_000.0)
    })
    .await?;
    // Both end in order while there is work, and quickly.
    watcher.stop().await?;
    writer.stop().await?;
    let there = target.http().count(&index).await?;

    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let again = writer.metric("syncline_writer_changes_total").await?;
    let read = watcher.metric("syncline_watcher_changes_total").await?;
    eprintln!("{there} of {DOCUMENTS} were there; {read} read and {again} written after that");
    // The checkpoint is behind by what was under way and by the last look at the source.
    ensure!(
        read < (DOCUMENTS - 10_000) as f64,
        "it did not go on near where it was: {there} documents were there and {read} were read"
    );
    watcher.stop().await?;
    writer.stop().await?;
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == DOCUMENTS);
    Ok(())
}
