//! Writes into the source: several clients, several indices, documents of all sizes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use testkit::{Http, unique_name};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 3;

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
            let body = json!({
                "settings": { "index": { "number_of_shards": index.shards, "number_of_replicas": 0 } },
                "mappings": { "properties": {
                    "text": { "type": "keyword", "index": false, "doc_values": false },
                } },
            });
            http.put_json(&format!("/{}", index.name), &body).await?;
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
    pub(crate) fn start(http: &Http, plan: &Plan, random: &mut Rng) -> Load {
        let stop = CancellationToken::new();
        let operations = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                number,
                http: http.clone(),
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
    plan: Plan,
    random: Rng,
    written: usize,
    fresh: usize,
}

impl Client {
    async fn write(mut self, stop: CancellationToken, operations: Arc<AtomicUsize>) -> Result<()> {
        while !stop.is_cancelled() {
            let index = self.plan.0[self.random.usize(0..self.plan.0.len())].clone();
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

    /// Sends a bulk again for as long as the source is too busy for it.
    async fn send(&self, index: &Index, body: &str) -> Result<()> {
        let path = format!("/{}/_bulk", index.name);
        loop {
            let sent = self.http.request("POST".parse()?, &path, body.to_owned());
            let (status, answer) = sent.await?;
            if status == 200 && answer["errors"] == false {
                return Ok(());
            }
            let is_busy = status == 429 || answer.to_string().contains("\"status\":429");
            ensure!(is_busy, "the load: status {status}: {answer:.2000}");
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
        let change = json!({ "doc": document, "doc_as_upsert": true });
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
