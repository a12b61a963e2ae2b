//! Writing many documents at once, with an outcome for each.

use std::time::Duration;

use bytes::Bytes;
use model::IndexName;
use serde::Deserialize;

use crate::{Client, Error, Request, encode, refusal::forbidden_item};

/// What became of one action of a bulk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Item {
    /// The HTTP status it would have had alone: 200 or 201 written, 404 nothing to delete, 409 a
    /// higher version is there.
    pub status: u16,
    /// Why it was refused. Deleting what is not there is no refusal.
    pub error: Option<ItemError>,
}

/// Why an action was refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ItemError {
    /// The server's name for it, such as `mapper_parsing_exception`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its sentence, with the cause behind it.
    #[serde(default)]
    pub reason: String,
    #[serde(default, rename = "caused_by")]
    cause: Option<Cause>,
}

impl ItemError {
    /// Of a version conflict: the version that is there. The servers say it in their sentence only
    /// (`VersionType.explainConflictForWrites`).
    pub fn held_version(&self) -> Option<u64> {
        let (_, rest) = self.reason.split_once("current version [")?;
        rest.split_once(']')?.0.parse().ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    items: Vec<Action>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Index(Item),
    Create(Item),
    Update(Item),
    Delete(Item),
}

impl Client {
    /// Sends a bulk body of `expected` actions and returns their outcomes in the same order. With a
    /// `timeout` the cluster waits no longer for a shard that is away, so that nothing begins to be written
    /// after it.
    ///
    /// # Errors
    /// When the bulk as a whole was refused or its fate is unknown, or when the user lacks a privilege
    /// for any action in it. An action that was refused for what it says is no error here.
    pub async fn bulk(
        &self,
        index: &IndexName,
        body: Bytes,
        expected: usize,
        timeout: Option<Duration>,
    ) -> Result<Vec<Item>, Error> {
        let wait = timeout.map_or(String::new(), |t| format!("&timeout={}ms", t.as_millis()));
        let path = format!(
            "/{}/_bulk?filter_path=took,errors,items.*.status,items.*.error{wait}",
            encode(index.as_str())
        );
        let request = Request::post(path).ndjson(body);
        let answer = self.send(request).await?;
        let items = parse(&answer, expected)
            .map_err(|e| Error::malformed(format!("bulk into {index}"), e))?;
        match items.iter().find_map(Item::forbidden) {
            Some(reason) => Err(forbidden_item(format!("POST /{index}/_bulk"), reason)),
            None => Ok(items),
        }
    }
}

fn parse(body: &[u8], expected: usize) -> Result<Vec<Item>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if answer.items.len() != expected {
        let got = answer.items.len();
        return Err(format!("{got} outcomes for {expected} actions"));
    }
    let items = answer.items.into_iter().map(|action| {
        let (Action::Index(item)
        | Action::Create(item)
        | Action::Update(item)
        | Action::Delete(item)) = action;
        item.with_cause()
    });
    Ok(items.collect())
}

impl Item {
    /// Why the action may not be done by this user at all.
    fn forbidden(&self) -> Option<&str> {
        let error = self.error.as_ref()?;
        (error.kind == "security_exception").then_some(error.reason.as_str())
    }

    fn with_cause(mut self) -> Item {
        if let Some(error) = &mut self.error
            && let Some(cause) = error.cause.take()
            && !cause.reason.is_empty()
        {
            error.reason = format!("{}: {}", error.reason, cause.reason);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_keep_their_order_and_their_reasons() {
        let body = br#"{"took":3,"errors":true,"items":[{"index":{"status":201}},{"delete":{"status":404}},
            {"index":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse",
            "caused_by":{"type":"x","reason":"For input string: \"a\""}}}}]}"#;
        let items = parse(body, 3).unwrap();
        assert_eq!(
            items.iter().map(|i| i.status).collect::<Vec<_>>(),
            [201, 404, 400]
        );
        let error = items[2].error.as_ref().unwrap();
        assert_eq!(error.kind, "mapper_parsing_exception");
        assert_eq!(error.reason, "failed to parse: For input string: \"a\"");
    }

    #[test]
    fn an_answer_with_another_number_of_outcomes_is_not_believed() {
        let body = br#"{"errors":false,"items":[{"index":{"status":201}}]}"#;
        assert!(parse(body, 2).unwrap_err().contains("1 outcomes for 2"));
        assert!(parse(b"{}", 1).is_err());
    }
}
