//! The API as a service: connect, look at the indices, answer, stop in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ::config::{Rate, Secret};
use runtime::{
    health::{Health, Readiness},
    listener::BoundedListener,
    metrics::Metrics,
};
use search::{ArgsError, IndexPatterns};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Args,
    backend::Backend,
    catalogue::Catalogue,
    cursor::{NoRandom, Sealer},
    http::{self, Api, Edge},
    keys::{Keys, KeysError},
    limits::Limits,
    metrics::QueryMetrics,
    snapshots::Snapshots,
};

/// How often the keys file is looked at.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// A service whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// Connections on which nothing is asked for this long are dropped.
const IDLE: Duration = Duration::from_secs(75);

/// Why the service ends.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Nobody has said who may ask.
    #[error(
        "there is no --keys-file; make keys with `syncline query-key`, or say --anonymous if whoever reaches the address may search everything that is served"
    )]
    NoKeys,
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; free the port or choose another with --listen")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The flags for the cluster.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The list of indices.
    #[error(transparent)]
    Pattern(#[from] search::PatternError),
    /// The file with the cursors' secret.
    #[error(transparent)]
    Secret(#[from] ::config::SecretFileError),
    /// The cluster.
    #[error(transparent)]
    Search(#[from] search::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The cursors.
    #[error(transparent)]
    Random(#[from] NoRandom),
}

/// Answers until `shutdown` is cancelled; then the answers under way are finished.
///
/// # Errors
/// When it cannot go on without somebody acting.
pub async fn run(
    args: Args,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    match bind(args, metrics, health, shutdown).await? {
        Some(bound) => bound.serve(shutdown).await,
        None => Ok(()),
    }
}

/// A service that has its address and knows its cluster, and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    listener: TcpListener,
    connections: usize,
    api: Arc<Api>,
    schema_interval: Duration,
    health: Health,
}

/// Takes the address, reads the keys and connects to the cluster, for which it waits. `None` when
/// `shutdown` is cancelled first.
///
/// # Errors
/// When one of these needs somebody to act.
pub async fn bind(
    args: Args,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<Option<Bound>, ServiceError> {
    health.readiness.expect("cluster");
    let patterns: IndexPatterns = args.indices.to_string().parse()?;
    let rate = args.rate.map(|rate: Rate| rate.per_second().get() as f64);
    let keys = match (&args.keys_file, args.anonymous) {
        (Some(file), _) => Keys::load(file, rate)?,
        (None, true) => Keys::anonymous(rate),
        (None, false) => return Err(ServiceError::NoKeys),
    };
    let file = args.cursor_secret_file.as_deref();
    let secret = Secret::given(args.cursor_secret.as_ref(), file)?;
    let sealer = Sealer::new(secret.as_ref().map(Secret::expose))?;
    let refused = |source| ServiceError::Listen {
        address: args.listen.clone(),
        source,
    };
    let listener = TcpListener::bind(&args.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let config = args.es.client_config(&args.es_hosts)?;
    let Some(client) = search::connect_with_retry(&config, "cluster", health, shutdown).await?
    else {
        return Ok(None);
    };
    let catalogue = Catalogue::new(patterns);
    let observed = QueryMetrics::new(metrics);
    let backend = Backend::new(
        client,
        args.concurrency,
        args.search_timeout.into(),
        args.max_answer.bytes() as usize,
        args.snapshot_time.into(),
    );
    let api = Api {
        keys,
        catalogue,
        backend,
        sealer,
        snapshots: Snapshots::new(args.max_snapshots, args.snapshot_time.into()),
        limits: limits(&args),
        metrics: observed,
        edge: Edge {
            max_body: args.max_body.bytes() as usize,
            max_url: args.max_url.bytes() as usize,
            origins: args
                .cors_origins
                .map(::config::CommaList::into_vec)
                .unwrap_or_default(),
            cache: args.cache_time.into(),
            slow: args.slow_search.into(),
            position_timeout: args.position_timeout.into(),
        },
    };
    Ok(Some(Bound {
        address,
        listener,
        connections: args.connections,
        api: Arc::new(api),
        schema_interval: args.schema_interval.into(),
        health: health.clone(),
    }))
}

impl Bound {
    /// The address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is cancelled.
    ///
    /// # Errors
    /// When the system refuses the listener.
    pub async fn serve(self, shutdown: &CancellationToken) -> Result<(), ServiceError> {
        let address = self.address;
        let heart = self.health.liveness.heart("query-api", STUCK_AFTER);
        look(&self.api, &self.health.readiness).await;
        let watching = watch(
            Arc::clone(&self.api),
            self.health.clone(),
            self.schema_interval,
            heart,
        );
        let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
        tracing::info!(%address, "query API started");
        let listener = BoundedListener::new(self.listener, self.connections, IDLE);
        let router = http::router(self.api);
        axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .await
            .map_err(|source| ServiceError::Listen {
                address: address.to_string(),
                source,
            })
    }
}

/// Keeps keys and schemas current.
async fn watch(
    api: Arc<Api>,
    health: Health,
    schema_interval: Duration,
    heart: runtime::health::Heart,
) {
    let mut keys = tokio::time::interval(KEYS_EVERY);
    let mut schemas = tokio::time::interval(schema_interval.max(Duration::from_millis(10)));
    schemas.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        heart.beat();
        tokio::select! {
            _ = keys.tick() => reload(&api, &health.readiness).await,
            _ = schemas.tick() => look(&api, &health.readiness).await,
        }
    }
}

/// A broken keys file is a condition of readiness: who has written it looks there.
async fn reload(api: &Arc<Api>, readiness: &Readiness) {
    let reading = Arc::clone(api);
    let reloaded = tokio::task::spawn_blocking(move || reading.keys.reload()).await;
    match reloaded {
        Ok(Ok(true)) => {
            readiness.set("keys", Ok(()));
            tracing::info!("keys read again");
        }
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err(error)) => readiness.set("keys", Err(error.to_string())),
    }
}

async fn look(api: &Api, readiness: &Readiness) {
    let looked = api.catalogue.refresh(api.backend.client()).await;
    api.metrics.indices.set(api.catalogue.all().len() as i64);
    let held = api.snapshots.count(std::time::Instant::now());
    api.metrics.snapshots.set(held as i64);
    readiness.set("cluster", looked.map_err(|error| error.to_string()));
}

fn limits(args: &Args) -> Limits {
    Limits {
        documents: args.max_limit,
        default_documents: args.default_limit,
        clauses: args.max_clauses,
        depth: args.max_depth,
        patterns: args.max_patterns,
        facets: args.max_facets,
        facet_values: args.max_facet_values,
        searches: args.max_searches,
        has_raw: args.raw_queries,
    }
}
