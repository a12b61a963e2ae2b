//! Two clusters, documents of all sorts, and what a comparison says in short.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use model::{Action, Change, Document, Epoch, IndexName, Version, wire};
use search::{Client, ClientConfig, Window};
use serde_json::json;
use testkit::{Http, Product, SearchNode};
use verify::{IndexReport, Progress, VerifyError, VerifyOptions};

/// Two clusters, and an index name that nobody else has.
pub(crate) struct Pair {
    pub(crate) source: Client,
    pub(crate) target: Client,
    pub(crate) at_source: Http,
    pub(crate) at_target: Http,
    pub(crate) index: IndexName,
}

impl Pair {
    pub(crate) async fn new(source: Product, target: Product) -> Result<Pair> {
        let (source, target) = (
            SearchNode::shared(source).await,
            SearchNode::shared(target).await,
        );
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

    /// The same with another source.
    pub(crate) async fn with_source(self, node: &SearchNode) -> Result<Pair> {
        let config = ClientConfig::new(vec![node.url().parse()?]);
        Ok(Pair {
            source: Client::connect(&config).await?,
            at_source: node.http(),
            ..self
        })
    }

    /// Makes the index on both sides with so many shards.
    pub(crate) async fn create(&self, shards: (u32, u32)) -> Result<()> {
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

    pub(crate) async fn bulk(&self, http: &Http, lines: &str) -> Result<()> {
        let path = format!("/{}/_bulk", self.index);
        http.post_ndjson(&path, lines.to_owned()).await.map(drop)
    }

    /// A routing that leads to another shard than the given one on both sides.
    pub(crate) async fn apart_from(&self, routing: &str) -> Result<String> {
        let shard = async |http: &Http, routing: &str| {
            let path = format!("/{}/_search_shards?routing={routing}", self.index);
            http.get_json(&path)
                .await
                .map(|found| found["shards"][0][0]["shard"].clone())
        };
        for other in (0..100).map(|n| format!("other{n}")) {
            let mut same = false;
            for http in [&self.at_source, &self.at_target] {
                same |= shard(http, routing).await? == shard(http, &other).await?;
            }
            if !same {
                return Ok(other);
            }
        }
        anyhow::bail!("every routing leads to the shard of {routing}")
    }

    pub(crate) async fn both(&self, lines: &str) -> Result<()> {
        self.bulk(&self.at_source, lines).await?;
        self.bulk(&self.at_target, lines).await
    }

    pub(crate) async fn verify_with(
        &self,
        options: &VerifyOptions,
    ) -> Result<IndexReport, VerifyError> {
        self.verify_watched(options, Arc::new(())).await
    }

    pub(crate) async fn verify_watched(
        &self,
        options: &VerifyOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<IndexReport, VerifyError> {
        let pairs = [(self.index.clone(), self.index.clone())];
        let report = verify::verify(&self.source, &self.target, &pairs, options, &progress).await?;
        assert_eq!(report.equal(), report.indices[0].equal());
        println!("{report}");
        Ok(report.indices.into_iter().next().unwrap())
    }

    pub(crate) async fn verify(&self) -> Result<IndexReport, VerifyError> {
        self.verify_with(&options()).await
    }

    /// Reads the source page by page and does nothing with it.
    pub(crate) async fn read_bare(&self) -> Result<()> {
        let shards = self.source.shard_stats(&[&self.index]).await?;
        let reads = shards.iter().map(async |shard| {
            let mut after = -1;
            while after < shard.global_checkpoint {
                let window = Window {
                    index: &self.index,
                    shard: shard.shard,
                    node: Some(&shard.node),
                    after,
                    upto: shard.global_checkpoint.min(after + 3_500),
                    size: 3_500,
                };
                self.source.read_window(&window).await?;
                after = window.upto;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(reads).await.map(drop)
    }

    /// Copies every document that `wanted` says yes to as Syncline would: with the version of its
    /// change in an epoch.
    pub(crate) async fn copy(&self, epoch: u8, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.copy_since(-1, epoch, wanted).await
    }

    /// The same for what has a number above the given one: at most 10,000 documents of a shard.
    pub(crate) async fn copy_since(
        &self,
        after: i64,
        epoch: u8,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<()> {
        self.source.refresh(&self.index).await?;
        for shard in self.source.shard_stats(&[&self.index]).await? {
            let window = Window {
                index: &self.index,
                shard: shard.shard,
                node: None,
                after,
                upto: i64::MAX,
                size: 10_000,
            };
            let mut body = BytesMut::new();
            let hits = self.source.read_window(&window).await?.hits;
            let hits: Vec<_> = hits
                .into_iter()
                .filter(|hit| wanted(hit.id.as_str()))
                .collect();
            for hit in &hits {
                let change = Change {
                    id: hit.id.clone(),
                    routing: hit.routing.clone(),
                    version: Version::new(Epoch(epoch), hit.seq_no)?,
                    over: false,
                    action: Action::Index(Document::from_json(hit.source.clone())),
                };
                wire::write_change(&mut body, &change);
            }
            if !hits.is_empty() {
                let body = body.freeze();
                self.target
                    .bulk(&self.index, body, hits.len(), None)
                    .await?;
            }
        }
        Ok(())
    }

    /// The `_version` of a document at the target.
    pub(crate) async fn version(&self, id: &str) -> Result<u64> {
        let path = format!("/{}/_doc/{id}", self.index);
        let found = self.at_target.get_json(&path).await?;
        found["_version"].as_u64().context("no version")
    }

    pub(crate) async fn delete(&self) -> Result<()> {
        self.source.delete_index(&self.index).await?;
        self.target.delete_index(&self.index).await?;
        Ok(())
    }
}

/// Nothing moves in most of these tests, so nobody has to wait.
pub(crate) fn options() -> VerifyOptions {
    VerifyOptions {
        lag: Duration::ZERO,
        ..VerifyOptions::default()
    }
}

pub(crate) fn index(id: &str, routing: Option<&str>, source: &str) -> String {
    let mut action = json!({"_id": id});
    if let Some(routing) = routing {
        action["routing"] = json!(routing);
    }
    format!("{}\n{source}\n", json!({"index": action}))
}

/// Documents of all sorts: nested ones, routed ones, ids of any text, the same id in two places.
pub(crate) fn documents(count: usize) -> String {
    (0..count)
        .map(|n| {
            let routing = (n % 3 == 0).then(|| format!("r{}", n % 7));
            let source = format!("{{\"n\":[{{\"x\":{n}}},{{\"x\":1}}],\"y\":1.50,\"u\":\"\\u00e9\",\"big\":12345678901234567890{n}}}");
            index(&format!("a b/é?#{n}"), routing.as_deref(), &source)
        })
        .collect()
}

pub(crate) fn ids(listed: &[verify::Key]) -> Vec<&str> {
    listed.iter().map(|key| key.id.as_str()).collect()
}

/// Takes the differences apart into (missing, extra, different, misrouted).
pub(crate) fn counts(report: &IndexReport) -> (u64, u64, u64, u64) {
    let different = report.different.count;
    (
        report.missing.count,
        report.extra.count,
        different,
        report.misrouted.count,
    )
}
