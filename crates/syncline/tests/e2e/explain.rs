//! The trail of one document.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run, text},
};

#[tokio::test]
async fn the_way_of_a_document_is_told_wherever_it_is() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("explain");
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let explain = async |id: &str, more: &[&str]| {
        let (from, to, nats) = (source.url(), target.url(), pipeline.nats.url());
        let folder = text(&pipeline.checkpoint_path("watcher"));
        let flags = ["--source", &from, "--target", &to, "--nats-url", &nats];
        let flags = [&flags[..], &["--checkpoint-path", &folder]].concat();
        let ended = run([&["explain", &index, id], &flags[..], more].concat()).await?;
        Ok::<String, anyhow::Error>(ended.success()?.stdout)
    };
    let says = |said: &str, words: &[&str]| {
        for word in words {
            ensure!(said.contains(word), "{word:?} is not said: {said}");
        }
        Ok(())
    };
    says(
        &explain("1", &[]).await?,
        &[
            "ledger  there is none in",
            "there is no stream",
            "neither side has it",
        ],
    )?;

    let strict =
        json!({ "mappings": { "dynamic": "strict", "properties": { "n": { "type": "long" } } } });
    let one_shard = json!({ "settings": { "number_of_shards": 1, "number_of_replicas": 0 } });
    source_http
        .put_json(&format!("/{index}"), &one_shard)
        .await?;
    target_http.put_json(&format!("/{index}"), &strict).await?;
    let path = |id: &str| format!("/{index}/_doc/{id}");
    for id in ["1", "2", "gone"] {
        source_http.put_json(&path(id), &json!({ "n": 1 })).await?;
    }
    let routed = format!("/{index}/_doc/routed?routing=de");
    source_http.put_json(&routed, &json!({ "n": 1 })).await?;
    let said = explain("1", &[]).await?;
    says(
        &said,
        &[
            "_seq_no 0, _primary_term 1, _version 1, shard 0",
            "has not published it yet",
        ],
    )?;

    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    says(
        &explain("1", &[]).await?,
        &[
            "ledger  shard 0 (epoch 0), read up to ",
            ": known at _seq_no 0\n",
            "version 0 (epoch 0, _seq_no 0)",
            "reader  es-writer",
            "equal: ",
        ],
    )?;
    says(
        &explain("routed", &[]).await?,
        &[
            "written with the routing \"de\"",
            "neither side has it",
            "--routing de",
        ],
    )?;
    let json: serde_json::Value = serde_json::from_str(&explain("1", &["--json"]).await?)?;
    ensure!(
        json["conclusion"]["state"] == "equal"
            && json["ledger"]["histories"][0]["seq_no"] == 0
            && json["ledger"]["histories"][0]["current"] == true,
        "{json:#}"
    );
    says(
        &explain("routed", &["--routing", "de"]).await?,
        &["equal: "],
    )?;

    source_http
        .put_json(&path("bad"), &json!({ "n": 1, "unknown": 1 }))
        .await?;
    writer.says(&["goes to the dead letters"]).await?;
    says(
        &explain("bad", &[]).await?,
        &[
            "letter  of reader es-writer",
            "dead letter: ",
            "strict_dynamic_mapping",
        ],
    )?;

    writer.stop().await?;
    source_http.put_json(&path("1"), &json!({ "n": 2 })).await?;
    let published = async || watcher.metric("syncline_watcher_changes_total").await;
    testkit::wait_until("the log has the change", PATIENCE, async || {
        published().await.is_ok_and(|changes| changes >= 6.0)
    })
    .await?;
    let said = explain("1", &[]).await?;
    says(
        &said,
        &[
            "update at version 5 (epoch 0, _seq_no 5)",
            "not running",
            "on its way: its newest change is message",
            "behind by",
        ],
    )?;
    says(
        &explain("1", &["--messages", "1"]).await?,
        &["older ones were not looked at"],
    )?;
    watcher.stop().await?;
    let writer: Program = pipeline.writer()?;
    until_equal_but_for_the_bad(&source_http, &target_http, &index).await?;
    writer.stop().await?;

    target_http
        .put_json(
            &format!("{}?version=99&version_type=external", path("2")),
            &json!({ "n": 3 }),
        )
        .await?;
    says(
        &explain("2", &[]).await?,
        &["version 99 (epoch 0, _seq_no 99)", "somebody else wrote it"],
    )?;
    source_http.delete(&path("gone")).await?;
    says(
        &explain("gone", &[]).await?,
        &[
            "source  not found",
            "deleted at the source, and the delete is not found yet",
            "the watcher still knows the document",
        ],
    )?;
    target_http
        .put_json(&path("ghost"), &json!({ "n": 3 }))
        .await?;
    says(
        &explain("ghost", &[]).await?,
        &[": not known\n", "--delete-extra"],
    )?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    testkit::wait_until("the delete is at the target", PATIENCE, async || {
        target_http.get_json(&path("gone")).await.is_err()
    })
    .await?;
    // The ledger forgets it once the log has its delete for certain, which may be after the target has it.
    testkit::wait_until("the ledger has forgotten it", PATIENCE, async || {
        let told = explain("gone", &[]).await;
        told.is_ok_and(|told| told.contains("it stood at _seq_no 2; its delete was published"))
    })
    .await?;
    // Another index of the name: what the old one had is not what there is.
    source_http.delete(&format!("/{index}")).await?;
    source_http
        .put_json(&format!("/{index}"), &one_shard)
        .await?;
    source_http
        .put_json(&path("new"), &json!({ "n": 1 }))
        .await?;
    testkit::wait_until("the new index is at the target", PATIENCE, async || {
        target_http.get_json(&path("new")).await.is_ok()
    })
    .await?;
    says(
        &explain("new", &[]).await?,
        &["(epoch 1), read up to 0: known at _seq_no 0", "equal: "],
    )?;
    watcher.stop().await?;
    writer.stop().await
}

/// The ledger is written all the time: journal and tables change places, entries are forgotten.
#[tokio::test]
async fn the_ledger_of_a_busy_watcher_is_read_without_disturbing_it() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("explain-busy");
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.of_watcher = ["--deletes", "100ms"].map(str::to_owned).into();
    corpus::create(&source_http, &index, 1, false).await?;
    corpus::index_numbers(&source_http, &index, 0..200, 0).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    let (from, to) = (source.url(), target.url());
    let folder = text(&pipeline.checkpoint_path("watcher"));
    let load = async {
        for round in 1..=12 {
            corpus::index_numbers(&source_http, &index, 100 * round..100 * round + 300, round)
                .await?;
            let below = json!({ "range": { "number": { "gte": 1, "lt": 100 * round } } });
            corpus::delete_by_query(&source_http, &index, below).await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let asking = async {
        for _ in 0..12 {
            let flags = [
                "--source",
                &from,
                "--target",
                &to,
                "--checkpoint-path",
                &folder,
            ];
            let asked = run([&["explain", &index, "0", "--json"], &flags[..]].concat()).await?;
            let said: serde_json::Value = serde_json::from_str(&asked.success()?.stdout)?;
            ensure!(said["ledger"]["histories"][0]["seq_no"] == 0, "{said:#}");
        }
        Ok(())
    };
    tokio::try_join!(load, asking)?;
    until_equal(&source_http, &target_http, &index, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

/// Waits until the last change is there; one document never comes.
async fn until_equal_but_for_the_bad(
    source: &testkit::Http,
    target: &testkit::Http,
    index: &str,
) -> Result<()> {
    let path = format!("/{index}/_doc/1");
    let wanted = source.get_json(&path).await?["_source"].clone();
    testkit::wait_until("the change is at the target", PATIENCE, async || {
        target
            .get_json(&path)
            .await
            .is_ok_and(|found| found["_source"] == wanted)
    })
    .await
}
