//! The gateway as a service: start the server if there is one, connect, become the active reader, carry, stop in
//! order.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    Bus, Correspondent, JetStreamDeadLetters, JetStreamReader, JetStreamSink, Letters, Lineages,
    Output, ReaderOptions, SinkOptions, StreamSpec,
    embedded::{EmbeddedError, NatsServer},
    stream, until_answered,
};
use model::{Root, Tenant};
use pipeline::{Fault, MessageSource, PublishOptions, publish};
use runtime::{backoff::Backoff, health::Health, metrics::Metrics};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{Args, Control, GatewayMetrics, Relay};

/// What may be under way to the output, and what is asked of the input at a time, in bytes; more for single messages that
/// are larger. A gateway lives where memory is dear: half of what the others take.
const WINDOW: usize = 4 << 20;
const AHEAD: usize = 2 << 20;

/// A gateway whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// How long the output may take to acknowledge a batch.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the embedded server may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether both servers are there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A gateway that has carried for so long has recovered from what failed before.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Why a gateway ends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error it carries")]
pub enum ServiceError {
    #[error(transparent)]
    Secret(#[from] config::SecretFileError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Pipeline(#[from] Fault),
    #[error("SIGHUP cannot be handled: {0}")]
    Signal(std::io::Error),
}

/// Runs a gateway until `shutdown` is cancelled.
///
/// Stops in this order: nothing more is read; what is under way is acknowledged by the output; the floor is
/// stored and the lease given back; the embedded server ends last.
///
/// # Errors
/// When it cannot go on without somebody acting.
pub async fn run(
    args: Args,
    control: Control,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    let began = Instant::now();
    health.readiness.expect("input");
    health.readiness.expect("output");
    warn_of_operations(&control);
    let server = match args.embedded.embedded {
        false => None,
        true => Some(NatsServer::start(args.embedded.options(&args.nats)?).await?),
    };
    let heart = health.liveness.heart("nats-gateway", STUCK_AFTER);
    let observer = GatewayMetrics::new(metrics, health.readiness.clone(), Some(heart));
    let gateway = Gateway {
        args: &args,
        control: &control,
        observer: Arc::new(observer),
        health,
        shutdown,
        began,
    };
    control.observe(Arc::clone(&gateway.observer));
    let ended = tokio::select! {
        ended = gateway.run() => ended,
        watched = control.watch_file() => watched.map_err(ServiceError::Signal),
    };
    if let Some(server) = server {
        server.stop(STOP_WITHIN).await;
    }
    ended
}

/// What belongs together must not be split without a word.
fn warn_of_operations(control: &Control) {
    let Some(operations) = &control.selection().include_operations else {
        return;
    };
    for (operation, misses) in [
        (
            model::Operation::Index,
            "documents that are created are missing at the target until they are updated",
        ),
        (
            model::Operation::Update,
            "documents that are changed stay at the target as they were first",
        ),
        (
            model::Operation::Delete,
            "documents that are deleted stay at the target for ever",
        ),
    ] {
        if !operations.contains(&operation) {
            tracing::warn!(%operation, misses, "--include-operations leaves out an operation: the target will differ");
        }
    }
}

struct Gateway<'a> {
    args: &'a Args,
    control: &'a Control,
    observer: Arc<GatewayMetrics>,
    health: &'a Health,
    shutdown: &'a CancellationToken,
    began: Instant,
}

/// The two ends.
struct Ends {
    input: Bus,
    output: Bus,
    changes: StreamSpec,
    passed: StreamSpec,
    letters: StreamSpec,
}

/// Why carrying has stopped.
enum Ended {
    Stopped,
    /// The output has lost what it had acknowledged: it is given again.
    LostEnd(bus::Error),
    /// The input or the output is not what it was: both are opened anew.
    Again(Fault),
}

impl Gateway<'_> {
    async fn run(&self) -> Result<(), ServiceError> {
        let Some(ends) = self.connect().await? else {
            return Ok(());
        };
        self.control.keep(Letters::new(&ends.input, stream::ES_DLQ));
        let _epochs = match self.args.downstream.downstream_url {
            None => None,
            Some(_) => match self.pass_on_epochs(&ends).await? {
                None => return Ok(()),
                passing => passing,
            },
        };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let began = Instant::now();
            let carried = tokio::select! {
                carried = self.carry(&ends) => match carried {
                    // One was lost between two steps of the beginning, which makes sure of all of them.
                    Err(ServiceError::Bus(error @ bus::Error::StreamMissing { .. })) => {
                        Ended::Again(Fault::retry(error))
                    }
                    carried => carried?,
                },
                never = self.watch_connections(&ends) => match never {},
            };
            match carried {
                Ended::Stopped => return Ok(()),
                Ended::LostEnd(error) => {
                    self.observer.lost_end();
                    tracing::error!(%error, "going back to what the output still has");
                }
                Ended::Again(fault) => {
                    self.health.readiness.set("input", Err(fault.to_string()));
                    tracing::warn!(%fault, "reading the stream anew");
                    if began.elapsed() > RECOVERED_AFTER {
                        backoff.reset();
                    }
                    tokio::select! {
                        () = self.shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                    }
                }
            }
        }
    }

    /// Says whether both servers are there, also while there is nothing to carry. Never ends.
    async fn watch_connections(&self, ends: &Ends) -> Infallible {
        loop {
            let away = [&ends.input, &ends.output]
                .into_iter()
                .find(|bus| !bus.is_connected());
            let state = away.map_or(Ok(()), |bus| {
                Err(format!("no connection to NATS at {}", bus.server_host()))
            });
            self.health.readiness.set("connection", state);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A writer behind another server tells there when a watcher counts from an epoch that is too low; the watcher
    /// listens here.
    async fn pass_on_epochs(
        &self,
        ends: &Ends,
    ) -> Result<Option<AbortOnDropHandle<()>>, ServiceError> {
        let replicas = self.args.stream_replicas;
        let opened = until_answered(self.shutdown, async || {
            let here = Lineages::open(&ends.input, replicas).await?;
            Ok((here, Lineages::open(&ends.output, replicas).await?))
        });
        Ok(opened.await?.map(|(here, there)| {
            AbortOnDropHandle::new(tokio::spawn(async move { there.pass_on(&here).await }))
        }))
    }

    /// Connects both ends and makes sure of the streams; `None` when the process is to stop first.
    async fn connect(&self) -> Result<Option<Ends>, ServiceError> {
        let args = self.args;
        let url = match args.embedded.embedded {
            true => args.embedded.url(),
            false => args.upstream_url.clone(),
        };
        let upstream = args.nats.options(&url, &args.consumer)?;
        let Some(input) = upstream.connect_with_retry(self.shutdown).await? else {
            return Ok(None);
        };
        let output = match args.downstream.options(&args.consumer)? {
            None => input.clone(),
            Some(downstream) => match downstream.connect_with_retry(self.shutdown).await? {
                Some(output) => output,
                None => return Ok(None),
            },
        };
        let shares = args.embedded.shares();
        let spec = |name: &str, subjects, max_bytes| StreamSpec {
            max_bytes,
            replicas: args.stream_replicas,
            ..StreamSpec::new(name, subjects)
        };
        let changes = spec(
            &args.stream,
            stream::ES_CHANGES_SUBJECTS,
            shares.map(|shares| shares.input),
        );
        let given = args.output_max_bytes.map(|size| size.bytes());
        let passed = spec(
            &args.output_stream,
            stream::ES_GATEWAY_SUBJECTS,
            given.or(shares.map(|shares| shares.output)),
        );
        let letters = spec(
            stream::ES_DLQ,
            stream::ES_DLQ_SUBJECTS,
            shares.map(|shares| shares.letters),
        );
        Ok(Some(Ends {
            input,
            output,
            changes,
            passed,
            letters,
        }))
    }

    /// Carries from where the output still has everything.
    async fn carry(&self, ends: &Ends) -> Result<Ended, ServiceError> {
        let Some(mut reader) = self.open(ends).await? else {
            return Ok(Ended::Stopped);
        };
        let prepared = self.prepare(ends, reader.correspondent()).await;
        let letters = match prepared {
            Ok(Some(letters)) => letters,
            ended => {
                reader.close().await?;
                return ended.map(|_| Ended::Stopped);
            }
        };
        let options = SinkOptions {
            stream: self.args.output_stream.clone(),
            root: Root::Gateway,
            tenant: Tenant::try_from("-").expect("the name is not empty"),
            zstd_level: (self.args.zstd_level > 0).then_some(self.args.zstd_level),
            token: reader.token(),
            tenure: reader.tenure(),
            ack_timeout: ACK_TIMEOUT,
            newest: reader.newest_passed(),
        };
        let created = reader.output().map_or(0, |output| output.stream.created);
        let mut sink = JetStreamSink::new(&ends.output, options);
        let acknowledged = sink.acknowledged();
        reader.follow(Arc::clone(&acknowledged));
        let mut relay = Relay::new(
            reader,
            letters,
            self.control.rules(),
            self.control.paused(),
            Arc::clone(&self.observer),
            (self.args.jq_timeout.into(), self.args.jq_memory.bytes()),
            sink.packing(),
        );
        self.health.readiness.set("input", Ok(()));
        self.health.readiness.set("output", Ok(()));
        tracing::info!(after = ?self.began.elapsed(), "carrying");
        let window = PublishOptions {
            bytes: WINDOW,
            ..PublishOptions::default()
        };
        let observer = self.observer.as_ref();
        let publishing = publish(&mut relay, &mut sink, &window, observer, self.shutdown);
        let ended = tokio::select! {
            biased;
            error = acknowledged.lost(&ends.output, created) => Ok(Ended::LostEnd(error)),
            ended = publishing => match ended {
                Ok(()) => Ok(Ended::Stopped),
                Err(fault) if fault.is_retryable() && !self.shutdown.is_cancelled() => {
                    Ok(Ended::Again(fault))
                }
                Err(fault) => Err(fault.into()),
            },
        };
        let closed = relay.close().await;
        match (ended, closed) {
            (Ok(Ended::Stopped), Err(fault)) => Err(fault.into()),
            (ended, _) => ended,
        }
    }

    /// Becomes the active reader; `None` when the process is to stop first.
    async fn open(&self, ends: &Ends) -> Result<Option<JetStreamReader>, ServiceError> {
        let args = self.args;
        let options = ReaderOptions {
            filter_subjects: self.control.rules().borrow().rules.subjects(),
            holder: runtime::process_name("nats-gateway"),
            lease: args.lease.into(),
            sealed: true,
            max_bytes: AHEAD,
            ..ReaderOptions::new(&args.stream, &args.consumer)
        };
        let opened = until_answered(self.shutdown, async || {
            stream::ensure(&ends.input, &ends.changes).await?;
            stream::ensure(&ends.input, &ends.letters).await?;
            let output = Output {
                bus: ends.output.clone(),
                stream: stream::ensure(&ends.output, &ends.passed).await?,
            };
            let options = ReaderOptions {
                output: Some(output),
                ..options.clone()
            };
            JetStreamReader::open(&ends.input, options, self.shutdown).await
        });
        let Some(reader) = opened.await?.flatten() else {
            return Ok(None);
        };
        if let Some(back) = reader.taken_back() {
            self.observer.lost_end();
            match back.to {
                None => tracing::error!(
                    what = back.what,
                    from = back.from,
                    "the output has lost more than this gateway remembers, as after its deletion: everything that the \
                     input still has is given again, and what it has no more is missing at the target until \
                     `syncline verify --repair` has run"
                ),
                Some(to) => tracing::warn!(
                    what = back.what,
                    from = back.from,
                    to,
                    "the output has lost its end, as after a power failure: what it had is given again"
                ),
            }
        }
        Ok(Some(reader))
    }

    /// Marks both streams, and learns which documents have letters.
    async fn prepare(
        &self,
        ends: &Ends,
        correspondent: Correspondent,
    ) -> Result<Option<JetStreamDeadLetters>, ServiceError> {
        let args = self.args;
        let (input, output) = (args.stream.as_str(), args.output_stream.as_str());
        let marked = until_answered(self.shutdown, async || {
            stream::mark(&ends.output, output, &args.consumer, (input, output)).await?;
            stream::mark(&ends.input, input, &args.consumer, (input, output)).await
        });
        if marked.await?.is_none() {
            return Ok(None);
        }
        let opened = until_answered(self.shutdown, || {
            JetStreamDeadLetters::open(&ends.input, &ends.letters, correspondent.clone())
        });
        Ok(opened.await?)
    }
}
