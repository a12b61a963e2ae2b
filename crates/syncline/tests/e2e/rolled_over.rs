//! Aliases that are swapped or rolled over and data streams that are rolled over, while clients write
//! through them and never stop.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, unique_name, wait_until};
use tokio_util::sync::CancellationToken;

use super::index_name;
use crate::support::{
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program, run},
};

/// Writes through two aliases and a stream until it is stopped, and deletes some of it by its index.
struct Client {
    http: Http,
    rolled: String,
    swapped: String,
    stream: String,
    behind_swapped: [String; 2],
}

impl Client {
    async fn write(&self, stop: &CancellationToken) -> Result<()> {
        let mut round = 0;
        while !stop.is_cancelled() {
            let mut body = String::new();
            for n in 0..10 {
                let id = format!("{}", (round * 7 + n) % 400);
                let document = json!({ "@timestamp": "2026-01-01T00:00:00Z", "round": round });
                for alias in [&self.rolled, &self.swapped] {
                    let action = json!({ "index": { "_index": alias, "_id": id } });
                    body += &format!("{action}\n{document}\n");
                }
                let action = json!({ "create": { "_index": self.stream } });
                body += &format!("{action}\n{document}\n");
                // Of whichever is not written through the alias at the moment, too.
                let index = &self.behind_swapped[n % 2];
                let gone = format!("{}", (round * 3 + n) % 400);
                body += &format!(
                    "{}\n",
                    json!({ "delete": { "_index": index, "_id": gone } })
                );
            }
            let answer = self.http.post_ndjson("/_bulk", body).await?;
            let items = answer["items"].as_array().context("a bulk has items")?;
            let mut failed = items
                .iter()
                .filter_map(|item| item.as_object()?.values().next())
                .filter(|item| !item["error"].is_null());
            let first = failed.next();
            ensure!(first.is_none(), "{first:?}");
            round += 1;
        }
        Ok(())
    }
}

/// Waits until the watcher has published so many changes more.
async fn some_more(watcher: &Program) -> Result<()> {
    let count = async || watcher.metric("syncline_watcher_changes_total").await;
    let before = count().await?;
    wait_until("changes are published", PATIENCE, async || {
        count().await.is_ok_and(|now| now >= before + 300.0)
    })
    .await
}

/// Which indices are behind a pattern, hidden ones too.
async fn behind(http: &Http, pattern: &str) -> Result<Vec<String>> {
    let path = format!("/{pattern}?expand_wildcards=all");
    let found = http.get_json(&path).await?;
    let names = found.as_object().context("indices by name")?.keys();
    Ok(names.cloned().collect())
}

async fn aliases(http: &Http, index: &str) -> Result<Value> {
    let found = http.get_json(&format!("/{index}/_alias")).await?;
    Ok(found[index]["aliases"].clone())
}

#[tokio::test]
async fn what_is_swapped_and_rolled_over_while_clients_write_arrives_whole() -> Result<()> {
    for (from, to) in [(Product::Es8, Product::Os2), (Product::Os2, Product::Es8)] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let (here, there) = (source.http(), target.http());
        let prefix = index_name("rolled");
        let stream = unique_name("e2e-rolled-stream");
        let client = Client {
            http: source.http(),
            rolled: format!("{prefix}-rolled"),
            swapped: format!("{prefix}-swapped"),
            stream: stream.clone(),
            behind_swapped: [format!("{prefix}-a"), format!("{prefix}-b")],
        };
        let template = json!({
            "index_patterns": [stream], "data_stream": {}, "priority": 500,
            "template": { "settings": { "number_of_replicas": 0 } },
        });
        here.put_json(&format!("/_index_template/{stream}"), &template)
            .await?;
        let settings = json!({ "number_of_shards": 1, "number_of_replicas": 0 });
        let first = json!({
            "settings": settings, "aliases": { &client.rolled: { "is_write_index": true } },
        });
        here.put_json(&format!("/{}-000001", client.rolled), &first)
            .await?;
        let [a, b] = &client.behind_swapped;
        for index in [a, b] {
            here.put_json(&format!("/{index}"), &json!({ "settings": settings }))
                .await?;
        }
        let swap = async |from: &str, to: &str| {
            let actions = json!({ "actions": [
                { "remove": { "index": from, "alias": client.swapped, "must_exist": false } },
                { "add": { "index": to, "alias": client.swapped } },
            ] });
            here.post_json("/_aliases", &actions).await
        };
        let add = json!({ "actions": [{ "add": { "index": a, "alias": client.swapped } }] });
        here.post_json("/_aliases", &add).await?;

        let patterns = format!("{prefix}-*,{stream}");
        let pipeline = Pipeline::new(&source.url(), &target.url(), &patterns).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        let stop = CancellationToken::new();
        let upheavals = async {
            let _stop = stop.clone().drop_guard();
            for round in 0..4 {
                some_more(&watcher).await?;
                let roll = json!({ "settings": settings });
                here.post_json(&format!("/{}/_rollover", client.rolled), &roll)
                    .await?;
                here.post_json(&format!("/{stream}/_rollover"), &Value::Null)
                    .await?;
                match round % 2 {
                    0 => swap(a, b).await?,
                    _ => swap(b, a).await?,
                };
            }
            some_more(&watcher).await
        };
        tokio::try_join!(client.write(&stop), upheavals)?;

        let mut indices = behind(&here, &format!("{prefix}-*")).await?;
        let of_stream = behind(&here, &stream).await?;
        ensure!(indices.len() == 7 && of_stream.len() == 5, "{indices:?}");
        indices.extend(of_stream);
        for index in &indices {
            let arrived = until_equal(&here, &there, index, PATIENCE).await;
            arrived.with_context(|| watcher.last_words())?;
        }
        for index in &indices[..7] {
            let wanted = aliases(&here, index).await?;
            wait_until(&format!("{index} has its aliases"), PATIENCE, async || {
                aliases(&there, index)
                    .await
                    .is_ok_and(|found| found == wanted)
            })
            .await?;
        }
        let by_name = format!("{prefix}-*,{}", indices[7..].join(","));
        for pattern in [&by_name, &patterns] {
            let verify = ["verify", &source.url(), &target.url(), "--indices", pattern];
            let verified = run(verify).await?.success()?;
            ensure!(verified.stdout.contains("equal: yes"), "{verified:?}");
        }
        watcher.stop().await?;
        writer.stop().await?;
        for index in &indices {
            there.delete(&format!("/{index}")).await?;
        }
        let path = format!("/_data_stream/{stream}");
        here.request("DELETE".parse()?, &path, "").await?;
    }
    Ok(())
}
