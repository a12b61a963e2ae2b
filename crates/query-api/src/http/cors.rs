//! Which other sites' pages may ask.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// How long a browser remembers the answer.
const REMEMBERED: &str = "600";
const METHODS: &str = "GET, HEAD, POST";
const ASKED_WITH: &str = "authorization, content-type, if-none-match, syncline-min-lsn, syncline-min-position, x-api-key";
const READABLE: &str = "etag, retry-after";

/// Whether a browser asks if it may ask.
pub(super) fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to that.
pub(super) fn preflight(origins: &[String], headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if allowed(origins, headers).is_some() {
        let answer = response.headers_mut();
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(METHODS),
        );
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(ASKED_WITH),
        );
        answer.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static(REMEMBERED),
        );
    }
    response
}

/// Lets the page read the answer if its origin is one of ours.
pub(super) fn allow(origins: &[String], headers: &HeaderMap, answer: &mut HeaderMap) {
    if origins.is_empty() {
        return;
    }
    answer.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed(origins, headers) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(READABLE),
        );
    }
}

fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let all = origins.iter().any(|allowed| allowed == "*");
    let named = origins
        .iter()
        .any(|allowed| allowed.as_bytes() == origin.as_bytes());
    // Keys travel in headers, never in cookies, so an answer for all origins gives nothing away.
    match (all, named) {
        (true, _) => Some(HeaderValue::from_static("*")),
        (false, true) => Some(origin.clone()),
        (false, false) => None,
    }
}
