//! Documents that are easy to get wrong.

use std::ops::Range;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Http, Product};

/// Ids that break a URL, a line of JSON or a lookup by prefix when they are not treated with care.
pub(crate) const ODD_IDS: [&str; 12] = [
    "with spaces and a space at the end ",
    "a/b/../c",
    "quote\"and'apostrophe`",
    "back\\slash",
    "crab 🦀 und Straße",
    "%2F+%20?query#fragment&a=b;c:d,e",
    "line\nbreak\r\ttab",
    "_begins_with_an_underscore",
    "{\"_id\":\"json\"}",
    "-1",
    "\u{1}\u{7f}\u{2028}",
    ".",
];

/// Makes an index for [`load`] with so many shards.
pub(crate) async fn create(http: &Http, index: &str, shards: u32, with_join: bool) -> Result<()> {
    let mut properties = json!({
        "blob": { "type": "keyword", "index": false, "doc_values": false },
        "raw": { "type": "object", "enabled": false },
        "comments": { "type": "nested", "properties": { "author": { "type": "keyword" } } },
    });
    if with_join {
        properties["family"] = json!({ "type": "join", "relations": { "question": "answer" } });
    }
    let body = json!({
        "settings": { "index": { "number_of_shards": shards, "number_of_replicas": 0 } },
        "mappings": { "properties": properties },
    });
    http.put_json(&format!("/{index}"), &body).await.map(drop)
}

/// Whether join fields exist in the test servers of both products.
pub(crate) fn has_join(source: Product, target: Product) -> bool {
    source.has_reindex() && target.has_reindex()
}

/// Fills an index of [`create`]; returns how many documents it has then.
pub(crate) async fn load(http: &Http, index: &str, with_join: bool) -> Result<usize> {
    let mut documents: Vec<(String, Option<String>, Value)> = vec![
        ("empty".into(), None, json!({})),
        (
            "five megabytes".into(),
            None,
            json!({ "blob": "é".repeat(5 << 19) }),
        ),
        ("é".repeat(256), None, json!({ "id": "512 bytes long" })),
        (
            "numbers".into(),
            None,
            json!({ "raw": {
                "big": 12_345_678_901_234_567_890_u64, "negative": i64::MIN, "tiny": 1e-300, "float": 1.1,
            }}),
        ),
        (
            "text".into(),
            None,
            json!({ "raw": {
                "nul": "\u{0}", "controls": "\u{1b}\u{85}\u{2028}", "emoji": "🦀", "escape": "\\n\"", "": "empty key",
                "null": null, "deep": [[[[{ "a": [] }]]]],
            }}),
        ),
        (
            "nested".into(),
            None,
            json!({ "comments": [{ "author": "a" }, { "author": "b" }] }),
        ),
    ];
    documents.extend(ODD_IDS.map(|id| (id.into(), None, json!({ "id": id }))));
    for number in 0..300 {
        let routing = (number % 3 == 0).then(|| format!("route/ü {}", number % 7));
        let document = json!({ "number": number, "text": "lorem ipsum ".repeat(number % 40) });
        documents.push((format!("document-{number}"), routing, document));
    }
    if with_join {
        for (id, name) in [
            ("question", json!("question")),
            ("answer", json!({ "name": "answer", "parent": "question" })),
        ] {
            documents.push((
                id.into(),
                Some("question".into()),
                json!({ "family": name }),
            ));
        }
    }
    http.post_ndjson(&format!("/{index}/_bulk"), bulk(&documents))
        .await?;
    // Changed afterwards, so that some numbers of the history are taken by what is no more.
    for number in (0..300).step_by(5) {
        documents[18 + number].2["changed"] = json!(true);
    }
    http.post_ndjson(&format!("/{index}/_bulk"), bulk(&documents[18..318]))
        .await?;
    load_with_line_breaks(http, index).await?;
    Ok(documents.len() + 2)
}

/// What people type: JSON over several lines, which a line of `_bulk` cannot hold.
async fn load_with_line_breaks(http: &Http, index: &str) -> Result<()> {
    let pretty =
        serde_json::to_string_pretty(&json!({ "raw": { "lines": [1, 2, { "a": "\n" }] } }))?;
    let windows = pretty.replace('\n', "\r\n\t");
    for (id, body) in [("pretty", pretty), ("pretty-windows", windows)] {
        let path = format!("/{index}/_doc/{id}");
        let (status, answer) = http.request("PUT".parse()?, &path, body).await?;
        anyhow::ensure!(matches!(status, 200 | 201), "{answer}");
    }
    Ok(())
}

/// The body of a `_bulk` request.
pub(crate) fn bulk(documents: &[(String, Option<String>, Value)]) -> String {
    let mut body = String::new();
    for (id, routing, document) in documents {
        let action = match routing {
            None => json!({ "index": { "_id": id } }),
            Some(routing) => json!({ "index": { "_id": id, "routing": routing } }),
        };
        body.push_str(&format!("{action}\n{document}\n"));
    }
    body
}

/// Indexes plain documents with the numbers of a range as ids.
pub(crate) async fn index_numbers(
    http: &Http,
    index: &str,
    numbers: Range<usize>,
    round: usize,
) -> Result<()> {
    index_each(
        http,
        index,
        numbers,
        |number| json!({ "number": number, "round": round }),
    )
    .await
}

/// Indexes documents of about `size` bytes with the numbers of a range as ids.
pub(crate) async fn index_padded(
    http: &Http,
    index: &str,
    numbers: Range<usize>,
    size: usize,
) -> Result<()> {
    let padding = "p".repeat(size);
    index_each(
        http,
        index,
        numbers,
        |number| json!({ "number": number, "blob": padding }),
    )
    .await
}

async fn index_each(
    http: &Http,
    index: &str,
    numbers: Range<usize>,
    document: impl Fn(usize) -> Value,
) -> Result<()> {
    let documents: Vec<_> = numbers
        .map(|number| (number.to_string(), None, document(number)))
        .collect();
    http.post_ndjson(&format!("/{index}/_bulk"), bulk(&documents))
        .await
        .map(drop)
        .context("the load")
}

/// Deletes all documents that a query finds, as `_delete_by_query` would: not every server has it.
pub(crate) async fn delete_by_query(http: &Http, index: &str, query: Value) -> Result<()> {
    http.post_json(&format!("/{index}/_refresh"), &Value::Null)
        .await?;
    let query = json!({ "query": query, "size": 10_000, "_source": false });
    let found = http.post_json(&format!("/{index}/_search"), &query).await?;
    let hits = found["hits"]["hits"].as_array().context("no hits")?;
    let deletes = hits.iter().map(|hit| {
        let mut meta = json!({ "_id": hit["_id"] });
        if hit["_routing"].is_string() {
            meta["routing"] = hit["_routing"].clone();
        }
        format!("{}\n", json!({ "delete": meta }))
    });
    let body: String = deletes.collect();
    http.post_ndjson(&format!("/{index}/_bulk"), body).await?;
    Ok(())
}
