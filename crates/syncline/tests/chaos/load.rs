//! Writes into the source: several clients, several indices, documents of all sizes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use fastrand::Rng;
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, unique_name};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 3;
/// What is there decides what becomes of it: whatever is applied twice or in another order shows.
const SCRIPT: &str = "\
    if (params.written % 11 == 0) { ctx.op = 'delete' } \
    else if (params.written % 7 == 0) { ctx.op = 'none' } \
    else { \
        ctx._source.before = ctx._source.written; \
        ctx._source.client = params.client; \
        ctx._source.written = params.written; \
        ctx._source.scripted = (ctx._source.containsKey('scripted') ? ctx._source.scripted : 0) + 1 \
    }";

/// Which indices there are. No two documents may share an id within one: a target may have other
/// shards.
#[derive(Debug, Clone)]
pub(crate) struct Plan(Vec<Index>);

#[derive(Debug, Clone)]
struct Index {
    name: String,
    shards: u32,
    routed: bool,
}

impl Index {
    fn definition(&self) -> Value {
        json!({
            "settings": { "index": { "number_of_shards": self.shards, "number_of_replicas": 0 } },
            "mappings": { "properties": {
                "text": { "type": "keyword", "index": false, "doc_values": false },
            } },
        })
    }
}

impl Plan {
    /// Two to four indices.
    pub(crate) fn new(random: &mut Rng) -> Plan {
        let indices = (0..random.u32(2..5)).map(|_| Index {
            name: unique_name("chaos.v1"),
            shards: random.u32(1..5),
            routed: random.bool(),
        });
        Plan(indices.collect())
    }

    /// Their names.
    pub(crate) fn indices(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|index| index.name.as_str())
    }

    /// Their names as index patterns.
    pub(crate) fn patterns(&self) -> String {
        self.indices().collect::<Vec<_>>().join(",")
    }

    /// Creates them in the source.
    pub(crate) async fn create(&self, http: &Http) -> Result<()> {
        for index in &self.0 {
            http.put_json(&format!("/{}", index.name), &index.definition())
                .await?;
        }
        Ok(())
    }
}

/// Clients that write until they are stopped.
pub(crate) struct Load {
    clients: JoinSet<Result<()>>,
    stop: CancellationToken,
    operations: Arc<AtomicUsize>,
}

impl Load {
    /// Starts the clients, each with randomness of its own.
    pub(crate) fn start(source: &SearchNode, plan: &Plan, random: &mut Rng) -> Load {
        let stop = CancellationToken::new();
        let operations = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                number,
                http: source.http(),
                has_scripts: has_scripts(source.product()),
                plan: plan.clone(),
                random: random.fork(),
                written: 0,
                fresh: 0,
            };
            clients.spawn(client.write(stop.clone(), Arc::clone(&operations)));
        }
        Load {
            clients,
            stop,
            operations,
        }
    }

    /// Stops them and says how many operations there were.
    pub(crate) async fn stop(mut self) -> Result<usize> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(self.operations.load(Ordering::Relaxed))
    }
}

struct Client {
    number: usize,
    http: Http,
    has_scripts: bool,
    plan: Plan,
    random: Rng,
    written: usize,
    fresh: usize,
}

impl Client {
    async fn write(mut self, stop: CancellationToken, operations: Arc<AtomicUsize>) -> Result<()> {
        while !stop.is_cancelled() {
            let index = self.plan.0[self.random.usize(0..self.plan.0.len())].clone();
            if self.random.u32(0..40) == 0 {
                self.upheaval(&index).await?;
            }
            let count = self.bulk_size();
            let body: String = (0..count).map(|_| self.operation(&index)).collect();
            self.send(&index, &body).await?;
            operations.fetch_add(count, Ordering::Relaxed);
            // Bursts and silences: both are where mistakes hide.
            let pause = Duration::from_millis(match self.random.u32(0..20) {
                0 => self.random.u64(200..1500),
                1..=9 => self.random.u64(5..80),
                _ => 0,
            });
            let resting = tokio::time::sleep(pause);
            tokio::select! {
                () = stop.cancelled() => {}
                () = resting => {}
            }
        }
        Ok(())
    }

    /// Something that concerns the whole index.
    async fn upheaval(&mut self, index: &Index) -> Result<()> {
        let name = &index.name;
        match self.random.u32(0..14) {
            0..4 => {
                let mine = json!({ "query": { "bool": { "filter": [
                    { "term": { "client": self.number } },
                    { "range": { "written": { "gte": self.random.usize(0..self.written + 1) } } },
                ] } } });
                let path = format!("/{name}/_delete_by_query?conflicts=proceed&max_docs=500");
                self.ask("POST", &path, &mine.to_string()).await
            }
            4..6 => self.ask("POST", &format!("/{name}/_refresh"), "").await,
            6..8 => {
                let path = format!("/{name}/_forcemerge?max_num_segments=1");
                self.ask("POST", &path, "").await
            }
            8 => self.ask("POST", &format!("/{name}/_flush"), "").await,
            9..11 => {
                let field = format!("field{}", self.random.u32(0..20));
                let mapping = json!({ "properties": { field: { "type": "keyword" } } });
                let path = format!("/{name}/_mapping");
                self.ask("PUT", &path, &mapping.to_string()).await
            }
            11 => {
                // Another one with the same name; whoever writes first may be quicker in creating it.
                self.ask("DELETE", &format!("/{name}"), "").await?;
                let anew = Index {
                    shards: self.random.u32(1..5),
                    ..index.clone()
                };
                let body = anew.definition().to_string();
                self.ask("PUT", &format!("/{name}"), &body).await
            }
            _ => self.reroute(index).await,
        }
    }

    /// Takes a primary away from its node, which has to recover it: its term rises.
    async fn reroute(&mut self, index: &Index) -> Result<()> {
        let shard = self.random.u32(0..index.shards);
        let nodes = self.http.get_json("/_nodes?filter_path=nodes.*.name").await;
        let nodes = nodes.unwrap_or_default(); // it may be dead at the moment
        let Some((node, _)) = nodes["nodes"]
            .as_object()
            .and_then(|nodes| nodes.iter().next())
        else {
            return Ok(());
        };
        let cancel = json!({
            "index": index.name, "shard": shard, "node": node, "allow_primary": true,
        });
        let body = json!({ "commands": [{ "cancel": cancel }] });
        self.ask("POST", "/_cluster/reroute", &body.to_string())
            .await
    }

    /// Asks for something that others may have made impossible; only that it is answered matters.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<()> {
        loop {
            let asked = self.http.request(method.parse()?, path, body.to_owned());
            match asked.await {
                Ok((200 | 201 | 400 | 404 | 409, _)) => return Ok(()),
                Ok((429 | 500..=599, _)) | Err(_) => {}
                Ok((status, answer)) => bail!("the load: {path}: status {status}: {answer:.2000}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sends a bulk again for as long as the source is too busy for it, or away. A part of it may be
    /// written twice then, which changes nothing.
    async fn send(&self, index: &Index, body: &str) -> Result<()> {
        let path = format!("/{}/_bulk", index.name);
        loop {
            let sent = self.http.request("POST".parse()?, &path, body.to_owned());
            match sent.await {
                Ok((200, answer)) if answer["errors"] == false => return Ok(()),
                Ok((200, answer)) if is_passing(&answer) => {}
                Ok((429 | 500..=599, _)) | Err(_) => {}
                Ok((status, answer)) => bail!("the load: status {status}: {answer:.2000}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn bulk_size(&mut self) -> usize {
        match self.random.u32(0..10) {
            0 => self.random.usize(200..600),
            1..=5 => self.random.usize(10..60),
            _ => self.random.usize(1..4),
        }
    }

    /// An operation that leaves a document no other has left: its content says who wrote it when.
    fn operation(&mut self, index: &Index) -> String {
        self.written += 1;
        let (client, written) = (self.number, self.written);
        let is_fresh = self.random.u32(0..3) == 0;
        let id = if is_fresh {
            self.fresh += 1;
            format!("{client}/{} ü", self.fresh)
        } else {
            // Of all clients: they change each other's documents.
            self.random.u32(0..2000).to_string()
        };
        let mut meta = json!({ "_id": id });
        if index.routed {
            meta["routing"] = Value::from(format!("r{}", id.len() % 5));
        }
        if self.random.u32(0..6) == 0 {
            return format!("{}\n", json!({ "delete": meta }));
        }
        let mut document = json!({ "client": client, "written": written });
        if self.random.bool() {
            document["text"] = "x".repeat(self.text_size()).into();
        }
        if self.random.bool() {
            return format!("{}\n{document}\n", json!({ "index": meta }));
        }
        meta["retry_on_conflict"] = 50.into();
        let change = match self.random.u32(0..3) {
            0 => json!({ "doc": document, "doc_as_upsert": true }),
            1 => json!({ "doc": document, "upsert": { "client": client, "written": written } }),
            // Not all of them change something, and some delete.
            2 if self.has_scripts => json!({
                "script": { "source": SCRIPT, "params": { "client": client, "written": written } },
                "upsert": document,
            }),
            _ => json!({ "doc": document, "detect_noop": false, "doc_as_upsert": true }),
        };
        format!("{}\n{change}\n", json!({ "update": meta }))
    }

    fn text_size(&mut self) -> usize {
        match self.random.u32(0..4000) {
            0 => self.random.usize(1 << 20..3 << 20),
            1..=20 => self.random.usize(10_000..200_000),
            _ => self.random.usize(0..400),
        }
    }
}

/// Whether the node has a language for scripts: Elasticsearch's from the registries has none.
fn has_scripts(product: Product) -> bool {
    matches!(product, Product::Os2 | Product::Os3)
}

/// Whether every item that failed may succeed later.
fn is_passing(answer: &Value) -> bool {
    let items = answer["items"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_object()?.values().next())
        .filter(|item| !item["error"].is_null())
        .all(|item| {
            let status = item["status"].as_u64().unwrap_or(0);
            // An index that is deleted this moment is not there (404), or closed to writes (403).
            matches!(status, 403 | 404 | 409 | 429 | 500..=599)
        })
}
