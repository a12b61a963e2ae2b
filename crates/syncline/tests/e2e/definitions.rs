//! What an index looks like, carried before its documents and ever after.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run},
};

async fn shape(http: &Http, index: &str) -> Result<Value> {
    let mut found = http.get_json(&format!("/{index}")).await?;
    Ok(found[index].take())
}

async fn alias(http: &Http, actions: Value) -> Result<()> {
    http.post_json("/_aliases", &json!({ "actions": actions }))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_field_that_is_declared_at_the_source_is_there_before_the_first_document_with_it()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("fields");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for number in 0..8 {
        // Left to itself, the target would take the first for text and the other for a number.
        let (word, code) = (format!("word{number}"), format!("code{number}"));
        let mapping = json!({ "properties": {
            &word: { "type": "keyword" },
            "deep": { "properties": { &code: { "type": "keyword" } } },
        } });
        source
            .http()
            .put_json(&format!("/{index}/_mapping"), &mapping)
            .await?;
        let document = json!({ &word: "a b", "deep": { &code: 7 } });
        source
            .http()
            .index_documents(&index, [(word.as_str(), document)])
            .await?;
    }
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let (ours, theirs) = (
        shape(&source.http(), &index).await?,
        shape(&target.http(), &index).await?,
    );
    ensure!(
        ours["mappings"]["properties"] == theirs["mappings"]["properties"],
        "{theirs:#}"
    );
    ensure!(writer.metric("syncline_writer_drift").await? == 0.0);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn aliases_follow_the_source_and_those_made_by_hand_stay() -> Result<()> {
    let (source, target) = nodes().await;
    let (old, new) = (index_name("alias-old"), index_name("alias-new"));
    let name = index_name("alias").replace('.', "-");
    for index in [&old, &new] {
        corpus::create(&source.http(), index, 1, false).await?;
        corpus::index_numbers(&source.http(), index, 0..10, 0).await?;
    }
    let add = |index: &str, writes: bool| {
        let filter = json!({ "range": { "number": { "gte": 0 } } });
        json!({ "add": { "index": index, "alias": &name, "is_write_index": writes, "filter": filter } })
    };
    alias(&source.http(), json!([add(&old, true)])).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &format!("{old},{new}")).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let follows = async |what: &str| {
        let same = async || {
            let mut same = true;
            for index in [&old, &new] {
                let (Ok(ours), Ok(theirs)) = (
                    shape(&source.http(), index).await,
                    shape(&target.http(), index).await,
                ) else {
                    return false;
                };
                same &= ours["aliases"][&name] == theirs["aliases"][&name];
            }
            same
        };
        wait_until(what, PATIENCE, same)
            .await
            .with_context(|| writer.last_words())
    };
    follows("the alias is there").await?;
    let by_hand = format!("{name}-by-hand");
    alias(
        &target.http(),
        json!([{ "add": { "index": &old, "alias": by_hand } }]),
    )
    .await?;

    // As a rollover does it: both carry the alias, the new one is written to.
    alias(&source.http(), json!([add(&old, false), add(&new, true)])).await?;
    follows("the other one is written to").await?;
    alias(
        &source.http(),
        json!([{ "remove": { "index": &old, "alias": &name } }]),
    )
    .await?;
    follows("the alias is gone from the old one").await?;
    let theirs = shape(&target.http(), &old).await?;
    ensure!(theirs["aliases"].get(&by_hand).is_some(), "{theirs:#}");
    watcher.stop().await?;
    writer.stop().await
}

/// What an index has for a setting; null where it is the default.
async fn setting(http: &Http, index: &str, path: &str) -> Result<Value> {
    let shape = shape(http, index).await?;
    let found = path
        .split('.')
        .fold(&shape["settings"]["index"], |at, key| &at[key]);
    Ok(found.clone())
}

async fn set(http: &Http, index: &str, settings: Value) -> Result<()> {
    http.put_json(&format!("/{index}/_settings"), &settings)
        .await?;
    Ok(())
}

#[tokio::test]
async fn settings_follow_the_source_and_those_set_by_hand_stay() -> Result<()> {
    const LIMIT: &str = "mapping.total_fields.limit";
    let (source, target) = nodes().await;
    let index = index_name("settings");
    corpus::create(&source.http(), &index, 1, false).await?;
    set(
        &source.http(),
        &index,
        json!({ "index.refresh_interval": "7s" }),
    )
    .await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(setting(&target.http(), &index, "refresh_interval").await? == "7s");
    let becomes = async |path: &str, value: Value| {
        wait_until(&format!("{path} becomes {value}"), PATIENCE, async || {
            let there = setting(&target.http(), &index, path).await;
            there.is_ok_and(|there| there == value)
        })
        .await
        .with_context(|| writer.last_words())
    };
    // One that it was created with, and one that nobody has set before; replicas are the target's own.
    let change = json!({ "index.refresh_interval": "9s", "index.mapping.total_fields.limit": 1500, "index.number_of_replicas": 3 });
    set(&source.http(), &index, change).await?;
    becomes("refresh_interval", json!("9s")).await?;
    becomes(LIMIT, json!("1500")).await?;
    ensure!(setting(&target.http(), &index, "number_of_replicas").await? != "3");
    ensure!(writer.metric("syncline_writer_drift").await? == 0.0);

    // Back to the default.
    set(
        &source.http(),
        &index,
        json!({ "index.refresh_interval": null }),
    )
    .await?;
    becomes("refresh_interval", Value::Null).await?;

    // Somebody has another limit in mind for the target.
    let by_hand =
        json!({ "index.mapping.total_fields.limit": 3000, "index.refresh_interval": "3s" });
    set(&target.http(), &index, by_hand).await?;
    let change = json!({ "index.mapping.total_fields.limit": 1600, "index.refresh_interval": "11s", "index.max_result_window": 20000 });
    set(&source.http(), &index, change).await?;
    becomes("max_result_window", json!("20000")).await?;
    ensure!(setting(&target.http(), &index, LIMIT).await? == "3000");
    ensure!(setting(&target.http(), &index, "refresh_interval").await? == "3s");
    writer
        .says(&["total_fields.limit", "1600", "3000", "it stays so"])
        .await?;
    ensure!(writer.metric("syncline_writer_drift").await? == 1.0);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn replicas_follow_if_somebody_chooses_so() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("replicas");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let mut arguments = pipeline.writer_arguments("writer");
    arguments.push("--follow-replicas".to_owned());
    let (watcher, writer) = (pipeline.watcher()?, Program::start(arguments)?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    set(
        &source.http(),
        &index,
        json!({ "index.number_of_replicas": 2 }),
    )
    .await?;
    wait_until("the target has as many", PATIENCE, async || {
        let there = setting(&target.http(), &index, "number_of_replicas").await;
        there.is_ok_and(|there| there == "2")
    })
    .await
    .with_context(|| writer.last_words())?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn what_differs_at_the_target_stays_and_is_told() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("drift");
    let of = |kind: &str| json!({ "mappings": { "properties": { "number": { "type": kind } } } });
    source
        .http()
        .put_json(&format!("/{index}"), &of("long"))
        .await?;
    target
        .http()
        .put_json(&format!("/{index}"), &of("keyword"))
        .await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    writer
        .says(&["field number", "long", "keyword", "it stays so"])
        .await?;
    ensure!(writer.metric("syncline_writer_drift").await? == 1.0);
    let (from, to) = (
        format!("--source={}", source.url()),
        format!("--target={}", target.url()),
    );
    let check = run(["check", &from, &to, &format!("--indices={index}")])
        .await?
        .success()?;
    ensure!(
        check.stdout.contains("stays as it is: field number"),
        "{check:#?}"
    );
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("dry");
    let body = json!({
        "settings": { "number_of_shards": 1, "index.default_pipeline": "_none" },
        "mappings": { "properties": { "labels": { "type": "flattened" } } },
        "aliases": { format!("{}-alias", index.replace('.', "-")): {} },
    });
    source.http().put_json(&format!("/{index}"), &body).await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    source
        .http()
        .post_json(&format!("/{index}/_refresh"), &Value::Null)
        .await?;
    let indices = format!("--indices={index}");
    let run = run(["sync", &source.url(), &target.url(), &indices, "--dry-run"])
        .await?
        .success()?;
    for word in [
        "is created",
        "labels: flattened is called flat_object",
        "alias",
        "default_pipeline",
        "10 documents",
        "nothing was changed",
    ] {
        ensure!(run.stdout.contains(word), "{word}: {run:#?}");
    }
    let (status, _) = target
        .http()
        .request("GET".parse()?, &format!("/{index}"), "")
        .await?;
    ensure!(status == 404, "the index was created");
    Ok(())
}
