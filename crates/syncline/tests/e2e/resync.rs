//! What an operator asks for again goes down the pipeline once more, in order and under its versions.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, contents, until_equal},
    pipeline::Pipeline,
    program::{Ended, PATIENCE, run},
};

async fn resync(pipeline: &Pipeline, arguments: &[&str]) -> Result<Ended> {
    let url = pipeline.nats.url();
    run([&["resync"], arguments, &["--nats-url", &url]].concat()).await
}

/// Writes at the target under the very version that a document has there, as no change of the source
/// would: nothing replaces that but what somebody asks for again.
async fn tamper(
    target: &Http,
    index: &str,
    id: &str,
    routing: Option<&str>,
    by: Option<Value>,
) -> Result<()> {
    let routing = routing.map_or(String::new(), |routing| format!("routing={routing}&"));
    let path = format!("/{index}/_doc/{id}?{routing}");
    let found = target.get_json(&path).await?;
    let path = format!(
        "{path}version={}&version_type=external_gte",
        found["_version"]
    );
    match by {
        Some(document) => target.put_json(&path, &document).await.map(drop),
        None => target.delete(&path).await.map(drop),
    }
}

#[tokio::test]
async fn an_index_that_is_asked_for_again_replaces_what_differs_under_the_same_version_and_closes_holes()
-> Result<()> {
    for (from, to) in [
        (Product::Es8, Product::Os2),
        (Product::Os2, Product::Es7_17),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let index = index_name("resync");
        let with_join = corpus::has_join(from, to);
        corpus::create(&source.http(), &index, 3, with_join).await?;
        corpus::load(&source.http(), &index, with_join).await?;
        corpus::index_numbers(&source.http(), &index, 0..2000, 0).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        let documents = until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        for id in ["3", "44", "1999"] {
            tamper(
                &target.http(),
                &index,
                id,
                None,
                Some(json!({ "tampered": id })),
            )
            .await?;
        }
        for id in ["5", "77"] {
            tamper(&target.http(), &index, id, None, None).await?;
        }
        // It stays so by itself: a new document comes, and the others are as they were made.
        corpus::index_numbers(&source.http(), &index, 2000..2001, 1).await?;
        wait_until("the new one is there", PATIENCE, async || {
            let there = contents(&target.http(), &index).await;
            there.is_ok_and(|there| there.len() == documents - 1)
        })
        .await?;
        ensure!(
            assert_equal(&source.http(), &target.http(), &index)
                .await
                .is_err()
        );

        let done = resync(&pipeline, &[&index]).await?.success()?;
        ensure!(
            done.stdout.contains("the stream has all of it"),
            "{done:#?}"
        );
        ensure!(
            done.stdout
                .contains(&format!("{} documents, 3 of 3", documents + 1)),
            "{done:#?}"
        );
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        ensure!(
            writer
                .metric("syncline_writer_foreign_versions_total")
                .await?
                == 0.0
        );
        // And again, after which later changes and deletes go on as ever.
        resync(&pipeline, &[&index]).await?.success()?;
        corpus::index_numbers(&source.http(), &index, 100..300, 2).await?;
        source.http().delete(&format!("/{index}/_doc/7")).await?;
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn documents_that_are_named_and_no_others_come_again_and_what_is_gone_goes() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("resync-ids");
    corpus::create(&source.http(), &index, 3, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..100, 0).await?;
    let routed = format!("/{index}/_doc/routed?routing=there");
    source.http().put_json(&routed, &json!({ "n": 1 })).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for id in ["1", "2"] {
        tamper(
            &target.http(),
            &index,
            id,
            None,
            Some(json!({ "tampered": id })),
        )
        .await?;
    }
    tamper(
        &target.http(),
        &index,
        "routed",
        Some("there"),
        Some(json!({ "tampered": true })),
    )
    .await?;
    tamper(&target.http(), &index, "3", None, None).await?;
    // Of these the source knows nothing, and no watcher ever did.
    for path in ["ghost?", "ghost-routed?routing=r&"] {
        let path = format!("/{index}/_doc/{path}version=1&version_type=external");
        target
            .http()
            .put_json(&path, &json!({ "ghost": true }))
            .await?;
    }
    let named = ["1", "3", "routed", "ghost", "never-was"].map(|id| format!("--id={id}"));
    let mut arguments = vec![index.as_str()];
    arguments.extend(named.iter().map(String::as_str));
    let done = resync(&pipeline, &arguments).await?.success()?;
    ensure!(
        done.stdout.contains("3 documents, 3 of 3 shards done"),
        "{done:#?}"
    );
    resync(&pipeline, &[&index, "--id=ghost-routed", "--routing=r"])
        .await?
        .success()?;
    let key = |id: &str| (id.to_owned(), None);
    let left = async || -> Result<bool> {
        let (ours, mut theirs) = (
            contents(&source.http(), &index).await?,
            contents(&target.http(), &index).await?,
        );
        // All but the one that was not named.
        theirs.insert(key("2"), ours[&key("2")].clone());
        Ok(ours == theirs)
    };
    wait_until("what was named is as at the source", PATIENCE, async || {
        left().await.unwrap_or(false)
    })
    .await
    .with_context(|| writer.last_words())?;
    let theirs = contents(&target.http(), &index).await?;
    ensure!(theirs[&key("2")] == json!({ "tampered": "2" }));
    // A document that is there under a routing is not taken for gone without it.
    let wrong = resync(&pipeline, &[&index, "--id=routed", "--routing=elsewhere"])
        .await?
        .success()?;
    ensure!(wrong.stdout.contains("under another routing"), "{wrong:#?}");
    resync(&pipeline, &[&index, "--id=2"]).await?.success()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_resync_is_finished_by_the_next_watcher_and_disturbs_no_change_of_the_source()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("resync-killed");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..20_000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    // Slowly, so that much of it lies before and after the kill.
    pipeline.of_watcher = vec!["--max-rate".to_owned(), "10000/s".to_owned()];
    let (mut watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for id in ["3", "9000", "19999"] {
        tamper(
            &target.http(),
            &index,
            id,
            None,
            Some(json!({ "tampered": id })),
        )
        .await?;
    }
    resync(&pipeline, &[&index, "--no-wait"]).await?.success()?;
    let twice = resync(&pipeline, &[&index]).await?;
    twice.refused(1, &["is not done", "--cancel"])?;
    for round in 1..4 {
        corpus::index_numbers(&source.http(), &index, 0..3000, round).await?;
        for id in [round, round + 100] {
            source.http().delete(&format!("/{index}/_doc/{id}")).await?;
        }
        watcher.kill().await?;
        watcher = pipeline.watcher()?;
        watcher.ready().await?;
    }
    let status = async || -> Result<String> {
        let status = resync(&pipeline, &[&index, "--status"]).await?.success()?;
        Ok(status.stdout)
    };
    wait_until("it is done", PATIENCE, async || {
        status()
            .await
            .is_ok_and(|status| status.contains("2 of 2 shards done"))
    })
    .await
    .with_context(|| watcher.last_words())?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    ensure!(
        writer
            .metric("syncline_writer_foreign_versions_total")
            .await?
            == 0.0
    );
    watcher.stop().await?;
    writer.stop().await?;
    assert_equal(&source.http(), &target.http(), &index)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_request_waits_for_a_watcher_and_can_be_taken_back() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("resync-waits");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..10, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    resync(&pipeline, &[&index])
        .await?
        .refused(1, &["there is no stream", "verify --repair"])?;
    let writer = pipeline.writer()?;
    writer.ready().await?;
    resync(&pipeline, &[&index, "--status"])
        .await?
        .refused(1, &["nobody has asked"])?;
    resync(&pipeline, &[&index, "--no-wait"]).await?.success()?;
    let cancelled = resync(&pipeline, &[&index, "--cancel"]).await?.success()?;
    ensure!(
        cancelled.stdout.contains("waiting for the es-watcher"),
        "{cancelled:#?}"
    );
    resync(&pipeline, &[&index, "--no-wait"]).await?.success()?;
    let watcher = pipeline.watcher()?;
    watcher.says(&["published again as asked for"]).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}
