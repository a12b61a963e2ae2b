//! Bad input: an exit code and one sentence that names the thing and the remedy.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::ChaosProxy;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    pipeline::Pipeline,
    program::{Program, run, text},
};

#[tokio::test]
async fn a_copy_from_or_to_a_host_that_is_down_says_which() -> Result<()> {
    let (source, target) = nodes().await;
    let proxy = ChaosProxy::start(source.address()).await?;
    let down = proxy.url("http");
    drop(proxy);
    let from = run(["sync", &down, &target.url()]).await?;
    from.refused(1, &["source", down.trim_start_matches("http://")])?;
    let to = run(["sync", &source.url(), &down]).await?;
    to.refused(1, &["target", down.trim_start_matches("http://")])
}

#[tokio::test]
async fn a_copy_of_what_does_not_exist_names_the_patterns() -> Result<()> {
    let (source, target) = nodes().await;
    let missing = index_name("missing");
    let ended = run(["sync", &source.url(), &target.url(), "--indices", &missing]).await?;
    ended.refused(1, &[&missing, "--indices"])?;
    // One of two names is missing: that is a slip, too.
    let there = index_name("there");
    corpus::create(&source.http(), &there, 1, false).await?;
    let both = format!("{there},{missing}");
    let ended = run(["sync", &source.url(), &target.url(), "--indices", &both]).await?;
    ended.refused(1, &[&missing, "--indices"])?;
    // Nothing but a pattern.
    let pattern = format!("{missing}*");
    let ended = run(["sync", &source.url(), &target.url(), "--indices", &pattern]).await?;
    ended.refused(1, &[&pattern, "have to be named"])
}

#[tokio::test]
async fn a_copy_of_a_cluster_into_itself_is_refused() -> Result<()> {
    let (source, _) = nodes().await;
    let ended = run(["sync", &source.url(), &source.url()]).await?;
    ended.refused(1, &["same cluster"])
}

#[tokio::test]
async fn an_index_without_source_is_refused_when_it_is_named_and_left_out_otherwise() -> Result<()>
{
    let (source, target) = nodes().await;
    let index = index_name("nosource");
    let mappings = json!({ "mappings": { "_source": { "enabled": false } } });
    source
        .http()
        .put_json(&format!("/{index}"), &mappings)
        .await?;
    let ended = run(["sync", &source.url(), &target.url(), "--indices", &index]).await?;
    ended.refused(1, &[&index, "_source"])?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let ended = run(pipeline.watcher_arguments("watcher")).await?;
    ended.refused(1, &[&index, "_source"])?;

    let pipeline = Pipeline::new(&source.url(), &target.url(), &format!("{index}*")).await?;
    let watcher = pipeline.watcher()?;
    watcher.says(&["left out", &index]).await?;
    watcher.stop().await
}

#[tokio::test]
async fn a_file_that_is_no_yaml_or_has_an_unknown_key_names_the_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    let path = text(&file);
    fs::write(&file, "es-watcher:\n  tenant: [a\n")?;
    let ended = run(["es-watcher", "--config", &path]).await?;
    ended.refused(2, &[&path])?;
    fs::write(&file, "es-watcher:\n  tennant: a\n")?;
    let ended = run(["es-watcher", "--config", &path]).await?;
    ended.refused(2, &[&path, "tennant", "tenant", ":2"])?;
    let ended = run(["es-watcher", "--config", "/nowhere/syncline.yaml"]).await?;
    ended.refused(2, &["/nowhere/syncline.yaml"])
}

#[tokio::test]
async fn check_config_shows_what_was_resolved_and_hides_secrets() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    fs::write(
        &file,
        "es-watcher:\n  tenant: iconik\n  poll_interval: 250ms\n  es_password: hunter2\n",
    )?;
    let ended = run([
        "es-watcher",
        "--config",
        &text(&file),
        "--es-hosts",
        "https://user:hunter3@example.org:9200",
        "--poll-interval",
        "40",
        "--nats-url",
        "nats://user:hunter4@example.org",
        "--check-config",
    ])
    .await?
    .success()?;
    for part in ["iconik", "40", "example.org:9200", "checkpoint_path"] {
        ensure!(
            ended.stdout.contains(part),
            "{part:?} is not shown: {}",
            ended.stdout
        );
    }
    for secret in ["hunter2", "hunter3", "hunter4"] {
        ensure!(
            !ended.stdout.contains(secret),
            "{secret} is shown: {}",
            ended.stdout
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_checkpoint_store_is_refused_and_left_as_it_is() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("damaged");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let watcher = pipeline.watcher()?;
    watcher.ready().await?;
    watcher.stop().await?;
    let folder = pipeline.checkpoint_path("watcher");
    let store = folder.join("data.mdb");
    let whole = fs::read(&store)?;
    let last = whole.len() - 1;
    let mut garbled = whole.clone();
    for at in (8192..last).step_by(7) {
        garbled[at] ^= 0x5a;
    }
    for damage in [&whole[..100], &whole[..whole.len() / 2], &garbled[..], b""] {
        fs::write(&store, damage)?;
        let ended = run(pipeline.watcher_arguments("watcher")).await?;
        let refused = ended.refused(1, &[&text(&folder), "damaged", "move it away"]);
        refused.with_context(|| format!("{} of {} bytes", damage.len(), whole.len()))?;
        ensure!(fs::read(&store)? == damage, "it was written over");
    }
    // Another cluster's store is refused, too.
    fs::write(&store, &whole)?;
    let mut other = Pipeline::new(&target.url(), &source.url(), &index).await?;
    std::mem::swap(&mut other.source, &mut other.target);
    let mut foreign = other.watcher_arguments("watcher");
    let at = foreign
        .iter()
        .position(|text| text == "--es-hosts")
        .unwrap_or_default();
    foreign[at + 1] = target.url();
    let at = foreign
        .iter()
        .position(|text| text == "--checkpoint-path")
        .unwrap_or_default();
    foreign[at + 1] = text(&folder);
    let ended = run(foreign).await?;
    ended.refused(1, &[&text(&folder), "belongs to", "--checkpoint-path"])
}

#[tokio::test]
async fn a_checkpoint_store_in_use_is_refused() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("inuse");
    corpus::create(&source.http(), &index, 1, false).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let watcher = pipeline.watcher()?;
    watcher.ready().await?;
    let mut second = pipeline.watcher_arguments("watcher");
    second.extend(["--name", "another", "--lease", "1s"].map(str::to_owned));
    let ended = run(second).await?;
    ended.refused(1, &["another process is using", "--checkpoint-path"])?;
    watcher.stop().await
}

#[tokio::test]
async fn commands_and_flags_that_do_not_exist_are_usage_errors() -> Result<()> {
    run(["wrtier"]).await?.refused(2, &["wrtier", "help"])?;
    let ended = run(["es-writer", "--batch-size", "0"]).await?;
    ended.refused(2, &["batch-size", "at least 1"])?;
    let ended = run([
        "es-watcher",
        "--admin-listen",
        "127.0.0.1:0",
        "--index-patterns",
        "Upper",
    ])
    .await?;
    ended.refused(2, &["Upper", "lower case"])
}

#[tokio::test]
async fn a_writer_started_twice_by_mistake_stops_in_order() -> Result<()> {
    let (source, target) = nodes().await;
    let pipeline = Pipeline::new(&source.url(), &target.url(), "none").await?;
    let first = pipeline.writer()?;
    first.ready().await?;
    let second = Program::start(pipeline.writer_arguments("es-writer"))?;
    second.says(&["standing by"]).await?;
    second.stop().await?;
    first.stop().await
}
