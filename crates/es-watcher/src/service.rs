//! The watcher as a service: connect, take the lease, publish, stop in order.

use std::{sync::Arc, time::Duration};

use bus::{
    JetStreamSink, Lease, LeaseOptions, Role, SinkOptions, StreamSpec, stream, until_answered,
};
use model::Root;
use pipeline::{Fault, PublishOptions, publish};
use runtime::{health::Health, metrics::Metrics};
use search::ArgsError;
use tokio_util::sync::CancellationToken;

use crate::{
    Args, CheckpointError, Checkpoints, DiskStore, LedgerError, Owner, SearchSource, SourceOptions,
    WatcherMetrics,
};

/// How long the stream may take to acknowledge a batch.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// A watcher whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Why a watcher ends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error it carries")]
pub enum ServiceError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Secret(#[from] config::SecretFileError),
    #[error(transparent)]
    Search(#[from] search::Error),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Pipeline(#[from] Fault),
}

/// Runs a watcher until `shutdown` is cancelled.
///
/// Stops in this order: no further page is read; what is under way is acknowledged; the last
/// positions are stored; the lease is given back.
///
/// # Errors
/// When it cannot go on without somebody acting.
pub async fn run(
    args: Args,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    health.readiness.expect("source");
    health.readiness.expect("stream");
    let heart = health.liveness.heart("es-watcher", STUCK_AFTER);
    let name = args.name();
    let config = args.es.client_config(&args.es_hosts)?;
    let nats = args.nats.options(&name)?;
    let Some(client) = search::connect_with_retry(&config, "source", health, shutdown).await?
    else {
        return Ok(());
    };
    let Some(bus) = nats.connect_with_retry(shutdown).await? else {
        return Ok(());
    };
    let spec = StreamSpec {
        max_bytes: args.stream_max_bytes.map(|size| size.bytes()),
        replicas: args.stream_replicas,
        ..StreamSpec::new(&args.stream, stream::ES_CHANGES_SUBJECTS)
    };
    let ensured = until_answered(shutdown, || stream::ensure(&bus, &spec)).await?;
    let Some(info) = ensured else {
        return Ok(());
    };
    let lease = LeaseOptions {
        role: Role::Publisher(name),
        holder: runtime::process_name("es-watcher"),
        lease: args.lease.into(),
        filter_subjects: Vec::new(),
    };
    let acquired = until_answered(shutdown, || {
        Lease::acquire(&bus, &info, lease.clone(), shutdown)
    });
    let Some(mut lease) = acquired.await?.flatten() else {
        return Ok(());
    };
    health.readiness.set("stream", Ok(()));
    let owner = Owner {
        cluster_uuid: client.server().cluster_uuid.clone(),
        tenant: args.tenant.to_string(),
        stream: Some((info.name.clone(), info.created)),
    };
    let watching = async {
        let checkpoints = Checkpoints::on_disk(DiskStore::open(&args.checkpoint_path, &owner)?);
        let ledger = args.deletes.ledger(Some(&args.checkpoint_path))?;
        let mut sink = JetStreamSink::new(
            &bus,
            SinkOptions {
                stream: args.stream.clone(),
                root: Root::Changes,
                tenant: args.tenant.clone(),
                zstd_level: (args.zstd_level > 0).then_some(args.zstd_level),
                token: lease.token(),
                tenure: lease.tenure(),
                ack_timeout: ACK_TIMEOUT,
            },
        );
        let observer = Arc::new(WatcherMetrics::new(
            metrics,
            health.readiness.clone(),
            Some(heart),
        ));
        let options = source_options(&args);
        let mut source =
            SearchSource::start(client, options, checkpoints, ledger, observer.clone());
        let window = PublishOptions::default();
        let publishing = publish(&mut source, &mut sink, &window, observer.as_ref(), shutdown);
        let ended = tokio::select! {
            ended = publishing => ended.map_err(ServiceError::from),
            lost = lease.lost() => Err(lost.into()),
        };
        source.close().await;
        ended
    };
    let ended = watching.await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the lease could not be given back; a successor waits until it has run out");
    }
    ended
}

fn source_options(args: &Args) -> SourceOptions {
    SourceOptions {
        indices: args.index_patterns.clone(),
        poll_interval: args.poll_interval.into(),
        refresh: args.source_refresh,
        searches: args.max_searches,
        follow: true,
        deletes: args.deletes,
    }
}
