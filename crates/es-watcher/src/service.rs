//! The watcher as a service: connect, take the lease, publish, stop in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    JetStreamSink, Lease, LeaseOptions, Role, SinkOptions, StreamSpec, stream, until_answered,
};
use model::Root;
use pipeline::{Fault, PublishOptions, publish};
use runtime::{backoff::Backoff, health::Health, metrics::Metrics};
use search::ArgsError;
use tokio_util::sync::CancellationToken;

use crate::{
    Args, CheckpointError, Checkpoints, DiskStore, Ledger, LedgerError, Owner, SearchSource,
    SourceOptions, WatcherMetrics,
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
        let Some(store) = open_store(&args, &owner, health, &lease, shutdown).await? else {
            return Ok(());
        };
        let checkpoints = Checkpoints::on_disk(store);
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
        if let Some(ledger) = &ledger {
            continue_ledger(ledger, &lease, &observer).await?;
        }
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

/// Opens the checkpoint store. Two watchers of one name may share its folder: the one that was
/// replaced holds it until it notices, which must not take longer than some leases.
async fn open_store(
    args: &Args,
    owner: &Owner,
    health: &Health,
    lease: &Lease,
    shutdown: &CancellationToken,
) -> Result<Option<DiskStore>, ServiceError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let until = Instant::now() + Duration::from(args.lease) * 3;
    loop {
        match DiskStore::open(&args.checkpoint_path, owner) {
            Ok(store) => {
                health.readiness.set("checkpoint", Ok(()));
                return Ok(Some(store));
            }
            Err(error @ CheckpointError::InUse { .. }) if Instant::now() < until => {
                if backoff.attempts() == 0 {
                    tracing::warn!(%error, "waiting");
                }
                health.readiness.set("checkpoint", Err(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            lost = lease.lost() => return Err(lost.into()),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Says which ledger is continued from here on, and says aloud when it is not the one of the watcher
/// before: that one knows documents that this one has never seen.
async fn continue_ledger(
    ledger: &Ledger,
    lease: &Lease,
    metrics: &WatcherMetrics,
) -> Result<(), ServiceError> {
    let name = ledger.name()?;
    if let Some(before) = lease.store_before().filter(|before| *before != name) {
        tracing::error!(
            ledger = name,
            before,
            "the watcher of this name that published before kept another ledger: documents that were deleted since \
             and that only it knew stay at the target; `syncline verify` names them. Watchers that stand by for each \
             other on one machine should share one --checkpoint-path"
        );
        metrics.foreign_ledger();
    }
    lease.name_store(&name).await?;
    Ok(())
}
