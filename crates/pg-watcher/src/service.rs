//! The watcher as a service: connect, take the lease, publish, stop in order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bus::{
    Bucket, Bus, JetStreamSink, Lineages, Publisher, PublisherOptions, StreamSpec, until_answered,
};
use pipeline::{Fault, PublishOptions, publish};
use runtime::{health::Health, metrics::Metrics};
use tokio_util::sync::CancellationToken;

use crate::{
    ArgsError, Memory, Owner, PgMetrics, PgSource, Readers, Settled, SlotConfirm, SourceError,
    SourceOptions,
};

/// A watcher whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// How a watcher runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is captured.
    pub source: SourceOptions,
    /// When a slot is let go.
    pub slot_confirm: SlotConfirm,
    /// The stream.
    pub stream: StreamSpec,
    /// As whom, and whose changes.
    pub publisher: PublisherOptions,
    /// The folder of what is remembered.
    pub folder: PathBuf,
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
    let observer = Arc::new(PgMetrics::new(
        metrics,
        health.readiness.clone(),
        Some(heart),
    ));
    loop {
        let publisher = options.publisher.clone();
        let entered = Publisher::enter(&bus, &options.stream, publisher, shutdown).await?;
        let Some(publisher) = entered else {
            return Ok(());
        };
        health.readiness.set("stream", Ok(()));
        let watcher = Watcher {
            options: &options,
            bus: bus.clone(),
            publisher: &publisher,
            observer: Arc::clone(&observer),
            shutdown,
        };
        let ended = watcher.watch().await;
        publisher.leave().await;
        match ended? {
            Ended::Stopped => return Ok(()),
            // It may be another stream by now, or gone altogether: as after a start.
            Ended::LostEnd(error) => {
                observer.lost_end();
                health.readiness.set("stream", Err(error.to_string()));
                tracing::error!(%error, "going back to what the readers have settled");
            }
        }
    }
}

/// A watcher that holds its lease.
struct Watcher<'a> {
    options: &'a Options,
    bus: Bus,
    publisher: &'a Publisher,
    observer: Arc<PgMetrics>,
    shutdown: &'a CancellationToken,
}

/// Why a watcher has given up its place.
enum Ended {
    Stopped,
    /// The stream has lost what it had acknowledged: what no reader has settled is published again.
    LostEnd(bus::Error),
}

/// Why a watcher has stopped publishing.
enum Paused {
    Ended(Ended),
    /// The target holds a higher epoch than ours.
    Outdated,
}

impl Watcher<'_> {
    async fn watch(&self) -> Result<Ended, ServiceError> {
        let Some(memory) = self.open_memory().await? else {
            return Ok(Ended::Stopped);
        };
        loop {
            match self.publish(&memory).await? {
                Paused::Ended(ended) => return Ok(ended),
                Paused::Outdated => tracing::warn!(
                    "the target was filled under a higher epoch than this watcher knows: the tables are copied again \
                     under a higher one"
                ),
            }
        }
    }

    async fn publish(&self, memory: &Memory) -> Result<Paused, ServiceError> {
        const STOPPED: Paused = Paused::Ended(Ended::Stopped);
        let replicas = self.options.stream.replicas;
        let opened = until_answered(self.shutdown, || Lineages::open(&self.bus, replicas));
        let Some(lineages) = opened.await? else {
            return Ok(STOPPED);
        };
        let bucket = Bucket::new(lineages);
        let mut sink = JetStreamSink::new(&self.bus, self.publisher.sink_options(None));
        let acknowledged = sink.acknowledged();
        let settled = match self.trusts_stream() {
            true => Settled::AtOnce,
            false => Settled::ByReaders(Arc::new(Readers {
                bus: self.bus.clone(),
                stream: self.publisher.info.clone(),
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
            error = acknowledged.lost(&self.bus, self.publisher.info.created) => Ok(Paused::Ended(Ended::LostEnd(error))),
            _ = bucket.raised() => Ok(Paused::Outdated),
            ended = publishing => ended.map(|()| STOPPED).map_err(ServiceError::from),
            lost = self.publisher.lease.lost() => Err(lost.into()),
        };
        source.close().await;
        ended
    }

    /// Whether the stream keeps what it has acknowledged, whatever happens to one server.
    fn trusts_stream(&self) -> bool {
        match self.options.slot_confirm {
            SlotConfirm::Auto => self.publisher.info.replicas > 1,
            SlotConfirm::Stream => true,
            SlotConfirm::Target => false,
        }
    }

    async fn open_memory(&self) -> Result<Option<Memory>, ServiceError> {
        let owner = Owner {
            tenant: self.options.publisher.tenant.to_string(),
            stream: Some((
                self.publisher.info.name.clone(),
                self.publisher.info.created,
            )),
        };
        let open = || Memory::open(&self.options.folder, owner.clone()).map_err(ServiceError::from);
        let is_in_use =
            |error: &ServiceError| matches!(error, ServiceError::Source(SourceError::InUse { .. }));
        self.publisher.open(self.shutdown, open, is_in_use).await
    }
}
