//! Indices with real documents, as demo and benchmarks use them.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::Http;
use testkit::datasets::{BulkBody, Dataset};

/// Which field of a document says by which change it was written last.
pub(crate) const CHANGED: &str = "changed";

/// An index of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) dataset: Dataset,
    pub(crate) shards: u32,
}

impl Index {
    #[cfg(feature = "bench")]
    pub(crate) const FLIGHTS: Index = Index {
        dataset: Dataset::Flights,
        shards: 2,
    };

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        self.dataset.name()
    }

    /// Creates it, empty; one that exists is deleted before.
    pub(crate) async fn create(self, server: &Http) -> Result<()> {
        let path = format!("/{}", self.name());
        if server.get_json(&path).await.is_ok() {
            server.delete(&path).await?;
        }
        let definition = json!({
            "settings": {
                "index.number_of_shards": self.shards,
                "index.number_of_replicas": 0,
            },
            "mappings": { "dynamic": false, "properties": properties(self.dataset) },
        });
        server.put_json(&path, &definition).await?;
        Ok(())
    }

    /// Loads the whole dataset; the ids are the numbers from 1. Returns the documents and their bytes.
    pub(crate) async fn load(self, server: &Http, loaded: impl Fn(u64)) -> Result<(u64, u64)> {
        let bodies = self.dataset.bulk_bodies(BODY)?;
        let bodies = bodies.map(|body| body.map_err(anyhow::Error::from));
        let documents = self.bulks(server, bodies, loaded).await?;
        let file = self.dataset.file()?;
        Ok((documents, file.metadata()?.len() - documents))
    }

    /// Loads `count` documents: the given ones again and again under new ids.
    #[cfg(feature = "bench")]
    pub(crate) async fn fill(self, server: &Http, documents: &[String], count: u64) -> Result<()> {
        let bodies = (0..count).step_by(CHUNK).map(|first| {
            let ids = first..count.min(first + CHUNK as u64);
            let lines = ids.clone().map(|id| {
                let document = &documents[id as usize % documents.len()];
                format!("{{\"index\":{{\"_id\":\"{}\"}}}}\n{document}\n", id + 1)
            });
            Ok(BulkBody {
                body: lines.collect(),
                documents: ids.count(),
            })
        });
        self.bulks(server, bodies, |_| ()).await.map(drop)
    }

    /// The documents of the dataset.
    #[cfg(feature = "bench")]
    pub(crate) fn documents(self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.dataset.file()?)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Sends bodies over two connections, which is what two cores take.
    async fn bulks(
        self,
        server: &Http,
        bodies: impl Iterator<Item = Result<BulkBody>>,
        loaded: impl Fn(u64),
    ) -> Result<u64> {
        let path = format!("/{}/_bulk?filter_path=errors,items.*.error", self.name());
        let mut bodies = bodies.fuse();
        let mut total = 0;
        while let Some(first) = bodies.next().transpose()? {
            let second = bodies.next().transpose()?;
            let first = send(server, &path, first);
            let second = async {
                match second {
                    Some(second) => send(server, &path, second).await,
                    None => Ok(0),
                }
            };
            let (first, second) = tokio::try_join!(first, second)?;
            total += first + second;
            loaded(total);
        }
        server
            .post_json(&format!("/{}/_flush", self.name()), &Value::Null)
            .await
            .context("flush")?;
        Ok(total)
    }
}

/// How large a bulk is, in bytes.
const BODY: usize = 2 << 20;
/// How large a bulk is, in documents of which there may be many.
#[cfg(feature = "bench")]
const CHUNK: usize = 4000;

async fn send(server: &Http, path: &str, bulk: BulkBody) -> Result<u64> {
    server.post_ndjson(path, bulk.body).await?;
    Ok(bulk.documents as u64)
}

fn properties(dataset: Dataset) -> Value {
    let of = |kind: &str, names: &[&str]| -> Vec<(String, Value)> {
        let field = |name: &&str| ((*name).to_owned(), json!({ "type": kind }));
        names.iter().map(field).collect()
    };
    let mut all = of("long", &[CHANGED]);
    match dataset {
        Dataset::Movies => {
            let (money, others) = (
                [
                    "US Gross",
                    "Worldwide Gross",
                    "US DVD Sales",
                    "Production Budget",
                ],
                ["Running Time min", "Rotten Tomatoes Rating", "IMDB Votes"],
            );
            all.extend(of("text", &["Title"]));
            all.extend(of("long", &money));
            all.extend(of("integer", &others));
            all.extend(of("float", &["IMDB Rating"]));
            all.extend(of(
                "keyword",
                &[
                    "MPAA Rating",
                    "Distributor",
                    "Source",
                    "Major Genre",
                    "Creative Type",
                    "Director",
                    "Release Date",
                ],
            ));
        }
        Dataset::Zipcodes => {
            all.extend(of("keyword", &["zip_code", "city", "state", "county"]));
            all.extend(of("float", &["latitude", "longitude"]));
        }
        Dataset::Flights => {
            all.extend(of("keyword", &["carrier", "tailnum", "origin", "dest"]));
            all.extend(of("date", &["time_hour"]));
            all.extend(of(
                "short",
                &[
                    "year",
                    "month",
                    "day",
                    "hour",
                    "minute",
                    "flight",
                    "dep_time",
                    "sched_dep_time",
                    "dep_delay",
                    "arr_time",
                    "sched_arr_time",
                    "arr_delay",
                    "air_time",
                    "distance",
                ],
            ));
        }
        Dataset::Flights200k => all.extend(of("float", &["delay", "distance", "time"])),
    }
    Value::Object(all.into_iter().collect())
}
