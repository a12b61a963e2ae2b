//! Read your writes through the whole pipeline: what the source has answered to a write is what a search waits for.

use anyhow::{Context, Result};
use serde_json::json;
use testkit::Http;

use super::{index_name, nodes};
use crate::support::{
    equal::until_equal,
    pipeline::Pipeline,
    program::{PATIENCE, Program},
};

#[tokio::test]
async fn a_search_with_the_position_of_a_write_sees_it() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("query");
    // Nothing makes the target's documents visible but whoever asks for a position.
    let definition = json!({
        "settings": { "number_of_shards": 3, "number_of_replicas": 0, "refresh_interval": "-1" },
        "mappings": { "properties": { "n": { "type": "long" } } },
    });
    from.put_json(&format!("/{index}"), &definition).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let listen = format!("127.0.0.1:{port}");
    let to_url = target.url();
    let arguments = [
        "query-api",
        "--es-hosts",
        &to_url,
        "--indices",
        &index,
        "--listen",
        &listen,
    ];
    let more = [
        "--anonymous",
        "--schema-interval",
        "100ms",
        "--position-timeout",
        "60s",
    ];
    let api = Program::start([&arguments[..], &more].concat())?;
    api.ready().await?;
    let asked = Http::new(&format!("http://{listen}"));
    from.put_json(&format!("/{index}/_doc/first"), &json!({ "n": 0 }))
        .await?;
    // The index says where it comes from a moment after it is there.
    let known = format!(
        "/v1/{index}/count?min_position={}",
        search_encode("0/first")
    );
    testkit::wait_until("the index is served", PATIENCE, async || {
        asked.get_json(&known).await.is_ok()
    })
    .await?;
    for n in 1..40_u64 {
        let id = format!("doc {}", n % 7);
        let path = format!("/{index}/_doc/{}", search_encode(&id));
        let written = from.put_json(&path, &json!({ "n": n })).await?;
        let seq_no = written["_seq_no"].as_u64().context("no _seq_no")?;
        let position = search_encode(&format!("{seq_no}/{id}"));
        let path = format!("/v1/{index}/search?n=eq.{n}&min_position={position}");
        let found = asked.get_json(&path).await?;
        assert_eq!(found["hits"][0]["document"]["n"], n, "{found}");
    }
    until_equal(&from, &to, &index, PATIENCE).await?;
    api.stop().await?;
    watcher.stop().await?;
    writer.stop().await
}

/// A text as one part of a URL.
fn search_encode(text: &str) -> String {
    search::encode(text).into_owned()
}
