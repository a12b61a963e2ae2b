//! An index that is deleted and created anew between a look and a page: requests by its name go on, and
//! answer for another index.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use es_watcher::{Ledger, SearchSource, SourceOptions};
use pipeline::ChangeSource;
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, unique_name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::follower;

const DOCUMENTS: u64 = 20;
/// Documents of the second index count from here.
const SECOND: u64 = 1000;
/// What the paths of searches have, and no others'.
const SEARCH: &str = "/_search?";
/// What the paths of discoveries have, and no others'.
const DISCOVERY: &str = "expand_wildcards=";
/// What the paths of statistics have, and no others'.
const STATISTICS: &str = "/_stats/";

/// Stands before a server and holds requests up.
struct Gate {
    address: SocketAddr,
    closed: watch::Sender<Vec<&'static str>>,
    waiting: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Gate {
    async fn before(server: SocketAddr, closed: &[&'static str]) -> Result<Gate> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (closed, held) = watch::channel(closed.to_vec());
        let (arrived, waiting) = watch::channel(None);
        let arrived = Arc::new(arrived);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, held.clone(), Arc::clone(&arrived)));
            }
        });
        Ok(Gate {
            address,
            closed,
            waiting,
            task,
        })
    }

    /// Waits until a request for such a path is held up.
    async fn holds(&mut self, path: &str) -> Result<()> {
        let is_it = |line: &Option<String>| line.as_ref().is_some_and(|line| line.contains(path));
        let held = self.waiting.wait_for(is_it);
        timeout(Duration::from_secs(60), held).await??;
        Ok(())
    }

    fn close(&self, paths: &[&'static str]) {
        self.closed.send_replace(paths.to_vec());
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. A request begins where something is read: the client waits for each answer.
async fn carry(
    client: TcpStream,
    server: SocketAddr,
    mut closed: watch::Receiver<Vec<&'static str>>,
    arrived: Arc<watch::Sender<Option<String>>>,
) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    let ((mut asks, mut hears), (mut answers, mut takes)) =
        (client.into_split(), server.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = asks.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&buffer[..count]);
        let line = text.lines().next().unwrap_or_default().to_owned();
        let is_held = |paths: &Vec<&str>| paths.iter().any(|path| line.contains(path));
        if is_held(&closed.borrow()) {
            arrived.send_replace(Some(line.clone()));
        }
        closed.wait_for(|paths| !is_held(paths)).await?;
        takes.write_all(&buffer[..count]).await?;
    }
}

/// Creates the index with documents that count from `first`; returns its UUID.
async fn fill(http: &Http, index: &str, first: u64) -> Result<String> {
    let settings = json!({ "settings": { "number_of_shards": 1, "number_of_replicas": 0 } });
    http.put_json(&format!("/{index}"), &settings).await?;
    let documents = (first..first + DOCUMENTS).map(|n| (n.to_string(), json!({ "n": n })));
    http.index_documents(index, documents).await?;
    let settings = http.get_json(&format!("/{index}/_settings")).await?;
    let uuid = settings[index]["settings"]["index"]["uuid"].as_str();
    Ok(uuid.context("an index has a UUID")?.to_owned())
}

/// The documents of the next batch: where each was read, and its number. `None` at the end.
async fn next(source: &mut SearchSource) -> Result<Option<Vec<(String, u64)>>> {
    let captured = timeout(Duration::from_secs(60), source.next()).await??;
    let Some(captured) = captured else {
        return Ok(None);
    };
    let changes = captured.batch.changes().iter();
    let documents = changes.filter_map(|change| change.document());
    let partition = captured.batch.origin.partition.as_ref();
    let read = documents.map(|document| {
        let document: Value = serde_json::from_slice(document.as_bytes())?;
        let number = document["n"].as_u64().context("n is a number")?;
        Ok((partition.to_owned(), number))
    });
    let read = read.collect::<Result<_>>()?;
    source.confirm(captured.position).await?;
    Ok(Some(read))
}

/// A source that has looked at the index and asks for its first page, when the index is created anew: searches
/// and discoveries are held up. And the UUID of the second.
async fn recreate_before_a_page(
    node: &SearchNode,
    index: &str,
    options: SourceOptions,
) -> Result<(Gate, SearchSource, String)> {
    fill(&node.http(), index, 0).await?;
    let mut gate = Gate::before(node.address(), &[SEARCH]).await?;
    let url = format!("http://{}", gate.address);
    let source = follower::start_with(&url, options, Ledger::temporary()?).await;
    gate.holds(SEARCH).await?;
    gate.close(&[SEARCH, DISCOVERY]);
    node.http().delete(&format!("/{index}")).await?;
    let second = fill(&node.http(), index, SECOND).await?;
    Ok((gate, source, second))
}

/// Documents of the second index are read as those of the second, and others are not read any more.
fn check(read: Vec<(String, u64)>, second: &str) -> Result<Vec<(String, u64)>> {
    for (partition, number) in &read {
        ensure!(
            partition.contains(second) && *number >= SECOND,
            "document {number} was read as one of {partition}; the index is {second}"
        );
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_index_is_read_as_that_of_the_one_that_had_its_name_before() -> Result<()> {
    for product in [Product::Es7_17, Product::Es8, Product::Os2] {
        let node = SearchNode::shared(product).await;
        let index = unique_name("renewed");
        let options = follower::options(&index);
        let (mut gate, mut source, second) = recreate_before_a_page(node, &index, options).await?;
        // Until the watcher has learned of it, nothing that it reads may come out.
        gate.holds(DISCOVERY).await?;
        gate.close(&[DISCOVERY, STATISTICS]);
        loop {
            tokio::select! {
                biased;
                read = next(&mut source) => {
                    let read = check(read?.context("it follows")?, &second);
                    read.with_context(|| product.to_string())?;
                }
                held = gate.holds(STATISTICS) => break held?,
            };
        }
        gate.close(&[]);
        let mut arrived = BTreeSet::new();
        while arrived.len() < DOCUMENTS as usize {
            let read = check(next(&mut source).await?.context("it follows")?, &second)?;
            arrived.extend(read.into_iter().map(|(_, number)| number));
        }
        source.close().await;
    }
    Ok(())
}

/// A copy that does not follow has no later look that would find the other index.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_with_an_error_when_its_index_is_created_anew() -> Result<()> {
    let node = SearchNode::shared(Product::Es8).await;
    let index = unique_name("renewed-once");
    let once = SourceOptions {
        follow: false,
        ..follower::options(&index)
    };
    let (gate, mut source, second) = recreate_before_a_page(node, &index, once).await?;
    gate.close(&[]);
    let ended = loop {
        match next(&mut source).await {
            Ok(Some(read)) => drop(check(read, &second)?),
            Ok(None) => bail!("it has ended as if all were well"),
            Err(error) => break error,
        }
    };
    let said = format!("{ended:#}");
    ensure!(said.contains("was deleted while it was copied"), "{said}");
    source.close().await;
    Ok(())
}
