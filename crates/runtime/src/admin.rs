//! The admin listener: health, metrics, and what a service adds.
//!
//! | Path | Answer |
//! |---|---|
//! | `/health/live` | 200 while the main loop's heart beats, else 503 with the reason |
//! | `/health/ready` | 200 when all conditions hold, else 503 with the reasons |
//! | `/health` | both, and every condition by name |
//! | `/metrics` | OpenMetrics text |
//!
//! It is reachable by whoever reaches the port, so it bounds everything: connections, the size of
//! a body, the time for a request, the silence on a connection.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::HttpBody,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    body,
    health::Health,
    listener::BoundedListener,
    metrics::{Metrics, OPEN_METRICS},
};

const MAX_BODY_BYTES: usize = 1 << 20;
const MAX_CONNECTIONS: usize = 128;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the usual scrape interval, so that a scraper keeps its connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A client that does not take its answer must not hold up the end of the process.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be had.
    #[error(
        "admin listener cannot use {address}: {source}; free the port or choose another with --admin-listen"
    )]
    Bind {
        /// The address asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Serving failed.
    #[error("admin listener on {address} failed: {source}")]
    Serve {
        /// The address in use.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// An admin listener to be: bound in [`Server::bind`], so that a bad address is an error at start.
#[derive(Debug)]
pub struct Server {
    address: String,
    router: Router,
    request_timeout: Duration,
}

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: Metrics,
}

impl Server {
    /// A listener on `address` (`127.0.0.1:8080`; port 0 takes a free one).
    pub fn new(address: impl Into<String>, health: Health, metrics: Metrics) -> Self {
        let router = Router::new()
            .route("/health", get(overview))
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .route("/metrics", get(scrape))
            .with_state(Shared { health, metrics });
        Self {
            address: address.into(),
            router,
            request_timeout: REQUEST_TIMEOUT,
        }
    }

    /// Adds a service's own routes; a path that is taken already is a bug and panics.
    pub fn route(mut self, routes: Router) -> Self {
        self.router = self.router.merge(routes);
        self
    }

    /// Replaces the time a request may take.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Takes the address.
    ///
    /// # Errors
    /// When it is taken, not ours, or no address.
    pub async fn bind(self) -> Result<Bound, AdminError> {
        let refused = |source| AdminError::Bind {
            address: self.address.clone(),
            source,
        };
        let listener = TcpListener::bind(&self.address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let limit = self.request_timeout;
        let router = self
            .router
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn(move |request, next| {
                bounded(limit, request, next)
            }));
        Ok(Bound {
            address,
            listener,
            router,
        })
    }
}

/// An admin listener that has its address and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    listener: TcpListener,
    router: Router,
}

impl Bound {
    /// The address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the token is cancelled, then finishes the answers under way.
    ///
    /// # Errors
    /// When the system refuses the listener.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), AdminError> {
        let address = self.address;
        tracing::info!(%address, "admin listener started");
        let listener = BoundedListener::new(self.listener, MAX_CONNECTIONS, IDLE_TIMEOUT);
        let graceful = shutdown.clone().cancelled_owned();
        let serving = axum::serve(listener, self.router).with_graceful_shutdown(graceful);
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            ended = serving => ended.map_err(|source| AdminError::Serve { address, source }),
            () = late => Ok(()),
        }
    }
}

async fn bounded(limit: Duration, request: Request, next: Next) -> Response {
    // A body that announces its size is refused before it is used; `DefaultBodyLimit` counts the
    // others while they come.
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        let (parts, body) = request.into_parts();
        body::discard(&parts.headers, body).await;
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn live(State(shared): State<Shared>) -> Response {
    match shared.health.liveness.check() {
        Ok(()) => Json(json!({ "live": true })).into_response(),
        Err(reason) => (
            status(false),
            Json(json!({ "live": false, "reason": reason })),
        )
            .into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.health.readiness.check() {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reason) => (
            status(false),
            Json(json!({ "ready": false, "reason": reason })),
        )
            .into_response(),
    }
}

async fn overview(State(shared): State<Shared>) -> Response {
    let Health {
        readiness,
        liveness,
    } = &shared.health;
    let (ready, live) = (readiness.check().is_ok(), liveness.check());
    let conditions: serde_json::Map<_, _> = readiness
        .conditions()
        .into_iter()
        .map(|(name, condition)| {
            (
                name,
                condition.err().unwrap_or_else(|| "ok".to_owned()).into(),
            )
        })
        .collect();
    let body = json!({
        "status": if ready && live.is_ok() { "ok" } else { "failing" },
        "ready": ready,
        "live": live.is_ok(),
        "reason": live.as_ref().err(),
        "conditions": conditions,
    });
    (status(ready && live.is_ok()), Json(body)).into_response()
}

async fn scrape(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode() {
        Ok(page) => ([(CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
