//! Whether two indices are equal: every document of both, parsed, with its routing.
//!
//! Everything is held in memory, which is fine for tests and nothing else.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::{Http, wait_until};

/// The documents of an index by id and routing.
pub(crate) type Contents = BTreeMap<(String, Option<String>), Value>;

const PAGE: usize = 1000;

/// Reads an index completely.
pub(crate) async fn contents(http: &Http, index: &str) -> Result<Contents> {
    http.post_json(&format!("/{index}/_refresh"), &Value::Null)
        .await?;
    let query = json!({ "size": PAGE, "sort": ["_doc"] });
    let mut page = http
        .post_json(&format!("/{index}/_search?scroll=1m"), &query)
        .await?;
    let mut contents = Contents::new();
    let scroll = loop {
        let failed = page["_shards"]["failed"].as_u64();
        if failed != Some(0) || page["timed_out"] == true {
            bail!("{index} was not read completely: {}", page["_shards"]);
        }
        let scroll = page["_scroll_id"].take();
        let hits = page["hits"]["hits"].as_array_mut().context("no hits")?;
        if hits.is_empty() {
            break scroll;
        }
        for hit in hits {
            let id = hit["_id"].as_str().context("a hit without _id")?.to_owned();
            let routing = hit["_routing"].as_str().map(str::to_owned);
            let twice = contents.insert((id, routing), hit["_source"].take());
            if twice.is_some() {
                bail!("{index} has {:?} twice", hit["_id"]);
            }
        }
        let next = json!({ "scroll": "1m", "scroll_id": scroll });
        page = http.post_json("/_search/scroll", &next).await?;
    };
    let done = json!({ "scroll_id": scroll }).to_string();
    http.request("DELETE".parse()?, "/_search/scroll", done)
        .await?;
    Ok(contents)
}

/// What is missing, extra or different in the target; `None` when nothing is.
pub(crate) fn difference(source: &Contents, target: &Contents) -> Option<String> {
    let missing = source.keys().filter(|key| !target.contains_key(*key));
    let extra = target.keys().filter(|key| !source.contains_key(*key));
    let different = source
        .iter()
        .filter(|(key, document)| target.get(*key).is_some_and(|other| other != *document));
    let (missing, extra): (Vec<_>, Vec<_>) = (missing.collect(), extra.collect());
    let different: Vec<_> = different
        .map(|(key, document)| {
            let target = target.get(key).unwrap_or(&Value::Null);
            let (source, target) = members_that_differ(document, target);
            format!("{key:?}: {source:.120} became {target:.120}")
        })
        .collect();
    if missing.is_empty() && extra.is_empty() && different.is_empty() {
        return None;
    }
    Some(format!(
        "source {} target {} documents; {} missing {:?}, {} extra {:?}, {} different {:#?}",
        source.len(),
        target.len(),
        missing.len(),
        &missing[..missing.len().min(5)],
        extra.len(),
        &extra[..extra.len().min(5)],
        different.len(),
        &different[..different.len().min(5)],
    ))
}

/// Two documents as text, without the members that are the same in both.
fn members_that_differ(source: &Value, target: &Value) -> (String, String) {
    let (Some(one), Some(other)) = (source.as_object(), target.as_object()) else {
        return (source.to_string(), target.to_string());
    };
    let only = |this: &serde_json::Map<String, Value>, that: &serde_json::Map<String, Value>| {
        let members = this
            .iter()
            .filter(|(name, value)| that.get(*name) != Some(value));
        let members: Vec<String> = members
            .map(|(name, value)| format!("{name}: {value:.60}"))
            .collect();
        format!("{{{}}}", members.join(", "))
    };
    (only(one, other), only(other, one))
}

/// Checks that an index is the same in both clusters; returns how many documents it has.
pub(crate) async fn assert_equal(source: &Http, target: &Http, index: &str) -> Result<usize> {
    let documents = contents(source, index).await?;
    match difference(&documents, &contents(target, index).await?) {
        None => Ok(documents.len()),
        Some(difference) => bail!("{index} is not equal: {difference}"),
    }
}

/// Waits until an index is the same in both clusters; returns how many documents it has.
pub(crate) async fn until_equal(
    source: &Http,
    target: &Http,
    index: &str,
    within: Duration,
) -> Result<usize> {
    let waited = wait_until("source and target are equal", within, async || {
        // Counting is cheap, and differs for most of the time.
        match (source.count(index).await, target.count(index).await) {
            (Ok(source_count), Ok(target_count)) if source_count == target_count => {
                assert_equal(source, target, index).await.is_ok()
            }
            _ => false,
        }
    });
    match (waited.await, assert_equal(source, target, index).await) {
        (_, Ok(documents)) => Ok(documents),
        (Err(late), Err(difference)) => Err(difference.context(late)),
        (Ok(()), Err(difference)) => Err(difference.context("it was equal and is not any more")),
    }
}
