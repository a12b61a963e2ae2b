//! Streams that are not as they should be, and one that is full.

use anyhow::{Context, Result, ensure};
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run},
};

async fn jetstream(pipeline: &Pipeline) -> Result<async_nats::jetstream::Context> {
    let client = async_nats::connect(pipeline.nats.url()).await?;
    Ok(async_nats::jetstream::new(client))
}

#[tokio::test]
async fn a_stream_that_would_drop_what_is_unread_is_refused_by_both() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("discard");
    corpus::create(&source.http(), &index, 1, false).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let stream = async_nats::jetstream::stream::Config {
        name: "ES_CHANGES".to_owned(),
        subjects: vec!["es.>".to_owned()],
        ..Default::default()
    };
    jetstream(&pipeline).await?.create_stream(stream).await?;
    let watcher = run(pipeline.watcher_arguments("watcher")).await?;
    watcher.refused(1, &["ES_CHANGES", "discards old messages", "--discard=new"])?;
    let writer = run(pipeline.writer_arguments("es-writer")).await?;
    writer.refused(1, &["ES_CHANGES", "discards old messages", "--discard=new"])
}

#[tokio::test]
async fn a_full_stream_makes_the_watcher_wait_until_a_writer_has_made_room() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("full");
    corpus::create(&source.http(), &index, 2, false).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let mut arguments = pipeline.watcher_arguments("watcher");
    for text in ["--stream-max-bytes", "2MB", "--zstd-level", "0"] {
        arguments.push(text.to_owned());
    }
    let watcher = Program::start(arguments)?;
    // Three times what the stream can hold.
    for start in (0..60_000).step_by(10_000) {
        let documents: Vec<_> = (start..start + 10_000)
            .map(|number| (number.to_string(), None, serde_json::json!({ "number": number, "text": "lorem ipsum dolor sit amet ".repeat(3) })))
            .collect();
        source
            .http()
            .post_ndjson(&format!("/{index}/_bulk"), corpus::bulk(&documents))
            .await?;
    }
    watcher.readiness_is(503, "full").await?;
    let stream = jetstream(&pipeline).await?;
    let held = stream
        .get_stream("ES_CHANGES")
        .await?
        .cached_info()
        .state
        .messages;
    ensure!(held > 0, "the stream is full of nothing");
    let writer = pipeline.writer()?;
    let documents = until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(documents == 60_000);
    watcher.ready().await?;
    wait_until("what is read is purged", PATIENCE, async || {
        let info = stream.get_stream("ES_CHANGES").await;
        info.is_ok_and(|stream| stream.cached_info().state.bytes < 1 << 20)
    })
    .await
    .context("the stream keeps what every reader has passed")?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn services_wait_for_a_nats_server_that_is_away_and_go_on_when_it_is_back() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("away");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..1000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.nats.kill();
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    for program in [&watcher, &writer] {
        program.readiness_is(503, "stream").await?;
    }
    pipeline.nats.restart().await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    pipeline.nats.kill();
    corpus::index_numbers(&source.http(), &index, 500..1500, 1).await?;
    watcher.readiness_is(503, "stream").await?;
    pipeline.nats.restart().await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for program in [watcher, writer] {
        program.ready().await?;
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn readers_are_listed_with_what_is_unread_and_one_that_is_gone_can_be_forgotten() -> Result<()>
{
    let (source, target) = nodes().await;
    let index = index_name("readers");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..100, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let nats = pipeline.nats.url();
    let readers = async |arguments: &[&str]| {
        let arguments = [&["readers"][..], arguments, &["--nats-url", &nats]].concat();
        run(arguments).await
    };
    readers(&[])
        .await?
        .refused(1, &["no stream ES_CHANGES", "--stream"])?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    readers(&["forget", "es-writer"])
        .await?
        .refused(1, &["es-writer", "stop it first", "--force"])?;
    writer.stop().await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 1).await?;
    wait_until("the stream holds what nobody reads", PATIENCE, async || {
        let listed = readers(&["list"]).await;
        listed.is_ok_and(|listed| {
            listed.code == Some(0)
                && listed.stdout.contains("stopped")
                && listed.stdout.contains("syncline readers forget es-writer")
        })
    })
    .await?;
    readers(&["forget", "nobody"])
        .await?
        .refused(1, &["nobody", "es-writer"])?;
    readers(&["forget", "es-writer"]).await?.success()?;
    let listed = readers(&[]).await?.success()?;
    ensure!(listed.stdout.contains("no reader"), "{listed:?}");
    watcher.stop().await
}
