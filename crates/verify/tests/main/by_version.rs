//! By version: no document is read.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use model::IndexName;
use serde_json::json;
use testkit::Product;
use verify::{By, Changes, Pass, Progress, VerifyError, VerifyOptions};

use crate::support::{Pair, counts, documents, ids, index, options};

/// By positions however few documents there are, and by ids however many.
fn both_ways() -> [VerifyOptions; 2] {
    [0, u64::MAX].map(|many| VerifyOptions {
        by: By::Version,
        many,
        ..options()
    })
}

#[tokio::test]
async fn what_has_arrived_is_equal_and_what_has_not_is_named_on_every_server() -> Result<()> {
    let matrix = testkit::matrix();
    let pairs = matrix.iter().zip(matrix.iter().cycle().skip(1));
    for (at, (source, target)) in pairs.enumerate() {
        let pair = Pair::new(*source, *target).await?;
        // As many shards on both sides, and not.
        pair.create((2, 2 + at as u32 % 2)).await?;
        pair.bulk(&pair.at_source, &documents(2_500)).await?;
        pair.bulk(&pair.at_source, &index("stale", Some("r"), "{}"))
            .await?;
        pair.bulk(&pair.at_source, &index("gone", None, "{}"))
            .await?;
        pair.copy(1, |id| id != "a b/é?#7").await?;
        for options in both_ways() {
            let report = pair.verify_with(&options).await?;
            assert_eq!(counts(&report), (1, 0, 0, 0), "{target}: {report}");
        }
        pair.copy(1, |_| true).await?;
        for options in both_ways() {
            let report = pair.verify_with(&options).await?;
            assert!(
                report.equal() && report.exact,
                "{source} {target}: {report}"
            );
            assert_eq!(report.documents_target, 2_502);
            assert_eq!(report.bytes, 0);
        }
        let stale = index("stale", Some("r"), "{\"a\":1}");
        pair.bulk(&pair.at_source, &stale).await?;
        pair.bulk(&pair.at_source, "{\"delete\":{\"_id\":\"gone\"}}\n")
            .await?;
        let moved = index("moved", Some("r1"), "{}");
        pair.bulk(&pair.at_source, &moved).await?;
        let moved = index("moved", Some(&pair.apart_from("r1").await?), "{}");
        pair.bulk(&pair.at_target, &moved).await?;
        for options in both_ways() {
            let report = pair.verify_with(&options).await?;
            assert_eq!(counts(&report), (0, 1, 1, 1), "{target}: {report}");
            assert_eq!(ids(&report.extra.listed), ["gone"]);
            let stale = &report.different.listed[0];
            assert_eq!(
                (stale.id.as_str(), stale.routing.as_deref()),
                ("stale", Some("r"))
            );
            let Some(Changes {
                source,
                target,
                epoch,
            }) = stale.changes
            else {
                panic!("no versions: {report}")
            };
            assert!(source > target && epoch == 1, "{report}");
        }
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_document_of_another_epoch_is_different() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((2, 2)).await?;
    pair.bulk(&pair.at_source, &documents(200)).await?;
    pair.copy(4, |_| true).await?;
    pair.copy(5, |id| id != "a b/é?#100").await?;
    for options in both_ways() {
        let report = pair.verify_with(&options).await?;
        assert_eq!(counts(&report), (0, 0, 1, 0));
        let different = &report.different.listed[0];
        let changes = different.changes.unwrap();
        assert_eq!(different.id, "a b/é?#100");
        assert_eq!((changes.source, changes.epoch), (changes.target, 4));
    }
    pair.delete().await
}

#[tokio::test]
async fn a_target_with_versions_of_its_own_is_recognised() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((2, 2)).await?;
    pair.both(&documents(500)).await?;
    for options in both_ways() {
        let error = pair.verify_with(&options).await.unwrap_err();
        assert!(matches!(error, VerifyError::ForeignVersions { .. }));
        assert!(error.to_string().contains("--by content"), "{error}");
    }
    assert!(pair.verify().await?.equal());
    pair.delete().await
}

#[tokio::test]
async fn what_was_edited_under_its_version_is_seen_by_content_only() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.bulk(&pair.at_source, &index("x", None, "{}")).await?;
    pair.copy(0, |_| true).await?;
    let path = format!(
        "/{}/_doc/x?version={}&version_type=external_gte",
        pair.index,
        pair.version("x").await?
    );
    pair.at_target.put_json(&path, &json!({"a": 1})).await?;
    for options in both_ways() {
        assert!(pair.verify_with(&options).await?.equal());
    }
    assert_eq!(counts(&pair.verify().await?), (0, 0, 1, 0));
    pair.delete().await
}

/// Why both sides were read.
#[derive(Default)]
struct Passes(Mutex<Vec<Pass>>);

impl Progress for Passes {
    fn begin(&self, _: &IndexName, pass: Pass, _: u64) {
        self.0.lock().unwrap().push(pass);
    }
}

#[tokio::test]
async fn shards_that_are_as_many_and_routed_otherwise_are_compared_by_ids() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    for (http, routing_shards) in [(&pair.at_source, 1024), (&pair.at_target, 3)] {
        let body = json!({
            "settings": {
                "number_of_shards": 3, "number_of_routing_shards": routing_shards * 3,
                "number_of_replicas": 0, "refresh_interval": -1,
            },
        });
        http.put_json(&format!("/{}", pair.index), &body).await?;
    }
    for chunk in 0..3i64 {
        let ids = chunk * 5_000..(chunk + 1) * 5_000;
        let lines: String = ids.map(|n| index(&n.to_string(), None, "{}")).collect();
        pair.bulk(&pair.at_source, &lines).await?;
        // The shards are not filled evenly.
        let after = (chunk * 5_000 / 3 - 500).max(-1);
        pair.copy_since(after, 0, |_| true).await?;
    }
    for options in both_ways() {
        let passes = Arc::new(Passes::default());
        let report = pair.verify_watched(&options, passes.clone()).await?;
        assert!(
            report.equal() && report.documents_target == 15_000,
            "{report}"
        );
        // Without the switch each of them would be looked into.
        let passes = passes.0.lock().unwrap().clone();
        assert!(
            passes.iter().all(|pass| *pass == Pass::Compare),
            "{passes:?}"
        );
    }
    pair.delete().await
}
