//! The watcher as a service: connect, take the lease, publish, stop in order.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    Bucket, Bus, JetStreamSink, Lease, LeaseOptions, Lineages, Role, SinkOptions, StreamInfo,
    StreamSpec, stream, until_answered,
};
use model::{Root, Tenant};
use pipeline::{Fault, PublishOptions, publish};
use runtime::{backoff::Backoff, health::Health, metrics::Metrics};
use tokio_util::sync::CancellationToken;

use crate::{
    ArgsError, Memory, Owner, PgMetrics, PgSource, Readers, Settled, SlotConfirm, SourceError,
    SourceOptions,
};

/// How long the stream may take to acknowledge a batch.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// A watcher whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// How a watcher runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is captured.
    pub source: SourceOptions,
    /// When a slot is let go.
    pub slot_confirm: SlotConfirm,
    /// Whom the changes belong to.
    pub tenant: Tenant,
    /// The stream.
    pub stream: StreamSpec,
    /// The zstd level of messages; `None` leaves them as they are.
    pub zstd_level: Option<i32>,
    /// The folder of what is remembered.
    pub folder: PathBuf,
    /// The name under which watchers stand by for each other.
    pub name: String,
    /// How long the others wait when the active one falls silent.
    pub lease: Duration,
    /// How to reach NATS.
    pub nats: bus::ConnectOptions,
}

/// Why a watcher ends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error it carries")]
pub enum ServiceError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Secret(#[from] config::SecretFileError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Pipeline(#[from] Fault),
}

/// Runs a watcher until `shutdown` is cancelled.
///
/// Stops in this order: nothing more is read; what is under way is acknowledged; what is certain is
/// remembered; the lease is given back. The slot stays.
///
/// # Errors
/// When it cannot go on without somebody acting.
pub async fn run(
    options: Options,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    health.readiness.expect("source");
    health.readiness.expect("stream");
    let heart = health.liveness.heart("es-watcher", STUCK_AFTER);
    let Some(bus) = options.nats.connect_with_retry(shutdown).await? else {
        return Ok(());
    };
    let ensured = until_answered(shutdown, || stream::ensure(&bus, &options.stream)).await?;
    let Some(info) = ensured else {
        return Ok(());
    };
    let lease = LeaseOptions {
        role: Role::Publisher(options.name.clone()),
        holder: runtime::process_name("es-watcher"),
        lease: options.lease,
    };
    let acquired = until_answered(shutdown, || {
        Lease::acquire(&bus, &info, lease.clone(), shutdown)
    });
    let Some(mut lease) = acquired.await?.flatten() else {
        return Ok(());
    };
    health.readiness.set("stream", Ok(()));
    let observer = PgMetrics::new(metrics, health.readiness.clone(), Some(heart));
    let watcher = Watcher {
        options: &options,
        bus,
        info,
        lease: &lease,
        observer: Arc::new(observer),
        shutdown,
    };
    let ended = watcher.watch().await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the lease could not be given back; a successor waits until it has run out");
    }
    ended
}

/// A watcher that holds its lease.
struct Watcher<'a> {
    options: &'a Options,
    bus: Bus,
    info: StreamInfo,
    lease: &'a Lease,
    observer: Arc<PgMetrics>,
    shutdown: &'a CancellationToken,
}

/// Why a watcher has stopped publishing.
enum Ended {
    Stopped,
    /// The stream has lost what it had acknowledged: what no reader has settled is published again.
    LostEnd(bus::Error),
    /// The target holds a higher epoch than ours.
    Outdated,
}

impl Watcher<'_> {
    async fn watch(&self) -> Result<(), ServiceError> {
        let Some(memory) = self.open_memory().await? else {
            return Ok(());
        };
        loop {
            match self.publish(&memory).await? {
                Ended::Stopped => return Ok(()),
                Ended::LostEnd(error) => {
                    self.observer.lost_end();
                    tracing::error!(%error, "going back to what the readers have settled");
                }
                Ended::Outdated => tracing::warn!(
                    "the target was filled under a higher epoch than this watcher knows: the tables are copied again \
                     under a higher one"
                ),
            }
        }
    }

    async fn publish(&self, memory: &Memory) -> Result<Ended, ServiceError> {
        let replicas = self.options.stream.replicas;
        let opened = until_answered(self.shutdown, || Lineages::open(&self.bus, replicas));
        let Some(lineages) = opened.await? else {
            return Ok(Ended::Stopped);
        };
        let bucket = Bucket::new(lineages);
        let mut sink = JetStreamSink::new(&self.bus, self.sink_options());
        let acknowledged = sink.acknowledged();
        let settled = match self.trusts_stream() {
            true => Settled::AtOnce,
            false => Settled::ByReaders(Arc::new(Readers {
                bus: self.bus.clone(),
                stream: self.info.clone(),
                acknowledged: Arc::clone(&acknowledged),
            })),
        };
        let mut source = PgSource::start(
            self.options.source.clone(),
            memory.clone(),
            Arc::new(bucket.clone()),
            settled,
            Arc::clone(&self.observer) as _,
        );
        let (window, observer) = (PublishOptions::default(), self.observer.as_ref());
        let publishing = publish(&mut source, &mut sink, &window, observer, self.shutdown);
        let ended = tokio::select! {
            biased;
            error = acknowledged.lost(&self.bus) => Ok(Ended::LostEnd(error)),
            _ = bucket.raised() => Ok(Ended::Outdated),
            ended = publishing => ended.map(|()| Ended::Stopped).map_err(ServiceError::from),
            lost = self.lease.lost() => Err(lost.into()),
        };
        source.close().await;
        ended
    }

    /// Whether the stream keeps what it has acknowledged, whatever happens to one server.
    fn trusts_stream(&self) -> bool {
        match self.options.slot_confirm {
            SlotConfirm::Auto => self.info.replicas > 1,
            SlotConfirm::Stream => true,
            SlotConfirm::Target => false,
        }
    }

    fn sink_options(&self) -> SinkOptions {
        SinkOptions {
            stream: self.options.stream.name.clone(),
            root: Root::Changes,
            tenant: self.options.tenant.clone(),
            zstd_level: self.options.zstd_level,
            token: self.lease.token(),
            tenure: self.lease.tenure(),
            ack_timeout: ACK_TIMEOUT,
            newest: None,
        }
    }

    /// Two watchers of one name may share a folder: the one that was replaced holds it until it notices.
    async fn open_memory(&self) -> Result<Option<Memory>, ServiceError> {
        let owner = Owner {
            tenant: self.options.tenant.to_string(),
            stream: Some((self.info.name.clone(), self.info.created)),
        };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let until = Instant::now() + self.options.lease * 3;
        loop {
            match Memory::open(&self.options.folder, owner.clone()) {
                Err(SourceError::InUse { .. }) if Instant::now() < until => {}
                opened => return Ok(Some(opened?)),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                lost = self.lease.lost() => return Err(lost.into()),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}
