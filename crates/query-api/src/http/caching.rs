//! ETags and what caches may do.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use xxhash_rust::xxh3::xxh3_128;

/// An answer as JSON. To a GET it has an ETag, and is not sent again to who has it.
pub(super) fn json(method: &Method, asked: &HeaderMap, cache: Duration, body: Vec<u8>) -> Response {
    let is_get = method == Method::GET || method == Method::HEAD;
    let tag = format!("\"{:032x}\"", xxh3_128(&body));
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let tags = value.to_str().unwrap_or_default();
        tags.split(',')
            .map(str::trim)
            .any(|known| known.trim_start_matches("W/") == tag || known == "*")
    });
    let mut response = match is_get && known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => body.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let seconds = cache.as_secs();
    let policy = match is_get {
        true => format!("private, max-age={seconds}, must-revalidate"),
        false => "no-store".to_owned(),
    };
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CACHE_CONTROL, policy);
    }
    if is_get && let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
        // Another key sees another answer.
        headers.append(
            header::VARY,
            HeaderValue::from_static("authorization, x-api-key"),
        );
    }
    response
}

/// What every answer says.
pub(super) fn secure(headers: &mut HeaderMap) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
