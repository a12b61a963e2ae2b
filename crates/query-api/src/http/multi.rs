//! Several searches in one request, each with an answer or a problem of its own.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Api,
    request::{Asked, Target},
    search::{self, Prepared},
};
use crate::{
    answer::Found,
    limits::most,
    problem::{Kind, Problem},
    query::body,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    searches: Vec<serde_json::Map<String, Value>>,
}

/// What the cluster answers.
#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    responses: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(default)]
    status: u16,
    error: Option<serde::de::IgnoredAny>,
}

struct One {
    target: Target,
    prepared: Prepared,
}

pub(super) async fn search(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let (asked, body) = Asked::with_body(&api, request)?;
    let bytes = asked.json(&api, body).await?;
    asked.no_parameters()?;
    let body: Body = body::object(&bytes)?;
    most(
        "searches",
        "searches",
        body.searches.len(),
        api.limits.searches,
    )?;
    let mut parts = Vec::with_capacity(body.searches.len());
    for members in body.searches {
        parts.push(one(&api, &asked, members).await);
    }
    let sent: Vec<_> = parts
        .iter()
        .flatten()
        .map(|one| {
            (
                one.target.schema.index.as_str(),
                &one.prepared.compiled.guarded,
            )
        })
        .collect();
    let bytes = if sent.is_empty() {
        bytes::Bytes::from_static(b"{\"responses\":[]}")
    } else {
        api.backend.search_all(&sent).await?
    };
    let unreadable = |_| {
        Problem::new(
            Kind::Unavailable,
            "the search cluster's answer cannot be read",
        )
    };
    let answers: Answers<'_> = serde_json::from_slice(&bytes).map_err(unreadable)?;
    let mut answers = answers.responses.into_iter();
    let mut results = Vec::with_capacity(parts.len());
    for part in &parts {
        let result = match part {
            Err(problem) => Err(problem.clone()),
            Ok(one) => answers
                .next()
                .ok_or_else(|| {
                    Problem::new(Kind::Unavailable, "the search cluster left a search out")
                })
                .and_then(|answer| read(&api, one, answer.get())),
        };
        results.push(result.unwrap_or_else(|problem| problem.to_json()));
    }
    search::respond(&api, &asked, &json!({ "results": results }))
}

async fn one(
    api: &Api,
    asked: &Asked,
    mut members: serde_json::Map<String, Value>,
) -> Result<One, Problem> {
    // Each search costs what it would cost alone; the first is paid for by the request.
    let Some(Value::String(index)) = members.remove("index") else {
        return Err(Problem::of(Kind::BadParameter, "index", "it is not given"));
    };
    let target = Target::of(api, &asked.key, &index)?;
    let query = body::of(members)?;
    if query.is_snapshot || query.cursor.is_some() {
        let detail = "lists are read page by page with search";
        return Err(Problem::of(Kind::BadParameter, "cursor", detail));
    }
    let prepared = search::prepare(api, &target, query)?;
    api.wait(&target, prepared.query.position.as_deref())
        .await?;
    Ok(One { target, prepared })
}

fn read(api: &Api, one: &One, answer: &str) -> Result<Value, Problem> {
    let failed: Failed = serde_json::from_str(answer).map_err(|_| {
        Problem::new(
            Kind::Unavailable,
            "the search cluster's answer cannot be read",
        )
    })?;
    if failed.error.is_some() {
        tracing::warn!(
            status = failed.status,
            index = one.target.schema.name,
            "the search cluster refuses a search"
        );
        return Err(match failed.status {
            400..=499 => Problem::new(
                Kind::BadParameter,
                "the search cluster cannot carry out this search",
            ),
            _ => Problem::new(Kind::Unavailable, "the search cluster cannot answer now"),
        });
    }
    let found = Found::read(answer.as_bytes())?;
    let Prepared {
        query, compiled, ..
    } = &one.prepared;
    let answer = search::answer(api, &one.target, query, compiled, &found, None, None)?;
    serde_json::to_value(&answer)
        .map_err(|_| Problem::new(Kind::Internal, "the answer cannot be written"))
}
