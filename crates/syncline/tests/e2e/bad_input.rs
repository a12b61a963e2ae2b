//! Targets and folders that are not what they should be: one sentence each, and nothing lost.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, NodeOptions, Product, SearchNode};

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run, text},
};

/// That nothing was given up: no dead letter, and what was held back is there in the end.
async fn arrives(source: &Http, target: &Http, index: &str, writer: &Program) -> Result<()> {
    until_equal(source, target, index, PATIENCE)
        .await
        .with_context(|| writer.last_words())?;
    ensure!(writer.metric("syncline_writer_dead_letters").await? == 0.0);
    writer.ready().await
}

async fn block(target: &Http, index: &str, setting: &str, on: Value) -> Result<()> {
    let settings = json!({ format!("index.blocks.{setting}"): on });
    target
        .put_json(&format!("/{index}/_settings"), &settings)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_target_index_that_may_not_be_written_is_waited_for() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("blocked");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    // Somebody's, and what a cluster does by itself when its disk is flooded.
    for (round, setting) in ["write", "read_only", "read_only_allow_delete"]
        .iter()
        .enumerate()
    {
        block(&target.http(), &index, setting, json!(true)).await?;
        corpus::index_numbers(&source.http(), &index, 40..70, round + 1).await?;
        writer.readiness_is(503, "blocked by").await?;
        block(&target.http(), &index, setting, Value::Null).await?;
        arrives(&source.http(), &target.http(), &index, &writer).await?;
    }
    // A field that is new to a mapping which may not be changed.
    block(&target.http(), &index, "metadata", json!(true)).await?;
    let field = json!({ "properties": { "declared": { "type": "keyword" } } });
    source
        .http()
        .put_json(&format!("/{index}/_mapping"), &field)
        .await?;
    corpus::index_numbers(&source.http(), &index, 60..80, 9).await?;
    writer.readiness_is(503, "blocked by").await?;
    block(&target.http(), &index, "metadata", Value::Null).await?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_cluster_that_is_blocked_as_a_whole_is_waited_for() -> Result<()> {
    let source = SearchNode::shared(Product::Es8).await;
    let target = SearchNode::start_with(Product::Os2, NodeOptions::default()).await?;
    let index = index_name("blocked-cluster");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 0).await?;
    let read_only = async |on: Value| -> Result<()> {
        let settings = json!({ "persistent": { "cluster.blocks.read_only": on } });
        target
            .http()
            .put_json("/_cluster/settings", &settings)
            .await
            .map(drop)
    };
    read_only(json!(true)).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    // Not even the index can be created.
    writer.readiness_is(503, "blocked by").await?;
    read_only(Value::Null).await?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn an_alias_of_several_indices_in_the_place_of_the_target_s_index_is_refused() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("alias");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 0).await?;
    let behind = [format!("{index}-a"), format!("{index}-b")];
    for name in &behind {
        let body = json!({ "aliases": { &index: {} } });
        target.http().put_json(&format!("/{name}"), &body).await?;
    }
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let watcher = pipeline.watcher()?;
    let ended = run(pipeline.writer_arguments("es-writer")).await?;
    ended.refused(1, &[&index, "an alias of 2 indices", "remove or rename"])?;
    for name in &behind {
        ensure!(target.http().count(name).await? == 0);
        target.http().delete(&format!("/{name}")).await?;
    }
    let writer = pipeline.writer()?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;

    // The same while it runs: what is written then waits, and becomes no dead letter.
    target.http().delete(&format!("/{index}")).await?;
    for name in &behind {
        let body = json!({ "aliases": { &index: {} } });
        target.http().put_json(&format!("/{name}"), &body).await?;
    }
    corpus::index_numbers(&source.http(), &index, 0..60, 1).await?;
    writer.readiness_is(503, "no write index").await?;
    for name in &behind {
        target.http().delete(&format!("/{name}")).await?;
    }
    corpus::index_numbers(&source.http(), &index, 0..60, 2).await?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_data_stream_in_the_place_of_the_target_s_index_is_refused() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("stream");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..50, 0).await?;
    let template = format!("/_index_template/{index}");
    let body = json!({ "index_patterns": [&index], "data_stream": {}, "priority": 900 });
    target.http().put_json(&template, &body).await?;
    let stream = format!("/_data_stream/{index}");
    target.http().put_json(&stream, &Value::Null).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let watcher = pipeline.watcher()?;
    let ended = run(pipeline.writer_arguments("es-writer")).await?;
    ended.refused(1, &[&index, "a data stream", "remove or rename"])?;
    target.http().delete(&stream).await?;
    target.http().delete(&template).await?;
    let writer = pipeline.writer()?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_message_with_an_id_that_no_document_can_have_is_a_dead_letter_and_the_rest_goes_on()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("long-id");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..5, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    // No search engine has one, but a source of somebody's own could send it.
    let body = format!(
        "{{\"index\":{{\"_id\":\"{}\",\"version\":1,\"version_type\":\"external\"}}}}\n{{}}\n",
        "x".repeat(513)
    );
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        ("Format", "1"),
        ("Count", "1"),
        ("Partition", "by hand"),
        ("Captured", "1"),
    ] {
        headers.insert(format!("Syncline-{name}").as_str(), value);
    }
    let client = async_nats::connect(pipeline.nats.url()).await?;
    let subject = format!("es.default.{}.index", index.replace('.', "%2E"));
    let stream = async_nats::jetstream::new(client);
    stream
        .publish_with_headers(subject, headers, body.into())
        .await?
        .await?;
    corpus::index_numbers(&source.http(), &index, 3..8, 1).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let listed = run(["dlq", "list", "--nats-url", &pipeline.nats.url()])
        .await?
        .success()?;
    ensure!(
        listed.stdout.contains("the document id has 513 bytes"),
        "{}",
        listed.stdout
    );
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_ledger_that_was_cut_in_the_middle_is_refused_and_moving_it_away_is_said_aloud()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("cut-ledger");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..2000, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    let folder = pipeline.checkpoint_path("watcher").join("ledger");
    let file = folder.join("data.mdb");
    let whole = fs::read(&file)?;
    fs::write(&file, &whole[..whole.len() / 2])?;
    let ended = run(pipeline.watcher_arguments("watcher")).await?;
    ended.refused(1, &[&text(&folder), "damaged", "move it away"])?;
    ensure!(
        fs::read(&file)?.len() == whole.len() / 2,
        "it was written over"
    );
    fs::remove_dir_all(&folder)?;
    let watcher = pipeline.watcher()?;
    watcher.says(&["younger than what was published"]).await?;
    corpus::index_numbers(&source.http(), &index, 1990..2010, 1).await?;
    source.http().delete(&format!("/{index}/_doc/5")).await?;
    arrives(&source.http(), &target.http(), &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_checkpoint_folder_of_another_cluster_is_refused_and_left_as_it_is() -> Result<()> {
    let (one, other) = nodes().await;
    let index = index_name("foreign-folder");
    corpus::create(&one.http(), &index, 1, false).await?;
    corpus::index_numbers(&one.http(), &index, 0..50, 0).await?;
    let folder = tempfile::tempdir()?;
    let path = text(folder.path());
    let copy = async |from: &str, to: &str| {
        let flags = ["--indices", &index, "--checkpoint-path", &path];
        run([&["sync", from, to], &flags[..]].concat()).await
    };
    copy(&one.url(), &other.url()).await?.success()?;
    let before = fs::read(folder.path().join("data.mdb"))?;
    // The wrong way round: the index is there too, with positions of its own.
    let words = [&path, "belongs to", "--checkpoint-path"];
    copy(&other.url(), &one.url()).await?.refused(1, &words)?;
    ensure!(
        fs::read(folder.path().join("data.mdb"))? == before,
        "it was written over"
    );
    corpus::index_numbers(&one.http(), &index, 40..60, 1).await?;
    one.http().delete(&format!("/{index}/_doc/5")).await?;
    copy(&one.url(), &other.url()).await?.success()?;
    ensure!(until_equal(&one.http(), &other.http(), &index, PATIENCE).await? == 59);
    Ok(())
}

/// It is stricter than the source's in one field and looser in another.
#[tokio::test]
async fn a_target_index_that_was_made_by_hand_gets_what_fits_and_the_rest_is_kept_as_letters()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("by-hand");
    let mapping =
        |kind: &str| json!({ "mappings": { "properties": { "code": { "type": kind } } } });
    from.put_json(&format!("/{index}"), &mapping("keyword"))
        .await?;
    to.put_json(&format!("/{index}"), &mapping("long")).await?;
    let put = async |id: usize, code: &str| {
        let path = format!("/{index}/_doc/{id}");
        from.put_json(&path, &json!({ "code": code })).await
    };
    for id in 0..20 {
        put(id, if id % 5 == 0 { "A7" } else { "7" }).await?;
    }
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let letters = async || writer.metric("syncline_writer_dead_letters").await;
    let are = async |count: f64| {
        let what = format!("{count} letters");
        testkit::wait_until(&what, PATIENCE, async || {
            letters().await.is_ok_and(|letters| letters == count)
        })
        .await
    };
    are(4.0).await?;
    ensure!(
        writer.has_said(&["code", "keyword", "long"]),
        "{}",
        writer.last_words()
    );
    // What comes to fit, and what is deleted, needs no letter.
    put(0, "8").await?;
    from.delete(&format!("/{index}/_doc/5")).await?;
    are(2.0).await?;
    for id in [10, 15] {
        put(id, "9").await?;
    }
    are(0.0).await?;
    arrives(&from, &to, &index, &writer).await?;
    watcher.stop().await?;
    writer.stop().await
}
