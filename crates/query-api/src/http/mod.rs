//! The edge: paths, headers, bodies, and what every request goes through.

mod caching;
mod cors;
mod meta;
mod multi;
mod request;
mod search;

use std::{sync::Arc, time::Duration};

use crate::{
    backend::Backend,
    catalogue::Catalogue,
    compile,
    cursor::Sealer,
    keys::Keys,
    limits::Limits,
    metrics::QueryMetrics,
    positions::{self, Position},
    problem::{Kind, Problem},
    snapshots::Snapshots,
};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) keys: Keys,
    pub(crate) catalogue: Catalogue,
    pub(crate) backend: Backend,
    pub(crate) sealer: Sealer,
    pub(crate) snapshots: Snapshots,
    pub(crate) limits: Limits,
    pub(crate) metrics: QueryMetrics,
    pub(crate) edge: Edge,
}

/// How requests and answers are treated as such.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) max_body: usize,
    pub(crate) max_url: usize,
    pub(crate) origins: Vec<String>,
    pub(crate) cache: Duration,
    pub(crate) slow: Duration,
    pub(crate) position_timeout: Duration,
}

/// All paths. What is asked of the cluster is asked for by a key; the page is for everybody.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1", get(meta::indices))
        .route("/v1/{index}", get(meta::index))
        .route(
            "/v1/{index}/search",
            get(search::by_url).post(search::by_body),
        )
        .route(
            "/v1/{index}/count",
            get(search::count_by_url).post(search::count_by_body),
        )
        .route("/v1/{index}/suggest", get(search::suggest))
        .route("/v1/{index}/{id}", get(search::document))
        .route("/v1/multi-search", post(multi::search))
        .route("/openapi.json", get(meta::openapi))
        .route("/docs", get(meta::page))
        .fallback(async || Problem::new(Kind::UnknownPath, "see /docs for what there is"))
        .method_not_allowed_fallback(not_allowed)
        .with_state(Arc::clone(&api))
        .layer(middleware::from_fn_with_state(api, around))
}

async fn not_allowed(request: Request) -> Problem {
    let path = request.uri().path();
    let allow = if path == "/v1/multi-search" {
        "POST"
    } else if path.ends_with("/search") || path.ends_with("/count") {
        "GET, HEAD, POST"
    } else {
        "GET, HEAD"
    };
    let detail = format!("the path takes {allow}");
    Problem {
        allow: Some(allow.to_owned()),
        ..Problem::new(Kind::MethodNotAllowed, detail)
    }
}

/// What happens to every request: its URL is measured, browsers of other sites are answered, and how it
/// went is counted and, if it took long, logged by what it was, not by what it asked.
async fn around(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let start = std::time::Instant::now();
    let operation = operation(request.uri().path());
    let method = request.method().clone();
    let headers = request.headers().clone();
    let index = index_of(request.uri().path());
    let _flight = InFlight::new(&api.metrics);
    let length = request
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let mut response = if method == Method::OPTIONS && cors::is_preflight(&headers) {
        cors::preflight(&api.edge.origins, &headers)
    } else if length > api.edge.max_url {
        let detail = format!(
            "the URL has {length} bytes, {} are allowed; send the search as a body",
            api.edge.max_url
        );
        Problem::new(Kind::UrlTooLong, detail).into_response()
    } else {
        next.run(request).await
    };
    cors::allow(&api.edge.origins, &headers, response.headers_mut());
    caching::secure(response.headers_mut());
    let took = start.elapsed();
    api.metrics
        .answered(operation, response.status().as_u16(), took);
    if let Some(kind) = response.extensions().get::<Kind>() {
        api.metrics.problem(kind.name());
    }
    if took > api.edge.slow {
        api.metrics.slow.inc();
        let status = response.status().as_u16();
        // Whoever has no key may have put anything into the path.
        let index = index.filter(|index| api.catalogue.all().contains_key(index));
        tracing::warn!(operation, index, status, ?took, "slow request");
    }
    response
}

/// What is asked for, as a label of few values.
fn operation(path: &str) -> &'static str {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["openapi.json" | "docs"] => "docs",
        ["v1", "multi-search"] => "multi-search",
        ["v1"] | ["v1", _] => "schema",
        ["v1", _, "search"] => "search",
        ["v1", _, "count"] => "count",
        ["v1", _, "suggest"] => "suggest",
        ["v1", _, _] => "document",
        _ => "other",
    }
}

fn index_of(path: &str) -> Option<String> {
    path.strip_prefix("/v1/")?
        .split('/')
        .next()
        .map(str::to_owned)
}

struct InFlight(runtime::metrics::prometheus_client::metrics::gauge::Gauge);

impl InFlight {
    fn new(metrics: &QueryMetrics) -> InFlight {
        metrics.in_flight.inc();
        InFlight(metrics.in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The key a request shows. One that is shown in a way that is not known here, or beside another one, is
/// no key: nothing that was meant to count is overlooked.
fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let plain = headers
        .get("x-api-key")
        .map(|value| value.to_str().unwrap_or_default());
    let Some(authorization) = headers.get("authorization") else {
        return plain;
    };
    let (scheme, bearer) = authorization.to_str().ok()?.split_once(' ')?;
    let bearer = bearer.trim();
    let is_good =
        scheme.eq_ignore_ascii_case("bearer") && plain.is_none_or(|plain| plain == bearer);
    is_good.then_some(bearer)
}

impl Api {
    /// Waits until what is asked shows a position of its source, if one is given.
    async fn wait(&self, target: &request::Target, position: Option<&str>) -> Result<(), Problem> {
        let Some(position) = position else {
            return Ok(());
        };
        let position = Position::read(position)?;
        let start = std::time::Instant::now();
        let visible = match &position {
            Position::Document { id, .. } => {
                let nothing = Some(Vec::new());
                let (search, _) =
                    compile::document(id.as_str(), nothing, target.scoped(), &target.forced)?;
                Some(search)
            }
            Position::Lsn(_) => None,
        };
        let (backend, schema) = (&self.backend, &target.schema);
        let timeout = self.edge.position_timeout;
        let waited = positions::wait(backend, schema, &position, visible.as_ref(), timeout).await;
        self.metrics.waits.observe(start.elapsed().as_secs_f64());
        waited
    }
}
