//! Dead letters over HTTP. What takes longer than a request, such as sending thousands again, is a matter for
//! `syncline dlq`.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use bus::{
    Letter, Letters,
    dead_letters::{Address, Contents},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Problem;
use crate::Control;

/// How many letters an answer has unless it is said.
const PAGE: usize = 100;
/// How many it has at most.
const MOST: usize = 1000;

/// Which letters to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Only those of this stream's readers.
    stream: Option<String>,
    /// Only those of this reader.
    reader: Option<String>,
    /// Only those parked after this number.
    after: Option<u64>,
    limit: Option<usize>,
}

fn letters(control: &Control) -> Result<&Letters, Problem> {
    control.letters().ok_or_else(|| {
        let reason = "not connected to NATS yet".to_owned();
        Problem(StatusCode::SERVICE_UNAVAILABLE, vec![reason])
    })
}

fn failed(error: &bus::Error) -> Problem {
    Problem(StatusCode::BAD_GATEWAY, vec![error.to_string()])
}

fn missing(reason: String) -> Problem {
    Problem(StatusCode::NOT_FOUND, vec![reason])
}

fn shown(letter: &Letter) -> Value {
    json!({
        "number": letter.at,
        "index": letter.index(),
        "id": letter.id,
        "routing": letter.routing,
        "version": letter.version.map(model::Version::get),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_parked_ms": letter.first_parked,
        "parked_ms": letter.parked,
        "stream": letter.stream,
        "reader": letter.reader(),
        "sequence": letter.sequence,
        "subject": letter.original,
        "bytes": letter.size,
    })
}

pub(crate) async fn list(
    State(control): State<Control>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Problem> {
    let filter = Address::filter(which.stream.as_deref(), which.reader.as_deref());
    let pages = letters(&control)?.list(&filter).await;
    let mut pages = pages.map_err(|error| failed(&error))?;
    let limit = which.limit.unwrap_or(PAGE).min(MOST);
    let after = which.after.unwrap_or(0);
    let mut found = Vec::new();
    loop {
        let page = pages.next().await.map_err(|error| failed(&error))?;
        if page.is_empty() || found.len() >= limit {
            return Ok(Json(json!({ "letters": found })));
        }
        let page = page.iter().filter(|letter| letter.at > after);
        found.extend(page.map(shown).take(limit - found.len()));
    }
}

async fn find(control: &Control, number: u64) -> Result<(&Letters, Letter), Problem> {
    let letters = letters(control)?;
    let letter = letters.at(number).await.map_err(|error| failed(&error))?;
    let letter = letter.ok_or_else(|| missing(format!("there is no letter {number}")))?;
    Ok((letters, letter))
}

pub(crate) async fn show(
    State(control): State<Control>,
    Path(number): Path<u64>,
) -> Result<Json<Value>, Problem> {
    let (letters, letter) = find(&control, number).await?;
    let contents = letters.read(&letter).await;
    let mut answer = shown(&letter);
    match contents.map_err(|error| failed(&error))? {
        Some(Contents::Change(change)) => {
            answer["operation"] = change.operation().as_str().into();
            answer["document"] = change.document().map_or(Value::Null, |document| {
                // What is no JSON may be why it is here.
                serde_json::from_slice(document.as_bytes())
                    .unwrap_or_else(|_| String::from_utf8_lossy(document.as_bytes()).into())
            });
        }
        Some(Contents::Unreadable(body)) => {
            answer["body"] = String::from_utf8_lossy(&body).into();
        }
        None => {}
    }
    Ok(Json(answer))
}

pub(crate) async fn replay(
    State(control): State<Control>,
    Path(number): Path<u64>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (letters, letter) = find(&control, number).await?;
    let sent = letters.replay(&letter, None).await;
    let sent = sent.map_err(|error| failed(&error))?;
    let sequence = sent.ok_or_else(|| missing(format!("letter {number} is gone")))?;
    let answer = json!({ "stream": letter.stream, "sequence": sequence });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

pub(crate) async fn remove(
    State(control): State<Control>,
    Path(number): Path<u64>,
) -> Result<StatusCode, Problem> {
    let (letters, letter) = find(&control, number).await?;
    letters
        .remove(&letter)
        .await
        .map_err(|error| failed(&error))?;
    Ok(StatusCode::NO_CONTENT)
}
