//! Comparisons of real clusters of two products.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;

use anyhow::Result;
use model::IndexName;
use search::{Client, ClientConfig};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode};
use verify::{IndexReport, Progress, VerifyError, VerifyOptions};

/// Two clusters, and an index name that nobody else has.
struct Pair {
    source: Client,
    target: Client,
    at_source: Http,
    at_target: Http,
    index: IndexName,
}

impl Pair {
    async fn new(source: Product, target: Product) -> Result<Pair> {
        let (source, target) = (SearchNode::shared(source).await, SearchNode::shared(target).await);
        let client = async |node: &SearchNode| {
            Client::connect(&ClientConfig::new(vec![node.url().parse().unwrap()])).await
        };
        Ok(Pair {
            source: client(source).await?,
            target: client(target).await?,
            at_source: source.http(),
            at_target: target.http(),
            index: IndexName::try_from(testkit::unique_name("verify"))?,
        })
    }

    /// Makes the index on both sides with so many shards.
    async fn create(&self, shards: (u32, u32)) -> Result<()> {
        for (http, shards) in [(&self.at_source, shards.0), (&self.at_target, shards.1)] {
            let body = json!({
                "settings": {"number_of_shards": shards, "number_of_replicas": 0, "refresh_interval": -1},
                "mappings": {"properties": {
                    "n": {"type": "nested"},
                    // Not indexed, so that any JSON is taken.
                    "big": {"type": "object", "enabled": false}
                }}
            });
            http.put_json(&format!("/{}", self.index), &body).await?;
        }
        Ok(())
    }

    async fn bulk(&self, http: &Http, lines: &str) -> Result<()> {
        let path = format!("/{}/_bulk", self.index);
        http.post_ndjson(&path, lines.to_owned()).await.map(drop)
    }

    async fn both(&self, lines: &str) -> Result<()> {
        self.bulk(&self.at_source, lines).await?;
        self.bulk(&self.at_target, lines).await
    }

    async fn verify_with(&self, options: &VerifyOptions) -> Result<IndexReport, VerifyError> {
        let pairs = [(self.index.clone(), self.index.clone())];
        let progress: Arc<dyn Progress> = Arc::new(());
        let report = verify::verify(&self.source, &self.target, &pairs, options, &progress).await?;
        assert_eq!(report.equal(), report.indices[0].equal());
        println!("{report}");
        Ok(report.indices.into_iter().next().unwrap())
    }

    async fn verify(&self) -> Result<IndexReport, VerifyError> {
        self.verify_with(&VerifyOptions::default()).await
    }

    async fn delete(&self) -> Result<()> {
        self.source.delete_index(&self.index).await?;
        self.target.delete_index(&self.index).await?;
        Ok(())
    }
}

fn index(id: &str, routing: Option<&str>, source: &str) -> String {
    let mut action = json!({"_id": id});
    if let Some(routing) = routing {
        action["routing"] = json!(routing);
    }
    format!("{}\n{source}\n", json!({"index": action}))
}

/// Documents of all sorts: nested ones, routed ones, ids of any text, the same id in two places.
fn documents(count: usize) -> String {
    (0..count)
        .map(|n| {
            let routing = (n % 3 == 0).then(|| format!("r{}", n % 7));
            let source = format!("{{\"n\":[{{\"x\":{n}}},{{\"x\":1}}],\"y\":1.50,\"u\":\"\\u00e9\",\"big\":12345678901234567890{n}}}");
            index(&format!("a b/é?#{n}"), routing.as_deref(), &source)
        })
        .collect()
}

fn ids(listed: &[verify::Key]) -> Vec<&str> {
    listed.iter().map(|key| key.id.as_str()).collect()
}

/// Takes the differences apart into (missing, extra, different, misrouted).
fn counts(report: &IndexReport) -> (u64, u64, u64, u64) {
    let different = report.different.count;
    (report.missing.count, report.extra.count, different, report.misrouted.count)
}

#[tokio::test]
async fn equal_documents_are_equal_in_other_shards_and_written_in_another_way() -> Result<()> {
    let targets = testkit::matrix().into_iter().filter(|p| *p != Product::Es8);
    for (source, target) in targets.map(|target| (Product::Es8, target)) {
        let pair = Pair::new(source, target).await?;
        pair.create((3, 2)).await?;
        pair.both(&documents(3_000)).await?;
        // Deleted and written again, so that the histories differ.
        pair.bulk(&pair.at_target, "{\"delete\":{\"_id\":\"a b/é?#1\"}}\n").await?;
        pair.bulk(&pair.at_target, &documents(20)).await?;
        let one = index("twin", Some("r1"), r#"{"a":1,"b":["1","\u00e9"]}"#);
        pair.bulk(&pair.at_source, &one).await?;
        let other = index("twin", Some("r1"), r#"{ "b": ["1", "é"], "a":1.0}"#);
        pair.bulk(&pair.at_target, &other).await?;
        let report = pair.verify().await?;
        assert!(report.equal() && report.exact, "{target}: {report}");
        assert_eq!((report.documents_source, report.documents_target), (3_001, 3_001));
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_named() -> Result<()> {
    for (source, target) in [(Product::Es7_17, Product::Os2), (Product::Os2, Product::Es8)] {
        let pair = Pair::new(source, target).await?;
        pair.create((2, 5)).await?;
        pair.both(&documents(2_000)).await?;
        let big = |n: u32| format!("{{\"big\":1234567890123456789012345678{n},\"w\":[1,2]}}");
        let at_source = [
            index("only/ source é", Some("q"), "{}"),
            index("changed", None, &big(1)),
            index("moved", Some("r1"), "{}"),
            index("unrouted", None, "{}"),
            index("twin", Some("r1"), "{\"a\":1}"),
            index("twin", Some("r2"), "{\"a\":2}"),
        ];
        let at_target = [
            index("only target", None, "{}"),
            index("changed", None, &big(2)),
            index("moved", Some("r2"), "{}"),
            index("unrouted", Some(""), "{}"),
            index("twin", Some("r1"), "{\"a\":1}"),
            index("twin", Some("r2"), "{\"a\":1}"),
        ];
        pair.bulk(&pair.at_source, &at_source.concat()).await?;
        pair.bulk(&pair.at_target, &at_target.concat()).await?;
        let report = pair.verify().await?;
        assert_eq!(ids(&report.missing.listed), ["only/ source é"]);
        assert_eq!(report.missing.listed[0].routing.as_deref(), Some("q"));
        assert_eq!(ids(&report.extra.listed), ["only target"]);
        let misrouted = &report.misrouted.listed;
        assert!(misrouted.iter().any(|m| m.id == "moved"
            && m.source.as_deref() == Some("r1")
            && m.target.as_deref() == Some("r2")));
        let changed = report.different.listed.iter().find(|d| d.id == "changed").unwrap();
        let diff = changed.diff.as_deref().unwrap();
        assert!(diff.contains("-  \"big\": 12345678901234567890123456781"), "{diff}");
        assert!(diff.contains("+  \"big\": 12345678901234567890123456782"), "{diff}");
        assert!(report.exact && !report.equal());
        pair.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_in_one_place_is_found_in_little_memory_and_lists_are_cut() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 3)).await?;
    pair.both(&documents(5_000)).await?;
    let changed: String = (0..40).map(|n| index(&format!("new {n}"), None, "{}")).collect();
    pair.bulk(&pair.at_source, &changed).await?;
    let options = VerifyOptions {
        memory: 10,
        limit: 5,
        readers: 1,
        ..VerifyOptions::default()
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
    pair.at_source.put_json(&format!("/{}-1", pair.index), &aliased).await?;
    let error = pair.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::Alias { .. }), "{error}");
    pair.source.delete_index(&IndexName::try_from(format!("{}-1", pair.index))?).await?;

    pair.create((1, 1)).await?;
    let report = pair.verify().await?;
    assert!(report.equal() && report.documents_source == 0);
    pair.at_target.post_json(&format!("/{}/_close", pair.index), &Value::Null).await?;
    let error = pair.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::Unreadable { .. }), "{error}");
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
        ..VerifyOptions::default()
    };
    let report = pair.verify_with(&options).await?;
    assert!(report.equal() && report.exact, "{report}");
    assert_eq!((report.documents_source, report.settled_meanwhile), (100, 100));
    pair.delete().await
}
