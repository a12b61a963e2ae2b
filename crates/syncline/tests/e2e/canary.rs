//! What is measured from end to end.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run, text},
};

#[tokio::test]
async fn a_canary_goes_from_the_source_to_the_target_and_its_age_is_seen() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("canary");
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (mut watcher, mut writer) = (
        pipeline.watcher_arguments("watcher"),
        pipeline.writer_arguments("writer"),
    );
    let canary = format!("--canary={index}");
    watcher.extend([canary.clone(), "--canary-interval=100ms".to_owned()]);
    writer.push(canary);
    let (watcher, writer) = (Program::start(watcher)?, Program::start(writer)?);
    wait_until("canaries have come through", PATIENCE, async || {
        let seen = writer.metric("syncline_writer_canary_seconds_count").await;
        seen.is_ok_and(|seen| seen >= 5.0)
    })
    .await
    .with_context(|| writer.last_words())?;
    let metric = async |name: &str| {
        writer
            .metric(&format!("syncline_writer_canary_{name}"))
            .await
    };
    let now = model::now_ms() as f64 / 1e3;
    let newest = metric("newest_timestamp_seconds").await?;
    ensure!(
        (0.0..PATIENCE.as_secs_f64()).contains(&(now - newest)),
        "{newest} {now}"
    );
    let (sum, count) = (metric("seconds_sum").await?, metric("seconds_count").await?);
    ensure!(
        sum > 0.0 && sum / count < PATIENCE.as_secs_f64(),
        "{sum} {count}"
    );
    // Somebody else's document in that index is no canary, and harms nobody.
    let foreign = format!("/{index}/_doc/other");
    source.http().put_json(&foreign, &json!({ "n": 1 })).await?;
    watcher.stop().await?;
    let watcher = pipeline.watcher()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_canary_that_nobody_watches_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refused = run([
        "es-watcher",
        "--index-patterns=assets,-canary*",
        "--canary=canary",
        "--checkpoint-path",
        &text(folder.path()),
    ])
    .await?;
    refused.refused(1, &["canary", "assets,-canary*", "--index-patterns"])
}

#[tokio::test]
async fn how_long_deletes_take_is_counted_apart() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("delete-lag");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    wait_until("everything was counted once", PATIENCE, async || {
        let counts = watcher.metric("syncline_watcher_counts_total").await;
        counts.is_ok_and(|counts| counts >= 1.0)
    })
    .await?;
    let looks = watcher.metric("syncline_watcher_looks_total").await?;
    wait_until("it was seen at rest", PATIENCE, async || {
        let now = watcher.metric("syncline_watcher_looks_total").await;
        now.is_ok_and(|now| now >= looks + 3.0)
    })
    .await?;
    for id in 0..3 {
        source.http().delete(&format!("/{index}/_doc/{id}")).await?;
    }
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for (program, name) in [
        (&watcher, "syncline_watcher_delete_age_seconds"),
        (&writer, "syncline_writer_delete_lag_seconds"),
    ] {
        let count = format!("{name}_count");
        wait_until(&count, PATIENCE, async || {
            program.metric(&count).await.is_ok_and(|count| count == 3.0)
        })
        .await?;
        let sum = program.metric(&format!("{name}_sum")).await?;
        ensure!(sum < 3.0 * PATIENCE.as_secs_f64(), "{name}: {sum}");
    }
    watcher.stop().await?;
    writer.stop().await
}
