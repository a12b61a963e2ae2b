//! The gateway's part of the admin listener: statistics, rules, dead letters, pause.
//!
//! Whatever changes something, or shows what documents hold, needs the bearer token; without a token configured
//! those routes are off. `GET /openapi.json` describes all of it.

mod letters;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde_json::{Value, json};

use crate::{
    Control,
    control::{InForce, RulesError},
};

/// The description of all routes of the listener.
pub(crate) const OPENAPI: &str = include_str!("admin/openapi.json");

/// The routes that a gateway adds to those of [`runtime::admin`].
pub fn routes(control: Control) -> Router {
    let guarded = Router::new()
        .route("/filters", put(replace))
        .route("/filters/validate", post(validate))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/dead-letters", get(letters::list))
        .route("/dead-letters/{number}", get(letters::show))
        .route("/dead-letters/{number}", delete(letters::remove))
        .route("/dead-letters/{number}/replay", post(letters::replay))
        .route_layer(middleware::from_fn_with_state(control.clone(), guard));
    Router::new()
        .route("/stats", get(stats))
        .route("/filters", get(filters))
        .route("/openapi.json", get(openapi))
        .merge(guarded)
        .with_state(control)
}

/// An answer that says what is wrong.
#[derive(Debug)]
struct Problem(StatusCode, Vec<String>);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "errors": self.1 }))).into_response()
    }
}

async fn guard(
    State(control): State<Control>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(token) = control.token() else {
        let reason =
            "this route is off: start the gateway with --admin-token or --admin-token-file";
        return Err(Problem(StatusCode::NOT_FOUND, vec![reason.to_owned()]));
    };
    let given = request.headers().get(AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match given.is_some_and(|given| is_same(given, token.expose().as_bytes())) {
        true => Ok(next.run(request).await),
        false => {
            let reason =
                "this needs the header `Authorization: Bearer TOKEN` with the gateway's token";
            Err(Problem(StatusCode::UNAUTHORIZED, vec![reason.to_owned()]))
        }
    }
}

/// Compares in a time that does not tell how much is right.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differs = given
        .iter()
        .zip(token)
        .fold(0, |differs, (a, b)| differs | (a ^ b));
    given.len() == token.len() && differs == 0
}

async fn openapi() -> Response {
    ([("content-type", "application/json")], OPENAPI).into_response()
}

async fn stats(State(control): State<Control>) -> Json<Value> {
    let rules = control.rules().borrow().clone();
    let counts = control.counts();
    Json(json!({
        "rules": {
            "hash": rules.rules.hash(),
            "since_ms": rules.since_ms,
            "from": rules.from,
            "refused": control.refused(),
        },
        "paused": *control.paused().borrow(),
        "reads": control.subjects(),
        "entries": counts.map(|counts| counts.entries),
        "left_out": counts.map(|counts| counts.left_out),
        "changes": {
            "read": counts.map(|counts| counts.read),
            "passed": counts.map(|counts| counts.passed),
            "published": counts.map(|counts| counts.published),
            "refused": counts.map(|counts| counts.letters),
        },
        "pending": counts.map(|counts| counts.pending),
    }))
}

fn shown(rules: &InForce) -> Value {
    json!({
        "hash": rules.rules.hash(),
        "since_ms": rules.since_ms,
        "from": rules.from,
        "names": rules.rules.names(),
        "rules": rules.rules.text(),
    })
}

async fn filters(State(control): State<Control>) -> Json<Value> {
    Json(shown(&control.rules().borrow()))
}

fn refused(error: &RulesError) -> Problem {
    let errors: Vec<String> = match error {
        RulesError::Invalid(issues) => issues.iter().map(ToString::to_string).collect(),
        error => vec![error.to_string()],
    };
    Problem(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

async fn replace(State(control): State<Control>, text: String) -> Result<Json<Value>, Problem> {
    let rules = control.replace(&text).map_err(|error| refused(&error))?;
    Ok(Json(shown(&rules)))
}

async fn validate(State(control): State<Control>, text: String) -> Result<Json<Value>, Problem> {
    let rules = control.validate(&text).map_err(|error| refused(&error))?;
    Ok(Json(
        json!({ "hash": rules.hash(), "names": rules.names() }),
    ))
}

async fn pause(State(control): State<Control>) -> Json<Value> {
    control.pause(true);
    Json(json!({ "paused": true }))
}

async fn resume(State(control): State<Control>) -> Json<Value> {
    control.pause(false);
    Json(json!({ "paused": false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same(b"secret", b"secret"));
        for given in [&b""[..], b"secre", b"secret ", b"Secret"] {
            assert!(!is_same(given, b"secret"));
        }
    }
}
