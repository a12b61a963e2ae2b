//! The watcher as a service: connect, take the lease, publish, stop in order.

use std::{sync::Arc, time::Duration};

use ::config::Rate;
use bus::{
    Bucket, Bus, Ending, JetStreamSink, Lease, Lineages, Publisher, Resyncs, Stored, until_answered,
};
use model::IndexName;
use pipeline::{Fault, PublishOptions, publish};
use runtime::{
    backoff::Backoff,
    health::{Health, Readiness},
    metrics::Metrics,
};
use search::{ArgsError, Client};
use tokio_util::sync::CancellationToken;

use crate::{
    Args, CheckpointError, Checkpoints, DiskStore, Ledger, LedgerError, Memory, Owner, Requests,
    SearchSource, SourceOptions, WatcherMetrics,
    canary::{self, CanaryOptions},
};

/// The shortest and the longest pause before the stores are opened again after a disk has failed or was full.
const OPEN_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
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
    #[error(
        "the canary's index {canary:?} is not among the watched ones, {patterns}: nothing would arrive; add it to --index-patterns"
    )]
    Canary { canary: String, patterns: String },
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
    let unwatched = |canary: &&IndexName| !args.index_patterns.matches(canary.as_str(), false);
    if let Some(canary) = args.canary.as_ref().filter(unwatched) {
        return Err(ServiceError::Canary {
            canary: canary.to_string(),
            patterns: args.index_patterns.to_string(),
        });
    }
    let config = args.es.client_config(args.hosts())?;
    let nats = args.nats.options(&name)?;
    let Some(client) = search::connect_with_retry(&config, "source", health, shutdown).await?
    else {
        return Ok(());
    };
    let Some(bus) = nats.connect_with_retry(shutdown).await? else {
        return Ok(());
    };
    let observer = Arc::new(WatcherMetrics::new(
        metrics,
        health.readiness.clone(),
        Some(heart),
    ));
    loop {
        let (spec, options) = (args.stream_spec(), args.publisher());
        let entered = Publisher::enter(&bus, &spec, options, shutdown).await?;
        let Some(publisher) = entered else {
            return Ok(());
        };
        health.readiness.set("stream", Ok(()));
        let owner = Owner {
            cluster_uuid: client.server().cluster_uuid.clone(),
            tenant: args.tenant.to_string(),
            stream: Some((publisher.info.name.clone(), publisher.info.created)),
        };
        let watcher = Watcher {
            args: &args,
            client: client.clone(),
            bus: bus.clone(),
            owner,
            publisher: &publisher,
            observer: Arc::clone(&observer),
            readiness: &health.readiness,
            shutdown,
        };
        let ended = watcher.watch().await;
        publisher.leave().await;
        match ended? {
            Ended::Stopped => return Ok(()),
            // It may be another stream by now, or gone altogether: as after a start.
            Ended::LostEnd(error) => {
                health.readiness.set("stream", Err(error.to_string()));
                tracing::error!(%error, "going back to what the stream still has");
            }
        }
    }
}

/// Whether a disk is the cause that may have room again some day: the stores are then opened anew.
fn waits_for_a_disk(error: &ServiceError) -> bool {
    let (ledger, checkpoints) = match error {
        ServiceError::Ledger(error) => (Some(error), None),
        ServiceError::Checkpoint(error) => (None, Some(error)),
        ServiceError::Pipeline(Fault::Fatal(cause)) => (cause.downcast_ref(), cause.downcast_ref()),
        _ => (None, None),
    };
    matches!(
        ledger,
        Some(LedgerError::Broken { .. } | LedgerError::Write { .. })
    ) || matches!(
        checkpoints,
        Some(CheckpointError::Broken { .. } | CheckpointError::Write { .. })
    )
}

/// A watcher that holds its lease.
struct Watcher<'a> {
    args: &'a Args,
    client: Client,
    bus: Bus,
    owner: Owner,
    publisher: &'a Publisher,
    observer: Arc<WatcherMetrics>,
    readiness: &'a Readiness,
    shutdown: &'a CancellationToken,
}

/// Why a watcher has given up its place.
enum Ended {
    Stopped,
    /// The stream has lost what it had acknowledged: it is published again.
    LostEnd(bus::Error),
}

/// Why a watcher has stopped publishing.
enum Paused {
    Ended(Ended),
    /// The target holds more of an index than we know: our epochs are too low.
    Outdated(String),
}

impl Watcher<'_> {
    async fn watch(&self) -> Result<Ended, ServiceError> {
        let mut backoff = Backoff::new(OPEN_AGAIN.0, OPEN_AGAIN.1);
        loop {
            let ended = match self.publish().await {
                Err(error) if waits_for_a_disk(&error) => {
                    tracing::warn!(%error, "opening it anew");
                    self.readiness.set("checkpoint", Err(error.to_string()));
                    tokio::select! {
                        () = self.shutdown.cancelled() => return Ok(Ended::Stopped),
                        lost = self.publisher.lease.lost() => return Err(lost.into()),
                        () = tokio::time::sleep(backoff.next_delay()) => continue,
                    }
                }
                ended => ended?,
            };
            backoff.reset();
            match ended {
                Paused::Ended(ended) => return Ok(ended),
                Paused::Outdated(history) => tracing::warn!(
                    history,
                    "the target was filled under a higher epoch than this watcher remembers, as after the loss of its \
                     checkpoints: everything of that index is published again under a higher one"
                ),
            }
        }
    }

    /// Publishes from where the stream still has everything.
    async fn publish(&self) -> Result<Paused, ServiceError> {
        const STOPPED: Paused = Paused::Ended(Ended::Stopped);
        let Some(store) = self.open_store().await? else {
            return Ok(STOPPED);
        };
        let ledger = self.args.deletes.ledger(Some(&self.args.checkpoint_path))?;
        if let Some(ledger) = &ledger {
            ledger.continue_into(&self.args.stream, self.owner.created())?;
        }
        let Some(newest) = self.take_back(&store, ledger.as_ref()).await? else {
            return Ok(STOPPED);
        };
        if let Some(ledger) = &ledger {
            continue_ledger(ledger, &self.publisher.lease, &self.observer).await?;
        }
        let replicas = self.args.stream_replicas;
        let opened = until_answered(self.shutdown, || Lineages::open(&self.bus, replicas));
        let Some(lineages) = opened.await? else {
            return Ok(STOPPED);
        };
        let bucket = Bucket::new(lineages);
        let (stream, tenant) = (&self.args.stream, &self.args.tenant);
        let opened = until_answered(self.shutdown, || {
            Resyncs::open(&self.bus, stream, tenant, replicas)
        });
        let Some(resyncs) = opened.await? else {
            return Ok(STOPPED);
        };
        let requests = Requests::default();
        let mut sink = JetStreamSink::new(&self.bus, self.publisher.sink_options(newest));
        let acknowledged = sink.acknowledged();
        let memory = Memory {
            checkpoints: Checkpoints::on_disk(store),
            ledger,
            registry: Arc::new(bucket.clone()),
            log: Some(Arc::clone(&acknowledged)),
            requests: requests.clone(),
        };
        let mut source = SearchSource::start(
            self.client.clone(),
            source_options(self.args),
            memory,
            Arc::clone(&self.observer) as _,
        );
        let name = self.args.name();
        let (window, observer) = (PublishOptions::default(), self.observer.as_ref());
        let publishing = publish(&mut source, &mut sink, &window, observer, self.shutdown);
        let ended = tokio::select! {
            biased;
            error = acknowledged.lost(&self.bus, self.publisher.info.created) => Ok(Paused::Ended(Ended::LostEnd(error))),
            history = bucket.raised() => Ok(Paused::Outdated(history)),
            () = requests.attend(&resyncs, &name) => Ok(STOPPED),
            () = self.send_canaries() => Ok(STOPPED),
            ended = publishing => ended.map(|()| STOPPED).map_err(ServiceError::from),
            lost = self.publisher.lease.lost() => Err(lost.into()),
        };
        source.close().await;
        ended
    }

    /// Takes back what relied on messages that the stream has lost. Returns the newest message that
    /// it still has; nothing when the process is to stop.
    async fn take_back(
        &self,
        store: &DiskStore,
        ledger: Option<&Ledger>,
    ) -> Result<Option<Option<Stored>>, ServiceError> {
        let Some(newest) = store.newest()? else {
            return Ok(Some(None));
        };
        let looked = until_answered(self.shutdown, || {
            let of = (self.args.stream.as_str(), self.publisher.info.created);
            bus::look_at_ending(&self.bus, of, Some(&newest))
        });
        match looked.await? {
            None => Ok(None),
            Some(Ending::Whole) => Ok(Some(Some(newest))),
            Some(Ending::Lost { upto, what }) => {
                // The ledger first: with it undone twice nothing is lost, with it forgotten something.
                let documents = ledger.map_or(Ok(0), |ledger| ledger.take_back(upto))?;
                let shards = store.take_back(upto)?;
                self.observer.lost_end();
                tracing::warn!(
                    acknowledged = newest.sequence,
                    what,
                    shards,
                    deletes = documents,
                    "the stream has lost its end, as after a power failure: what it had is published again"
                );
                Ok(Some(None))
            }
        }
    }

    /// Never returns, with or without a canary.
    async fn send_canaries(&self) {
        let Some(index) = self.args.canary.clone() else {
            return std::future::pending().await;
        };
        let options = CanaryOptions {
            index,
            interval: self.args.canary_interval.into(),
            id: self.args.name(),
        };
        canary::send(&self.client, &options, &self.observer).await;
    }

    async fn open_store(&self) -> Result<Option<DiskStore>, ServiceError> {
        let open = || {
            let opened = DiskStore::open(&self.args.checkpoint_path, &self.owner);
            let state = opened.as_ref().map(|_| ()).map_err(ToString::to_string);
            self.readiness.set("checkpoint", state);
            opened.map_err(ServiceError::from)
        };
        let is_in_use = |error: &ServiceError| {
            matches!(
                error,
                ServiceError::Checkpoint(CheckpointError::InUse { .. })
            )
        };
        self.publisher.open(self.shutdown, open, is_in_use).await
    }
}

fn source_options(args: &Args) -> SourceOptions {
    SourceOptions {
        indices: args.index_patterns.clone(),
        poll_interval: args.poll_interval.into(),
        refresh: args.source_refresh,
        searches: args.max_searches,
        max_rate: args.max_rate.map(Rate::per_second),
        follow: true,
        deletes: args.deletes,
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
             and that only it knew stay at the target until `syncline verify --delete-extra` removes them. Watchers that stand by for each \
             other on one machine should share one --checkpoint-path"
        );
        metrics.foreign_ledger();
    }
    lease.name_store(&name).await?;
    Ok(())
}
