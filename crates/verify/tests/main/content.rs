//! By content.

use std::time::Instant;

use anyhow::Result;
use model::IndexName;
use serde_json::{Value, json};
use testkit::{Product, process::Usage};
use verify::{Repair, VerifyError, VerifyOptions};

use crate::support::{Pair, counts, documents, ids, index, options};

#[tokio::test]
async fn equal_documents_are_equal_in_other_shards_and_written_in_another_way() -> Result<()> {
    let targets = testkit::matrix().into_iter().filter(|p| *p != Product::Es8);
    for (source, target) in targets.map(|target| (Product::Es8, target)) {
        let pair = Pair::new(source, target).await?;
        pair.create((3, 2)).await?;
        pair.both(&documents(3_000)).await?;
        // Deleted and written again, so that the histories differ.
        pair.bulk(&pair.at_target, "{\"delete\":{\"_id\":\"a b/é?#1\"}}\n")
            .await?;
        pair.bulk(&pair.at_target, &documents(20)).await?;
        let one = index("twin", Some("r1"), r#"{"a":1,"b":["1","\u00e9"]}"#);
        pair.bulk(&pair.at_source, &one).await?;
        let other = index("twin", Some("r1"), r#"{ "b": ["1", "é"], "a":1.0}"#);
        pair.bulk(&pair.at_target, &other).await?;
        let report = pair.verify().await?;
        assert!(report.equal() && report.exact, "{target}: {report}");
        assert_eq!(
            (report.documents_source, report.documents_target),
            (3_001, 3_001)
        );

        let rewritten = documents(3_000).replace("\"y\":1.50", "\"y\": 15e-1");
        pair.bulk(&pair.at_target, &rewritten).await?;
        let options = VerifyOptions {
            memory: 10,
            ..options()
        };
        let report = pair.verify_with(&options).await?;
        assert!(report.equal() && report.exact, "{target}: {report}");
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_named() -> Result<()> {
    for (source, target) in [
        (Product::Es7_17, Product::Os2),
        (Product::Os2, Product::Es8),
    ] {
        let pair = Pair::new(source, target).await?;
        pair.create((2, 5)).await?;
        pair.both(&documents(2_000)).await?;
        let apart = pair.apart_from("r1").await?;
        let big = |n: u32| format!("{{\"big\":1234567890123456789012345678{n},\"w\":[1,2]}}");
        let at_source = [
            index("only/ source é", Some("q"), "{}"),
            index("changed", None, &big(1)),
            index("moved", Some("r1"), "{}"),
            index("unrouted", None, "{}"),
            index("twin", Some("r1"), "{\"a\":1}"),
            index("twin", Some(&apart), "{\"a\":2}"),
        ];
        let at_target = [
            index("only target", None, "{}"),
            index("changed", None, &big(2)),
            index("moved", Some("r2"), "{}"),
            index("unrouted", Some(&apart), "{}"),
            index("twin", Some("r1"), "{\"a\":1}"),
            index("twin", Some(&apart), "{\"a\":1}"),
        ];
        pair.bulk(&pair.at_source, &at_source.concat()).await?;
        pair.bulk(&pair.at_target, &at_target.concat()).await?;
        let report = pair.verify().await?;
        assert_eq!(ids(&report.missing.listed), ["only/ source é"]);
        assert_eq!(report.missing.listed[0].routing.as_deref(), Some("q"));
        assert_eq!(ids(&report.extra.listed), ["only target"]);
        let misrouted = report.misrouted.listed.iter();
        let mut misrouted: Vec<_> = misrouted
            .map(|m| (m.id.as_str(), m.source.as_deref(), m.target.as_deref()))
            .collect();
        misrouted.sort_unstable();
        let expected = [
            ("moved", Some("r1"), Some("r2")),
            ("unrouted", None, Some(apart.as_str())),
        ];
        assert_eq!(misrouted, expected);
        let mut different: Vec<_> = report
            .different
            .listed
            .iter()
            .map(|d| (d.id.as_str(), d.routing.as_deref()))
            .collect();
        different.sort_unstable();
        assert_eq!(
            different,
            [("changed", None), ("twin", Some(apart.as_str()))]
        );
        let changed = report
            .different
            .listed
            .iter()
            .find(|d| d.id == "changed")
            .unwrap();
        let diff = changed.diff.as_deref().unwrap();
        assert!(
            diff.contains("-  \"big\": 12345678901234567890123456781"),
            "{diff}"
        );
        assert!(
            diff.contains("+  \"big\": 12345678901234567890123456782"),
            "{diff}"
        );
        assert!(report.exact && !report.equal());
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_no_translog_has_synced_yet_is_compared_too() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 2)).await?;
    for http in [&pair.at_source, &pair.at_target] {
        let lazily =
            json!({"index": {"translog.durability": "async", "translog.sync_interval": "1h"}});
        http.post_json(&format!("/{}/_close", pair.index), &Value::Null)
            .await?;
        http.put_json(&format!("/{}/_settings", pair.index), &lazily)
            .await?;
        http.post_json(&format!("/{}/_open", pair.index), &Value::Null)
            .await?;
    }
    pair.both(&documents(200)).await?;
    let standing = pair.source.shard_stats(&[&pair.index]).await?;
    assert!(standing[0].global_checkpoint < 199, "{standing:?}");
    pair.bulk(&pair.at_source, &index("changed", None, "{}"))
        .await?;
    pair.bulk(&pair.at_target, &index("changed", None, "{\"a\":1}"))
        .await?;
    let report = pair.verify().await?;
    assert_eq!(
        (report.documents_source, report.documents_target),
        (201, 201)
    );
    assert_eq!(counts(&report), (0, 0, 1, 0));
    pair.delete().await
}

#[tokio::test]
async fn another_routing_is_found_though_it_leads_to_the_same_shard() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.bulk(&pair.at_source, &index("moved", Some("r1"), "{}"))
        .await?;
    pair.bulk(&pair.at_target, &index("moved", Some("r2"), "{}"))
        .await?;
    let report = pair.verify().await?;
    assert_eq!(counts(&report), (0, 0, 0, 1));
    pair.delete().await
}

#[tokio::test]
async fn a_change_in_one_place_is_found_in_little_memory_and_lists_are_cut() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 3)).await?;
    pair.both(&documents(5_000)).await?;
    let changed: String = (0..40)
        .map(|n| index(&format!("new {n}"), None, "{}"))
        .collect();
    pair.bulk(&pair.at_source, &changed).await?;
    let options = VerifyOptions {
        memory: 10,
        limit: 5,
        readers: 1,
        ..options()
    };
    let report = pair.verify_with(&options).await?;
    assert_eq!((counts(&report), report.exact), ((40, 0, 0, 0), false));
    assert!(report.missing.listed.len() == 5);
    let report = pair.verify().await?;
    assert_eq!((counts(&report), report.exact), ((40, 0, 0, 0), true));
    assert_eq!(report.missing.listed.len(), 40);
    pair.delete().await
}

#[tokio::test]
async fn a_missing_target_lacks_every_document_and_a_missing_source_is_an_error() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    let error = pair.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::NoIndex { .. }), "{error}");
    pair.create((2, 2)).await?;
    pair.both(&documents(1_500)).await?;
    pair.target.delete_index(&pair.index).await?;
    let report = pair.verify().await?;
    assert!(!report.target_exists && !report.exact && !report.equal());
    assert_eq!(counts(&report), (1_500, 0, 0, 0));
    assert_eq!(report.missing.listed.len(), 1_000);
    pair.source.delete_index(&pair.index).await?;

    let aliased = json!({"aliases": {pair.index.as_str(): {}}});
    pair.at_source
        .put_json(&format!("/{}-1", pair.index), &aliased)
        .await?;
    let error = pair.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::Alias { .. }), "{error}");
    pair.source
        .delete_index(&IndexName::try_from(format!("{}-1", pair.index))?)
        .await?;

    pair.create((1, 1)).await?;
    let report = pair.verify().await?;
    assert!(report.equal() && report.documents_source == 0);
    pair.at_target
        .post_json(&format!("/{}/_close", pair.index), &Value::Null)
        .await?;
    let error = pair.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::Unreadable { .. }), "{error}");
    pair.delete().await
}

/// Not a test: prints what a comparison costs beside a bare read of one side.
/// `cargo test --release -p verify --test main -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_a_comparison_of_flights_costs() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((2, 1)).await?;
    let mut documents = 0;
    for body in testkit::datasets::Dataset::Flights.bulk_bodies(5 << 20)? {
        let body = body?;
        pair.both(&body.body).await?;
        documents += body.documents;
    }
    pair.source.refresh(&pair.index).await?;
    for round in 0..3 {
        testkit::process::reset_peak_resident(std::process::id())?;
        let started = (Instant::now(), Usage::of_this_process()?);
        pair.read_bare().await?;
        let bare = (
            started.0.elapsed(),
            Usage::of_this_process()?.since(&started.1),
        );
        let started = (Instant::now(), Usage::of_this_process()?);
        let report = pair.verify().await?;
        let took = (
            started.0.elapsed(),
            Usage::of_this_process()?.since(&started.1),
        );
        assert!(report.equal() && report.documents_source == documents as u64);
        for (what, sides, (time, usage)) in [("read", 1, bare), ("verify", 2, took)] {
            let read = documents as f64 * f64::from(sides);
            println!(
                "round {round}: {what}: {:.0} documents/s, {:.2} us CPU a document, peak {} MB",
                read / time.as_secs_f64(),
                usage.cpu().as_secs_f64() * 1e6 / read,
                usage.peak_resident >> 20,
            );
        }
    }
    pair.delete().await
}

#[tokio::test]
async fn what_is_only_not_refreshed_settles_at_the_second_look() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.both(&documents(100)).await?;
    pair.source.refresh(&pair.index).await?;
    let options = VerifyOptions {
        refresh: false,
        ..options()
    };
    let report = pair.verify_with(&options).await?;
    assert!(report.equal() && report.exact, "{report}");
    assert_eq!(
        (report.documents_source, report.settled_meanwhile),
        (100, 100)
    );
    pair.delete().await
}

#[tokio::test]
async fn what_only_the_target_has_is_deleted_on_request_and_nothing_else() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((2, 3)).await?;
    let line = |id: &str, routing: Option<&str>, body: &str| {
        let mut meta = json!({ "_id": id });
        if let Some(routing) = routing {
            meta["routing"] = routing.into();
        }
        format!("{}\n{body}\n", json!({ "index": meta }))
    };
    let both: String = (0..500)
        .map(|n| line(&format!("both {n}"), None, "{}"))
        .collect();
    pair.both(&both).await?;
    // More than are ever listed, some with a routing, and one whose namesake has another.
    let mut extra: String = (0..3000)
        .map(|n| line(&format!("extra {n}"), (n % 3 == 0).then_some("r"), "{}"))
        .collect();
    extra += &line("namesake", Some("there"), "{}");
    extra += &line("different", None, "{\"n\":[]}");
    pair.bulk(&pair.at_target, &extra).await?;
    let source = line("namesake", Some("here"), "{}")
        + &line("different", None, "{\"big\":1}")
        + &line("missing", None, "{}");
    pair.bulk(&pair.at_source, &source).await?;
    let options = VerifyOptions {
        limit: 10,
        repair: Repair::Extra,
        memory: 1000,
        ..options()
    };
    let report = pair.verify_with(&options).await?;
    assert_eq!(
        (report.extra.count, report.repaired.deleted),
        (3000, 3001),
        "{report}"
    );
    assert!(!report.equal(), "the rest is left as it is: {report}");
    let report = pair.verify().await?;
    let left = (
        report.missing.count,
        report.extra.count,
        report.different.count,
    );
    assert_eq!(left, (2, 0, 1), "{report}");
    pair.delete().await
}
