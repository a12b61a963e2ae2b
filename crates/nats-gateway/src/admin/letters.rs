//! Dead letters over HTTP. What takes longer than a request, such as sending thousands again, is a matter for
//! `syncline dlq`.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bus::{
    Letter, Letters,
    dead_letters::{Address, Contents},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::problem;
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

#[allow(clippy::result_large_err, reason = "an answer, made once a request")]
fn letters(control: &Control) -> Result<&Letters, Response> {
    control.letters().ok_or_else(|| {
        problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &["not connected to NATS yet".to_owned()],
        )
    })
}

fn failed(error: &bus::Error) -> Response {
    problem(StatusCode::BAD_GATEWAY, &[error.to_string()])
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

pub(crate) async fn list(State(control): State<Control>, Query(which): Query<Which>) -> Response {
    let found = async {
        let letters = letters(&control)?;
        let filter = Address::filter(which.stream.as_deref(), which.reader.as_deref());
        let mut pages = letters
            .list(&filter)
            .await
            .map_err(|error| failed(&error))?;
        let (limit, after) = (
            which.limit.unwrap_or(PAGE).min(MOST),
            which.after.unwrap_or(0),
        );
        let mut shown_letters = Vec::new();
        loop {
            let page = pages.next().await.map_err(|error| failed(&error))?;
            if page.is_empty() {
                break;
            }
            let page = page.iter().filter(|letter| letter.at > after);
            shown_letters.extend(page.map(shown).take(limit - shown_letters.len()));
            if shown_letters.len() >= limit {
                break;
            }
        }
        Ok(Json(json!({ "letters": shown_letters })).into_response())
    };
    found.await.unwrap_or_else(|response: Response| response)
}

async fn find(control: &Control, number: u64) -> Result<(&Letters, Letter), Response> {
    let letters = letters(control)?;
    match letters.at(number).await.map_err(|error| failed(&error))? {
        Some(letter) => Ok((letters, letter)),
        None => Err(problem(
            StatusCode::NOT_FOUND,
            &[format!("there is no letter {number}")],
        )),
    }
}

pub(crate) async fn show(State(control): State<Control>, Path(number): Path<u64>) -> Response {
    let found = async {
        let (letters, letter) = find(&control, number).await?;
        let contents = letters
            .read(&letter)
            .await
            .map_err(|error| failed(&error))?;
        let mut answer = shown(&letter);
        match contents {
            Some(Contents::Change(change)) => {
                answer["operation"] = change.operation().as_str().into();
                let document = change.document().map(|document| {
                    let text = String::from_utf8_lossy(document.as_bytes()).into_owned();
                    match RawValue::from_string(text.clone()) {
                        // Parsed, so that it stands in the answer as what it is.
                        Ok(raw) => serde_json::from_str(raw.get()).unwrap_or(Value::String(text)),
                        Err(_) => Value::String(text),
                    }
                });
                answer["document"] = document.unwrap_or(Value::Null);
            }
            Some(Contents::Unreadable(body)) => {
                answer["body"] = String::from_utf8_lossy(&body).into();
            }
            None => {}
        }
        Ok(Json(answer).into_response())
    };
    found.await.unwrap_or_else(|response: Response| response)
}

pub(crate) async fn replay(State(control): State<Control>, Path(number): Path<u64>) -> Response {
    let sent = async {
        let (letters, letter) = find(&control, number).await?;
        match letters.replay(&letter, None).await {
            Ok(Some(sequence)) => {
                let answer = json!({ "stream": letter.stream, "sequence": sequence });
                Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
            }
            Ok(None) => Err(problem(
                StatusCode::NOT_FOUND,
                &[format!("letter {number} is gone")],
            )),
            Err(error) => Err(failed(&error)),
        }
    };
    sent.await.unwrap_or_else(|response: Response| response)
}

pub(crate) async fn remove(State(control): State<Control>, Path(number): Path<u64>) -> Response {
    let removed = async {
        let (letters, letter) = find(&control, number).await?;
        letters
            .remove(&letter)
            .await
            .map_err(|error| failed(&error))?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    removed.await.unwrap_or_else(|response: Response| response)
}
