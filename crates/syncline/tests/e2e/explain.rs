//! The trail of one document.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{index_name, nodes};
use crate::support::{
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run},
};

#[tokio::test]
async fn the_way_of_a_document_is_told_wherever_it_is() -> Result<()> {
    let (source, target) = nodes().await;
    let (source_http, target_http) = (source.http(), target.http());
    let index = index_name("explain");
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let explain = async |id: &str, more: &[&str]| {
        let (from, to, nats) = (source.url(), target.url(), pipeline.nats.url());
        let flags = ["--source", &from, "--target", &to, "--nats-url", &nats];
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
        &["there is no stream", "neither side has it"],
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
            "version 0 (epoch 0, _seq_no 0)",
            "reader  es-writer",
            "equal: ",
        ],
    )?;
    says(
        &explain("routed", &[]).await?,
        &["neither side has it", "--routing"],
    )?;
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
        ],
    )
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
