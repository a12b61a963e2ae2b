//! The writer as a service: connect, become the active reader, write, stop in order.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ::config::Rate;
use bus::{
    Bus, JetStreamDeadLetters, JetStreamReader, Letters, Lineages, ReaderOptions, StreamSpec,
    stream, until_answered,
};
use model::SubjectError;
use pipeline::{ApplyOptions, Fault, MessageSource, apply};
use runtime::{health::Health, metrics::Metrics};
use search::{ArgsError, Choices};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Args, SearchWriter, WriterMetrics,
    follow::{self, Choice},
};

/// A writer whose loop has not come round for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// How often the dead letters are counted, if anything has happened to them.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// The share of the time that counting them may take: there can be very many.
const COUNT_SHARE: u32 = 20;

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
    let config = args.es.client_config(&args.es_hosts)?;
    let nats = args.nats.options(&args.consumer)?;
    let Some(bus) = nats.connect_with_retry(shutdown).await? else {
        return Ok(());
    };
    let Some(client) = search::connect_with_retry(&config, "target", health, shutdown).await?
    else {
        return Ok(());
    };
    let dlq = StreamSpec {
        max_bytes: args.dlq_max_bytes.map(|size| size.bytes()),
        replicas: args.stream_replicas,
        ..StreamSpec::new(stream::ES_DLQ, stream::ES_DLQ_SUBJECTS)
    };
    let observer = WriterMetrics::new(metrics, health.readiness.clone(), Some(heart));
    let observer = Arc::new(observer.with_canary(args.canary.clone()));
    let replicas = args.stream_replicas;
    let opened = until_answered(shutdown, || Lineages::open(&bus, replicas));
    let Some(lineages) = opened.await? else {
        return Ok(());
    };
    let choices = Choices {
        replicas: args.follow_replicas,
    };
    let writer = SearchWriter::new(client)
        .telling(lineages)
        .choosing(choices);
    let writer = Arc::new(writer);
    let mut followed: Option<String> = None;
    loop {
        let chosen = follow::choose(
            &bus,
            &args,
            followed.as_deref(),
            &health.readiness,
            shutdown,
        );
        let Some(choice) = chosen.await? else {
            return Ok(());
        };
        followed = choice.followed().map(str::to_owned).or(followed);
        let (options, changes) = (reader_options(&args, &choice)?, choice.spec(&args));
        let opened = until_answered(shutdown, async || {
            stream::ensure(&bus, &changes).await?;
            stream::ensure(&bus, &dlq).await?;
            JetStreamReader::open(&bus, options.clone(), shutdown).await
        });
        let mut reader = match opened.await {
            Ok(Some(Some(reader))) => reader,
            Ok(_) => return Ok(()),
            // Lost while this one stood by: there may be another one to read.
            Err(bus::Error::StreamMissing { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        // It may have stood by for long.
        let looked = until_answered(shutdown, || follow::has_changed(&bus, &args, &choice));
        match looked.await? {
            Some(false) => {}
            ended => {
                reader.close().await?;
                match ended {
                    None => return Ok(()),
                    Some(_) => continue,
                }
            }
        }
        if until_answered(shutdown, || follow::leave(&bus, &args, &choice))
            .await?
            .is_none()
        {
            reader.close().await?;
            return Ok(());
        }
        let correspondent = reader.correspondent();
        let opened = until_answered(shutdown, || {
            JetStreamDeadLetters::open(&bus, &dlq, correspondent.clone())
        });
        let dead_letters = match opened.await {
            Ok(Some(letters)) => letters,
            ended => {
                reader.close().await?;
                return Ok(ended.map(drop)?);
            }
        };
        let counting = count_letters(
            bus.clone(),
            choice.stream.clone(),
            args.consumer.clone(),
            Arc::clone(&observer),
        );
        let _counting = AbortOnDropHandle::new(tokio::spawn(counting));
        health.readiness.set("stream", Ok(()));
        let stop = shutdown.child_token();
        let applied = apply(
            &mut reader,
            Arc::clone(&writer),
            Arc::new(dead_letters),
            Arc::clone(&observer),
            apply_options(&args),
            &stop,
        );
        let switched = async {
            follow::changed(&bus, &args, &choice).await;
            tracing::info!("another stream is to be read: finishing what is under way");
            stop.cancel();
            std::future::pending().await
        };
        let applied = tokio::select! {
            applied = applied => applied,
            applied = switched => applied,
        };
        match applied {
            Ok(()) if !shutdown.is_cancelled() && stop.is_cancelled() => {}
            // The log is not what it was: it is read anew, from what its record says now.
            Err(fault) if fault.is_retryable() && !shutdown.is_cancelled() => {
                health.readiness.set("stream", Err(fault.to_string()));
                tracing::warn!(%fault, "reading the stream anew");
            }
            ended => return Ok(ended?),
        }
    }
}

/// Keeps the number of dead letters current. It is counted in the stream, where others remove letters, too.
async fn count_letters(bus: Bus, from: String, consumer: String, metrics: Arc<WriterMetrics>) {
    let letters = Letters::new(&bus, stream::ES_DLQ);
    let mut counted = None;
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let began = Instant::now();
        let state = stream::info(&bus, stream::ES_DLQ).await.ok().flatten();
        let state = state.map(|info| (info.messages, info.last_sequence));
        if state.is_some()
            && state != counted
            && let Ok(counts) = letters.count(&from, &consumer).await
        {
            known.values_mut().for_each(|count| *count = 0);
            known.extend(counts);
            known
                .iter()
                .for_each(|(index, count)| metrics.letters(index, *count));
            counted = state;
        }
        tokio::time::sleep(COUNT_EVERY.max(began.elapsed() * COUNT_SHARE)).await;
    }
}

fn reader_options(args: &Args, choice: &Choice) -> Result<ReaderOptions, SubjectError> {
    Ok(ReaderOptions {
        filter_subjects: choice.filter_subjects(args)?,
        holder: runtime::process_name("es-writer"),
        lease: args.lease.into(),
        ..ReaderOptions::new(&choice.stream, &args.consumer)
    })
}

fn apply_options(args: &Args) -> ApplyOptions {
    ApplyOptions {
        lanes: args.concurrency,
        max_rate: args.max_rate.map(Rate::per_second),
        bulk_count: args.batch_size,
        bulk_bytes: args.batch_bytes.bytes() as usize,
        linger: args.batch_delay.into(),
        bytes: args.in_flight_bytes.bytes() as usize,
        ..ApplyOptions::default()
    }
}
