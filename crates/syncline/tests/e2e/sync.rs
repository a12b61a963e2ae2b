//! `syncline sync`: one process, no NATS.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{ChaosProxy, Product, SearchNode, matrix, unique_name, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, index_numbers},
    equal::{assert_equal, until_equal},
    program::{PATIENCE, Program, run, text},
};

/// Every product that runs here, Elasticsearch and OpenSearch by turns where that is possible.
fn ring() -> Vec<Product> {
    let (elasticsearch, opensearch): (Vec<_>, Vec<_>) = matrix()
        .into_iter()
        .partition(|product| product.name() == "elasticsearch");
    let mut ring = Vec::new();
    let (mut some, mut others) = (elasticsearch.into_iter(), opensearch.into_iter());
    loop {
        let pair = [some.next(), others.next()];
        if pair == [None, None] {
            return ring;
        }
        ring.extend(pair.into_iter().flatten());
    }
}

#[tokio::test]
async fn every_product_is_copied_exactly_into_another_and_from_another() -> Result<()> {
    let ring = ring();
    for (at, &product) in ring.iter().enumerate() {
        let next = ring[(at + 1) % ring.len()];
        let (source, target) = (
            SearchNode::shared(product).await,
            SearchNode::shared(next).await,
        );
        let index = index_name("ring");
        let with_join = corpus::has_join(product, next);
        corpus::create(&source.http(), &index, 3, with_join).await?;
        let documents = corpus::load(&source.http(), &index, with_join).await?;
        let ended = run(["sync", &source.url(), &target.url(), "--indices", &index])
            .await?
            .success()?;
        ensure!(ended.stdout.contains(&index), "no summary: {ended:?}");
        let copied = assert_equal(&source.http(), &target.http(), &index).await?;
        ensure!(
            copied == documents,
            "{product} to {next}: {copied} of {documents}"
        );
        let settings = target
            .http()
            .get_json(&format!("/{index}/_settings?flat_settings=true"))
            .await?;
        let shards = &settings[&index]["settings"]["index.number_of_shards"];
        ensure!(shards == "3", "{product} to {next}: {shards} shards");
        eprintln!("{product} to {next}: {copied} documents");
    }
    Ok(())
}

#[tokio::test]
async fn a_target_with_another_number_of_shards_gets_the_same_documents() -> Result<()> {
    let (os, es) = (
        SearchNode::shared(Product::Os2).await,
        SearchNode::shared(Product::Es7_17).await,
    );
    for (source, target, shards) in [(es, os, (1, 4)), (os, es, (4, 1))] {
        let index = index_name("reshard");
        corpus::create(&source.http(), &index, shards.0, true).await?;
        corpus::create(&target.http(), &index, shards.1, true).await?;
        let documents = corpus::load(&source.http(), &index, true).await?;
        run(["sync", &source.url(), &target.url(), "--indices", &index])
            .await?
            .success()?;
        ensure!(assert_equal(&source.http(), &target.http(), &index).await? == documents);
        let settings = target
            .http()
            .get_json(&format!("/{index}/_settings?flat_settings=true"))
            .await?;
        let kept = &settings[&index]["settings"]["index.number_of_shards"];
        ensure!(
            *kept == json!(shards.1.to_string()),
            "the target's own settings are kept"
        );
    }
    Ok(())
}

#[tokio::test]
async fn one_id_under_two_routings_is_two_documents() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("twins");
    corpus::create(&source.http(), &index, 2, false).await?;
    let mut documents = Vec::new();
    for number in 0..50 {
        // These two go to different shards.
        for routing in ["a", "c", "b", "d"] {
            documents.push((
                number.to_string(),
                Some(routing.to_owned()),
                json!({ "routing": routing }),
            ));
        }
    }
    source
        .http()
        .post_ndjson(&format!("/{index}/_bulk"), corpus::bulk(&documents))
        .await?;
    run(["sync", &source.url(), &target.url(), "--indices", &index])
        .await?
        .success()?;
    let copied = assert_equal(&source.http(), &target.http(), &index).await?;
    ensure!(
        copied == 100,
        "the routings should fall on two shards: {copied}"
    );
    Ok(())
}

#[tokio::test]
async fn patterns_choose_the_indices_and_hidden_ones_come_only_by_name() -> Result<()> {
    let (source, target) = nodes().await;
    let prefix = unique_name("e2e-pattern");
    let name = |part: &str| format!("{prefix}-{part}");
    for (part, settings) in [
        ("assets.v1", json!({})),
        ("metadata", json!({})),
        ("temp_1", json!({})),
        ("empty", json!({})),
        ("hidden", json!({ "index": { "hidden": true } })),
    ] {
        source
            .http()
            .put_json(
                &format!("/{}", name(part)),
                &json!({ "settings": settings }),
            )
            .await?;
        if part != "empty" {
            corpus::index_numbers(&source.http(), &name(part), 0..10, 0).await?;
        }
    }
    let is_there = async |part: &str| -> Result<bool> {
        let (status, _) = target
            .http()
            .request("HEAD".parse()?, &format!("/{}", name(part)), "")
            .await?;
        Ok(status == 200)
    };
    let patterns = format!("{prefix}-*,-{prefix}-temp_*");
    run(["sync", &source.url(), &target.url(), "--indices", &patterns])
        .await?
        .success()?;
    for part in ["assets.v1", "metadata", "empty"] {
        assert_equal(&source.http(), &target.http(), &name(part)).await?;
    }
    ensure!(
        !is_there("temp_1").await? && !is_there("hidden").await?,
        "more was copied than asked for"
    );
    run([
        "sync",
        &source.url(),
        &target.url(),
        "--indices",
        &name("hidden"),
    ])
    .await?
    .success()?;
    ensure!(assert_equal(&source.http(), &target.http(), &name("hidden")).await? == 10);
    Ok(())
}

#[tokio::test]
async fn a_second_copy_changes_nothing_and_carries_what_is_new() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("again");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let (from, to) = (source.url(), target.url());
    let copy = || run(["sync", &from, &to, "--indices", &index]);
    copy().await?.success()?;
    copy().await?.success()?;
    assert_equal(&source.http(), &target.http(), &index).await?;
    corpus::index_numbers(&source.http(), &index, 400..600, 1).await?;
    copy().await?.success()?;
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == 600);
    Ok(())
}

#[tokio::test]
async fn a_copy_that_follows_carries_changes_until_it_is_stopped_and_goes_on_where_it_was()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("follow");
    let folder = tempfile::tempdir()?;
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..500, 0).await?;
    let (from, to, checkpoints) = (source.url(), target.url(), text(folder.path()));
    let arguments = [
        "sync",
        &from,
        &to,
        "--indices",
        &index,
        "--checkpoint-path",
        &checkpoints,
    ];
    let following = Program::follow(arguments)?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    corpus::index_numbers(&source.http(), &index, 300..900, 1).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    following.stop().await?;
    corpus::index_numbers(&source.http(), &index, 800..1000, 2).await?;
    let ended = run(arguments).await?.success()?;
    assert_equal(&source.http(), &target.http(), &index).await?;
    // The summary's columns: index, written, already there, refused, …
    let row = ended
        .stdout
        .lines()
        .find(|line| line.contains(&index))
        .unwrap_or_default();
    let numbers: Vec<&str> = row.split_whitespace().skip(1).take(3).collect();
    ensure!(
        numbers == ["200", "0", "0"],
        "it did not go on where it was: {}",
        ended.stdout
    );
    Ok(())
}

/// Begins a slow copy through a proxy in front of the target, and returns it when more has arrived than was there.
async fn begun(index: &str, to: &ChaosProxy) -> Result<Program> {
    let (source, target) = nodes().await;
    let http = target.http();
    let count = async || -> Result<u64> {
        let path = format!("/{index}/_refresh");
        http.post_json(&path, &Value::Null).await?;
        http.count(index).await
    };
    let before = count().await.unwrap_or(0);
    let (from, to) = (source.url(), to.url("http"));
    let slowly = ["--indices", index, "--max-rate", "500/s"];
    let copy = Program::follow([&["sync", &from, &to][..], &slowly].concat())?;
    let arrived = async || count().await.is_ok_and(|count| count > before);
    wait_until("a part has arrived", PATIENCE, arrived).await?;
    Ok(copy)
}

#[tokio::test]
async fn a_copy_that_is_stopped_in_the_middle_ends_and_the_next_one_completes_it() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("stopped");
    index_numbers(&source.http(), &index, 0..20_000, 0).await?;
    let proxy = ChaosProxy::start(target.address()).await?;
    let mut copy = begun(&index, &proxy).await?;
    copy.signal(Signal::SIGINT)?;
    let ended = copy.wait().await?;
    ensure!(ended.code() == Some(0), "{ended}: {}", copy.last_words());
    ensure!(
        copy.has_said(&["stopped: the target stays as it is now"]),
        "{}",
        copy.last_words()
    );
    let there = target.http().count(&index).await?;
    ensure!(there < 20_000, "it was too fast to be stopped");

    // Nor does it hang on a target that has fallen silent.
    let mut copy = begun(&index, &proxy).await?;
    proxy.half_open();
    copy.signal(Signal::SIGINT)?;
    let ended = copy.wait().await?;
    ensure!(ended.code().is_some(), "{ended}: {}", copy.last_words());

    run(["sync", &source.url(), &target.url(), "--indices", &index])
        .await?
        .success()?;
    assert_equal(&source.http(), &target.http(), &index).await?;
    Ok(())
}
