//! Documents that the target refuses: kept, superseded, sent again.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, NatsOptions, NatsServer, Product, SearchNode, wait_until};

use super::{index_name, nodes};
use crate::support::{
    equal::{assert_equal, contents, until_equal},
    pipeline::Pipeline,
    program::{Ended, PATIENCE, Program, run},
};

/// An index on both sides. The target refuses what has a field it does not know, and forgets at once what
/// was deleted.
async fn strict_index(source: &Http, target: &Http, index: &str) -> Result<()> {
    let properties = json!({ "n": { "type": "long" } });
    let body = |settings: Value, dynamic: Value| {
        json!({
            "settings": { "index": settings },
            "mappings": { "dynamic": dynamic, "properties": properties },
        })
    };
    let settings = json!({ "number_of_shards": 1, "number_of_replicas": 0 });
    let forgetful = json!({ "number_of_shards": 1, "number_of_replicas": 0, "gc_deletes": "1ms" });
    let path = format!("/{index}");
    source.put_json(&path, &body(settings, json!(true))).await?;
    let strict = body(forgetful, json!("strict"));
    target.put_json(&path, &strict).await?;
    Ok(())
}

async fn put(http: &Http, index: &str, id: &str, document: Value) -> Result<()> {
    let path = format!("/{index}/_doc/{id}");
    http.put_json(&path, &document).await.map(drop)
}

async fn delete(http: &Http, index: &str, id: &str) -> Result<()> {
    let path = format!("/{index}/_doc/{id}");
    let (status, answer) = http.request("DELETE".parse()?, &path, "").await?;
    ensure!(status == 200, "{answer}");
    Ok(())
}

fn bad(n: u64) -> Value {
    json!({ "n": n, "unknown": "field" })
}

/// The target takes unknown fields from now on.
async fn loosen(target: &Http, index: &str) -> Result<()> {
    let path = format!("/{index}/_mapping");
    let dynamic = json!({ "dynamic": true });
    target.put_json(&path, &dynamic).await.map(drop)
}

async fn dlq(pipeline: &Pipeline, arguments: &[&str]) -> Result<Ended> {
    let url = pipeline.nats.url();
    run([&["dlq"], arguments, &["--nats-url", &url]].concat()).await
}

/// The letters as `dlq list --json` has them, by id.
async fn listed(pipeline: &Pipeline) -> Result<Vec<Value>> {
    let listed = dlq(pipeline, &["list", "--json"]).await?.success()?;
    let letters = listed.stdout.lines().map(serde_json::from_str);
    let mut letters: Vec<Value> = letters.collect::<Result<_, _>>()?;
    letters.sort_by_key(|letter| letter["id"].to_string());
    Ok(letters)
}

async fn until_parked(pipeline: &Pipeline, ids: &[&str]) -> Result<Vec<Value>> {
    let parked = async || {
        let letters = listed(pipeline).await.unwrap_or_default();
        letters
            .iter()
            .map(|letter| letter["id"].clone())
            .eq(ids.iter().map(|id| json!(id)))
    };
    let what = format!("the dead letters are those of {ids:?}");
    let waited = wait_until(&what, PATIENCE, parked).await;
    let letters = listed(pipeline).await?;
    waited.with_context(|| format!("{letters:#?}"))?;
    Ok(letters)
}

#[tokio::test]
async fn letters_vanish_with_later_changes_and_the_rest_is_replayed_once_the_target_takes_it()
-> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("letters");
    strict_index(&source_http, &target_http, &index).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let empty = dlq(&pipeline, &["list"]).await?.success()?;
    ensure!(
        empty.stdout.contains("there are no dead letters"),
        "{empty:?}"
    );
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    for n in 0..6 {
        put(&source_http, &index, &format!("bad{n}"), bad(n)).await?;
        put(&source_http, &index, &format!("good{n}"), json!({ "n": n })).await?;
    }
    let letters =
        until_parked(&pipeline, &["bad0", "bad1", "bad2", "bad3", "bad4", "bad5"]).await?;
    for letter in &letters {
        ensure!(
            letter["attempts"] == 1 && letter["index"] == index,
            "{letter}"
        );
    }

    // A table, and one letter whole.
    let table = dlq(
        &pipeline,
        &["--reason", "STRICT_dynamic", "--index", "e2e-*"],
    )
    .await?
    .success()?;
    for words in [
        "bad0",
        "es-writer",
        "6 dead letters",
        "6  strict_dynamic_mapping_exception",
    ] {
        ensure!(table.stdout.contains(words), "{words:?}: {}", table.stdout);
    }
    let shown = dlq(&pipeline, &["show", "--id", "bad3"]).await?.success()?;
    for words in [
        "bad3",
        "strict_dynamic_mapping_exception",
        r#""unknown":"field""#,
    ] {
        ensure!(shown.stdout.contains(words), "{words:?}: {}", shown.stdout);
    }
    dlq(&pipeline, &["show"])
        .await?
        .refused(1, &["6 dead letters", "--id"])?;
    dlq(&pipeline, &["show", "--id", "bad9"])
        .await?
        .refused(1, &["no dead letter", "bad9"])?;

    // One is deleted at the source, one is changed to what the target takes, one is removed by hand.
    delete(&source_http, &index, "bad0").await?;
    put(&source_http, &index, "bad1", json!({ "n": 10 })).await?;
    dlq(&pipeline, &["drop", "--id", "bad5"])
        .await?
        .refused(1, &["--yes", "1 dead letters"])?;
    dlq(&pipeline, &["drop", "--id", "bad5", "--yes"])
        .await?
        .success()?;
    until_parked(&pipeline, &["bad2", "bad3", "bad4"]).await?;
    wait_until(
        "the metric has the number of letters",
        PATIENCE,
        async || {
            let letters = writer.metric("syncline_writer_dead_letters").await;
            letters.is_ok_and(|letters| letters == 3.0)
        },
    )
    .await?;

    // Too early: refused again, and counted.
    let early = dlq(&pipeline, &["replay", "--wait"]).await?;
    early.refused(1, &["3 dead letters were refused again"])?;
    for letter in until_parked(&pipeline, &["bad2", "bad3", "bad4"]).await? {
        ensure!(letter["attempts"] == 2, "{letter}");
    }

    // In time, and across a restart of the writer.
    loosen(&target_http, &index).await?;
    writer.stop().await?;
    let writer = pipeline.writer()?;
    let replayed = dlq(&pipeline, &["replay", "--wait"]).await?.success()?;
    ensure!(
        replayed
            .stdout
            .contains("written: 3, refused again: 0, superseded by a newer change: 0"),
        "{replayed:?}"
    );
    until_parked(&pipeline, &[]).await?;
    put(&source_http, &index, "bad5", bad(50)).await?;
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    ensure!(writer.metric("syncline_writer_replays_total").await? == 3.0);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_letter_that_is_sent_again_behind_a_delete_brings_nothing_back() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("behind");
    strict_index(&source_http, &target_http, &index).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    for id in ["deleted", "changed", "kept"] {
        put(&source_http, &index, id, bad(1)).await?;
    }
    until_parked(&pipeline, &["changed", "deleted", "kept"]).await?;
    // The letters outlive what follows in the log, because nobody reads it.
    writer.stop().await?;
    delete(&source_http, &index, "deleted").await?;
    put(&source_http, &index, "changed", json!({ "n": 2 })).await?;
    let published = async || {
        watcher
            .metric("syncline_watcher_changes_total")
            .await
            .unwrap_or(0.0)
    };
    wait_until(
        "the log has the delete and the change",
        PATIENCE,
        async || published().await >= 5.0,
    )
    .await?;
    loosen(&target_http, &index).await?;
    let sent = dlq(&pipeline, &["replay"]).await?.success()?;
    for words in ["sent 3 dead letters", "es-writer", "not running"] {
        ensure!(sent.stdout.contains(words), "{words:?}: {}", sent.stdout);
    }
    // Twice: the second is behind the first.
    dlq(&pipeline, &["replay", "--id", "kept"])
        .await?
        .success()?;
    // One change a bulk: each is at the target, and forgotten there, before the next is looked at.
    let mut one_by_one = pipeline.writer_arguments("es-writer");
    one_by_one.extend(["--batch-size", "1", "--concurrency", "1"].map(str::to_owned));
    let writer = Program::start(one_by_one)?;
    let replays = async |outcome: &str| {
        let name = format!("syncline_writer_replays_total{{outcome=\"{outcome}\"}}");
        let page = writer.admin().await?.get_json("/metrics").await?;
        let page = page.as_str().unwrap_or_default().to_owned();
        let found = page
            .lines()
            .find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
        Ok::<f64, anyhow::Error>(found.unwrap_or(0.0))
    };
    wait_until("all four are answered for", PATIENCE, async || {
        writer
            .metric("syncline_writer_replays_total")
            .await
            .is_ok_and(|count| count == 4.0)
    })
    .await?;
    assert_equal(&source_http, &target_http, &index).await?;
    ensure!(replays("written").await? == 1.0 && replays("superseded").await? == 3.0);
    let documents = contents(&target_http, &index).await?;
    ensure!(documents.len() == 2, "{documents:?}");
    until_parked(&pipeline, &[]).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn a_letter_is_sent_again_to_the_target_that_refused_it_and_to_no_other() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("whose");
    strict_index(&source_http, &target_http, &index).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    // The other target takes everything.
    let lenient = SearchNode::shared(Product::Es7_17).await;
    lenient.url().clone_into(&mut pipeline.target);
    let other = Program::start(pipeline.writer_arguments("other"))?;
    put(&source_http, &index, "1", bad(1)).await?;
    let letters = until_parked(&pipeline, &["1"]).await?;
    ensure!(letters[0]["reader"] == "es-writer", "{letters:?}");
    until_equal(&source_http, &lenient.http(), &index, PATIENCE).await?;
    until_parked(&pipeline, &["1"]).await?;
    loosen(&target_http, &index).await?;
    let none = dlq(&pipeline, &["replay", "--reader", "other", "--wait"])
        .await?
        .success()?;
    ensure!(none.stdout.contains("nothing is sent"), "{none:?}");
    let replayed = dlq(&pipeline, &["replay", "--reader", "es-writer", "--wait"])
        .await?
        .success()?;
    ensure!(replayed.stdout.contains("written: 1"), "{replayed:?}");
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    ensure!(other.metric("syncline_writer_replays_total").await? == 0.0);
    for program in [watcher, writer, other] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_sent_again_is_said_and_can_be_removed() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("unfit");
    strict_index(&source_http, &target_http, &index).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    put(&source_http, &index, "1", bad(1)).await?;
    until_parked(&pipeline, &["1"]).await?;
    // Somebody publishes what nobody can read.
    let nats = async_nats::connect(pipeline.nats.url()).await?;
    let jetstream = async_nats::jetstream::new(nats);
    jetstream
        .publish("es.default.garbage.index", "hello".into())
        .await?
        .await?;
    wait_until("there are two letters", PATIENCE, async || {
        listed(&pipeline)
            .await
            .is_ok_and(|letters| letters.len() == 2)
    })
    .await?;
    let shown = dlq(&pipeline, &["show", "--reason", "Syncline-Format"])
        .await?
        .success()?;
    ensure!(shown.stdout.contains("hello"), "{shown:?}");
    let unfit = dlq(&pipeline, &["replay", "--reason", "Syncline-Format"])
        .await?
        .success()?;
    ensure!(unfit.stdout.contains("1 cannot be sent again"), "{unfit:?}");
    writer.stop().await?;
    watcher.stop().await?;
    let url = pipeline.nats.url();
    run(["readers", "forget", "es-writer", "--nats-url", &url])
        .await?
        .success()?;
    let gone = dlq(&pipeline, &["replay"]).await?;
    gone.refused(
        1,
        &[
            "no such reader",
            "--consumer es-writer",
            "dlq drop --reader es-writer",
        ],
    )?;
    dlq(&pipeline, &["drop", "--reader", "es-writer", "--yes"])
        .await?
        .success()?;
    ensure!(listed(&pipeline).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn whoever_waits_learns_the_outcome_although_the_writer_may_not_answer() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("silent");
    strict_index(&source_http, &target_http, &index).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let config = "no_auth_user: all, authorization { users: [ { user: all, password: p }, \
                  { user: silent, password: p, permissions: { publish: { deny: \"_INBOX.>\" } } } ] }";
    pipeline.nats = NatsServer::start(NatsOptions {
        config: config.to_owned(),
        ..NatsOptions::default()
    })
    .await?;
    let mut silent = pipeline.writer_arguments("es-writer");
    silent.extend(["--nats-user", "silent", "--nats-password", "p"].map(str::to_owned));
    let (watcher, writer) = (pipeline.watcher()?, Program::start(silent)?);
    for id in ["1", "2"] {
        put(&source_http, &index, id, bad(1)).await?;
    }
    until_parked(&pipeline, &["1", "2"]).await?;
    let refused = dlq(&pipeline, &["replay", "--wait"]).await?;
    refused.refused(1, &["2 dead letters were refused again"])?;
    loosen(&target_http, &index).await?;
    let settled = dlq(&pipeline, &["replay", "--wait"]).await?.success()?;
    ensure!(
        settled
            .stdout
            .contains("2 are settled, written or superseded"),
        "{settled:?}"
    );
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}
