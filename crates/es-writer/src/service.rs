//! The writer as a service: connect, become the active reader, write, stop in order.

use std::{sync::Arc, time::Duration};

use bus::{
    JetStreamDeadLetters, JetStreamReader, Lineages, ReaderOptions, StreamSpec, stream,
    until_answered,
};
use model::{Root, SubjectError, Tenant, expand_filter};
use pipeline::{ApplyOptions, Fault, apply};
use runtime::{health::Health, metrics::Metrics};
use search::ArgsError;
use tokio_util::sync::CancellationToken;

use crate::{Args, SearchWriter, WriterMetrics};

/// A writer whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Why a writer ends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error it carries")]
pub enum ServiceError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Secret(#[from] config::SecretFileError),
    #[error(transparent)]
    Filter(#[from] SubjectError),
    #[error(transparent)]
    Search(#[from] search::Error),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Pipeline(#[from] Fault),
}

/// Runs a writer until `shutdown` is cancelled.
///
/// Stops in this order: nothing more is read; bulks under way are finished; the floor is stored and
/// the lease given back.
///
/// # Errors
/// When it cannot go on without somebody acting.
pub async fn run(
    args: Args,
    metrics: &Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), ServiceError> {
    health.readiness.expect("target");
    health.readiness.expect("stream");
    let heart = health.liveness.heart("es-writer", STUCK_AFTER);
    let filter_subjects = filter_subjects(&args)?;
    let config = args.es.client_config(&args.es_hosts)?;
    let nats = args.nats.options(&args.consumer)?;
    let Some(bus) = nats.connect_with_retry(shutdown).await? else {
        return Ok(());
    };
    let Some(client) = search::connect_with_retry(&config, "target", health, shutdown).await?
    else {
        return Ok(());
    };
    let changes = StreamSpec {
        replicas: args.stream_replicas,
        ..StreamSpec::new(&args.stream, subjects_of(&args.stream))
    };
    let dlq = StreamSpec {
        max_bytes: args.dlq_max_bytes.map(|size| size.bytes()),
        replicas: args.stream_replicas,
        ..StreamSpec::new(stream::ES_DLQ, stream::ES_DLQ_SUBJECTS)
    };
    let tenant = Tenant::try_from("default").expect("the name is not empty");
    let ensured = until_answered(shutdown, async || {
        stream::ensure(&bus, &changes).await?;
        JetStreamDeadLetters::open(&bus, &dlq, &args.stream, Root::Changes, tenant.clone()).await
    });
    let Some(dead_letters) = ensured.await? else {
        return Ok(());
    };
    let observer = Arc::new(WriterMetrics::new(
        metrics,
        health.readiness.clone(),
        Some(heart),
    ));
    let options = ReaderOptions {
        filter_subjects,
        holder: runtime::process_name("es-writer"),
        lease: args.lease.into(),
        ..ReaderOptions::new(&args.stream, &args.consumer)
    };
    let replicas = args.stream_replicas;
    let opened = until_answered(shutdown, || Lineages::open(&bus, replicas));
    let Some(lineages) = opened.await? else {
        return Ok(());
    };
    let writer = Arc::new(SearchWriter::new(client).telling(lineages));
    let dead_letters = Arc::new(dead_letters);
    loop {
        let opened = until_answered(shutdown, || {
            JetStreamReader::open(&bus, options.clone(), shutdown)
        });
        let Some(mut reader) = opened.await?.flatten() else {
            return Ok(());
        };
        health.readiness.set("stream", Ok(()));
        let applied = apply(
            &mut reader,
            Arc::clone(&writer),
            Arc::clone(&dead_letters),
            Arc::clone(&observer),
            apply_options(&args),
            shutdown,
        );
        match applied.await {
            // The log is not what it was: it is read anew, from what its record says now.
            Err(fault) if fault.is_retryable() && !shutdown.is_cancelled() => {
                health.readiness.set("stream", Err(fault.to_string()));
                tracing::warn!(%fault, "reading the stream anew");
            }
            ended => return Ok(ended?),
        }
    }
}

fn filter_subjects(args: &Args) -> Result<Vec<String>, SubjectError> {
    let given = args.filter_subjects.iter().flat_map(|list| list.iter());
    given.map(|filter| expand_filter(filter)).collect()
}

/// The subjects of a stream that has to be created: the gateway's output has its own.
fn subjects_of(stream: &str) -> &'static str {
    match stream {
        stream::ES_GATEWAY => stream::ES_GATEWAY_SUBJECTS,
        _ => stream::ES_CHANGES_SUBJECTS,
    }
}

fn apply_options(args: &Args) -> ApplyOptions {
    ApplyOptions {
        lanes: args.concurrency,
        bulk_count: args.batch_size,
        bulk_bytes: args.batch_bytes.bytes() as usize,
        linger: args.batch_delay.into(),
        bytes: args.in_flight_bytes.bytes() as usize,
        ..ApplyOptions::default()
    }
}
