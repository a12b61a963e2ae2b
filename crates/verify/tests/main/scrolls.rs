//! Whole documents are read by scrolls, which can be lost and must not be left behind.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::{Http, NodeOptions, Product, SearchNode, wait_until};
use tokio::sync::Notify;
use verify::{Progress, Side, VerifyError, VerifyOptions};

use crate::support::{Pair, counts, index, options};

const WITHIN: Duration = Duration::from_secs(60);

/// Every index is large, and a page has so many documents at most.
fn scrolling(page: Option<u64>) -> VerifyOptions {
    VerifyOptions {
        many: 0,
        max_rate: page.and_then(NonZeroU64::new),
        ..options()
    }
}

/// Documents of a kilobyte, of which about a thousand make a page.
fn kilobytes(name: &str, count: usize) -> String {
    let filler = "x".repeat(1_000);
    (0..count)
        .map(|n| {
            let source = json!({ "big": [n, filler] }).to_string();
            index(&format!("{name}{n}"), None, &source)
        })
        .collect()
}

/// How many scrolls over an index were opened, and how many are open.
async fn scrolls(http: &Http, index: &str) -> Result<(u64, u64)> {
    let stats = http.get_json(&format!("/{index}/_stats/search")).await?;
    let search = &stats["_all"]["total"]["search"];
    let number = |name: &str| search[name].as_u64().context("no statistics of scrolls");
    Ok((number("scroll_total")?, number("scroll_current")?))
}

/// Says when the first page of the source was read, and how many documents were in all.
#[derive(Default)]
struct Reading {
    begun: Notify,
    documents: AtomicU64,
}

impl Progress for Reading {
    fn advance(&self, side: Side, documents: u64, _: u64) {
        if side == Side::Source {
            self.documents.fetch_add(documents, Ordering::Relaxed);
            self.begun.notify_one();
        }
    }
}

#[tokio::test]
async fn every_document_is_read_once_beside_deletes_and_writes() -> Result<()> {
    for (source, target) in [
        (Product::Es7_17, Product::Os2),
        (Product::Es8, Product::Os3),
    ] {
        let pair = Pair::new(source, target).await?;
        pair.create((3, 2)).await?;
        pair.both(&kilobytes("kept", 6_000)).await?;
        // Other places in the segments on the two sides, and holes in them.
        pair.bulk(&pair.at_source, &kilobytes("gone", 500)).await?;
        pair.bulk(&pair.at_target, &kilobytes("kept", 700)).await?;
        let deletes: String = (0..500)
            .map(|n| json!({ "delete": { "_id": format!("gone{n}") } }).to_string() + "\n")
            .collect();
        pair.bulk(&pair.at_source, &deletes).await?;
        let deletes: String = (0..6_000)
            .step_by(10)
            .map(|n| json!({ "delete": { "_id": format!("kept{n}") } }).to_string() + "\n")
            .collect();
        pair.both(&deletes).await?;
        let report = pair.verify_with(&scrolling(None)).await?;
        assert!(report.equal(), "{report}");
        assert_eq!(
            (report.documents_source, report.documents_target),
            (5_400, 5_400)
        );

        // New documents and new versions of the first hundred, on both sides, until it is done.
        let write = async {
            for n in 0.. {
                let changed = kilobytes("kept", 100);
                let new = index(&format!("new{n}"), None, "{}");
                pair.both(&(changed + &new)).await?;
            }
            anyhow::Ok(())
        };
        let options = VerifyOptions {
            lag: Duration::from_secs(2),
            ..scrolling(None)
        };
        let report = tokio::select! {
            report = pair.verify_with(&options) => report?,
            ended = write => panic!("{ended:?}"),
        };
        assert_eq!(counts(&report), (0, 0, 0, 0), "{report}");
        assert!(report.documents_source >= 5_300, "{report}");
        for http in [&pair.at_source, &pair.at_target] {
            let (opened, open) = scrolls(http, pair.index.as_str()).await?;
            assert!(opened >= 4 && open == 0, "{opened} opened, {open} open");
        }
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_part_whose_scroll_is_lost_is_read_again() -> Result<()> {
    // All scrolls of the source are lost, and no other test counts those that are open at this one.
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((1, 2)).await?;
    pair.both(&kilobytes("a", 2_000)).await?;
    pair.bulk(&pair.at_target, &index("a7", None, "{}")).await?;
    let reading = Arc::new(Reading::default());
    let name = pair.index.as_str();
    let lose = async {
        // Twice: then the part is read in windows.
        for nth in 1..=2 {
            let is_open = async || {
                scrolls(&pair.at_source, name)
                    .await
                    .is_ok_and(|s| s == (nth - 1, 1))
            };
            wait_until("the scroll is open", WITHIN, is_open).await?;
            pair.at_source.delete("/_search/scroll/_all").await?;
        }
        anyhow::Ok(())
    };
    let options = scrolling(Some(500));
    let (report, lost) = tokio::join!(pair.verify_watched(&options, reading.clone()), lose);
    lost?;
    let report = report?;
    assert_eq!(counts(&report), (0, 0, 1, 0), "{report}");
    assert_eq!(
        (report.documents_source, report.documents_target),
        (2_000, 2_000)
    );
    // Two passes, and what was thrown away.
    let read = reading.documents.load(Ordering::Relaxed);
    assert!(read > 4_000, "{read} documents were read");
    assert_eq!(scrolls(&pair.at_source, pair.index.as_str()).await?.1, 0);
    pair.delete().await
}

#[tokio::test]
async fn a_comparison_that_fails_leaves_no_scroll_open() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((2, 1)).await?;
    pair.both(&kilobytes("a", 3_000)).await?;
    let reading = Arc::new(Reading::default());
    let options = scrolling(Some(500));
    let (report, deleted) = tokio::join!(pair.verify_watched(&options, reading.clone()), async {
        reading.begun.notified().await;
        let (_, open) = scrolls(&pair.at_source, pair.index.as_str()).await?;
        pair.target.delete_index(&pair.index).await?;
        anyhow::Ok(open)
    });
    assert!(deleted? > 0);
    let error = report.unwrap_err();
    assert!(matches!(error, VerifyError::Replaced { .. }), "{error}");
    assert!(reading.documents.load(Ordering::Relaxed) < 3_000);
    assert_eq!(scrolls(&pair.at_source, pair.index.as_str()).await?.1, 0);
    pair.source.delete_index(&pair.index).await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_opens_no_scroll_is_read_by_sequence_number() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    // Of its own, because the setting is the cluster's.
    let node = SearchNode::start_with(Product::Os2, NodeOptions::default()).await?;
    let pair = pair.with_source(&node).await?;
    let limit = |limit: Value| json!({ "transient": { "search.max_open_scroll_context": limit } });
    pair.at_source
        .put_json("/_cluster/settings", &limit(json!(0)))
        .await?;
    pair.create((2, 1)).await?;
    pair.both(&kilobytes("a", 3_000)).await?;
    pair.bulk(&pair.at_target, &index("a7", None, "{}")).await?;
    let report = pair.verify_with(&scrolling(None)).await?;
    assert_eq!(counts(&report), (0, 0, 1, 0), "{report}");
    assert_eq!(scrolls(&pair.at_source, pair.index.as_str()).await?, (0, 0));
    pair.delete().await
}
