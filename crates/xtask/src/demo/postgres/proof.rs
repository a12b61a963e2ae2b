//! Whether tables and indices are equal: every row, as the server's own client gives it, and every document.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, PostgresServer};

use crate::nycflights::DATABASE;

const PAGE: usize = 5000;

/// Tables and the SQL that gives a row's id.
const IDS: [(&str, &str); 6] = [
    ("airlines", "t.carrier"),
    ("airports", "t.faa"),
    ("planes", "t.tailnum"),
    ("weather", "t.origin || '|' || t.time_hour"),
    ("flights", "t.id"),
    ("routes", "t.origin || '|' || t.dest"),
];

/// A sentence for each table that is not equal to its index.
pub(super) async fn compare(source: &PostgresServer, target: &Http) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (table, id) in IDS {
        let (rows, documents) = (
            rows(source, table, id).await?,
            documents(target, table).await?,
        );
        let unequal = rows
            .iter()
            .filter(|(id, row)| documents.get(*id) != Some(row));
        let mut unequal: Vec<&String> = unequal.map(|(id, _)| id).collect();
        unequal.extend(documents.keys().filter(|id| !rows.contains_key(*id)));
        if !unequal.is_empty() {
            differences.push(format!(
                "{table}: {} rows, {} documents, {} not equal, such as {:?}",
                rows.len(),
                documents.len(),
                unequal.len(),
                &unequal[..unequal.len().min(3)]
            ));
        }
    }
    Ok(differences)
}

/// The digest of each row by its id.
async fn rows(source: &PostgresServer, table: &str, id: &str) -> Result<HashMap<String, u64>> {
    // The server's own JSON writes a moment with +00:00, documents have a Z.
    let moment = match table {
        "weather" | "flights" => {
            "|| jsonb_build_object('time_hour', to_char(t.time_hour, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))"
        }
        _ => "",
    };
    let script = format!(
        "SET timezone = 'UTC'; SELECT json_build_array(({id})::text, to_jsonb(t) {moment}) FROM {table} t;"
    );
    let answer = source.psql(DATABASE, &script).await?;
    let pairs = answer.lines().map(|line| {
        let (id, row): (String, Value) = serde_json::from_str(line).context(line.to_owned())?;
        Ok((id, digest(&row)))
    });
    pairs.collect()
}

/// The digest of each document by its id.
async fn documents(target: &Http, index: &str) -> Result<HashMap<String, u64>> {
    target
        .post_json(&format!("/{index}/_refresh"), &Value::Null)
        .await?;
    let query = json!({ "size": PAGE, "sort": ["_doc"] });
    let mut page = target
        .post_json(&format!("/{index}/_search?scroll=1m"), &query)
        .await?;
    let mut all = HashMap::new();
    loop {
        ensure!(
            page["_shards"]["failed"] == 0,
            "{index} was not read completely: {}",
            page["_shards"]
        );
        let hits = page["hits"]["hits"].as_array().context("no hits")?;
        if hits.is_empty() {
            return Ok(all);
        }
        for hit in hits {
            let id = hit["_id"].as_str().context("a hit without _id")?;
            all.insert(id.to_owned(), digest(&hit["_source"]));
        }
        let next = json!({ "scroll": "1m", "scroll_id": page["_scroll_id"] });
        page = target.post_json("/_search/scroll", &next).await?;
    }
}

/// Of a flat object, whatever the order of its members.
fn digest(document: &Value) -> u64 {
    let members = document.as_object().into_iter().flatten();
    let members: BTreeMap<&String, String> = members
        .map(|(name, value)| (name, value.to_string()))
        .collect();
    let mut hasher = DefaultHasher::new();
    members.hash(&mut hasher);
    hasher.finish()
}
