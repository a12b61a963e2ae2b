//! A cursor in the server: an ephemeral consumer without acknowledgments.

use std::{future::Future, pin::Pin, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use tokio::sync::watch;

use super::{
    ReaderOptions,
    position::{self, Position},
};
use crate::{Bus, Error};

/// How often the server says that it is there while there is nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the server keeps a cursor nobody asks for.
const CURSOR_LIFE: Duration = Duration::from_secs(60);
pub(super) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

pub(super) enum Cursor {
    /// Is being made. Kept apart from the call of `next` that began it, which may be dropped.
    Opening(Pending<Open>),
    Reading(Box<Open>),
}

/// A cursor in the server.
pub(super) struct Open {
    pub(super) messages: pull::Stream,
    /// The number of the message it delivered last.
    pub(super) delivered: u64,
    pub(super) pending: u64,
    pub(super) losses: watch::Receiver<u64>,
}

/// Makes a cursor behind a position, after a pause.
pub(super) async fn open(
    bus: Bus,
    options: ReaderOptions,
    created: u64,
    after: Position,
    pause: Duration,
) -> Result<Open, Error> {
    tokio::time::sleep(pause).await;
    position::check(&bus, &options.stream, created, after).await?;
    let losses = bus.losses();
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: after.sequence + 1,
        },
        ack_policy: AckPolicy::None,
        filter_subjects: options.filter_subjects.clone(),
        inactive_threshold: CURSOR_LIFE,
        memory_storage: true,
        num_replicas: 1,
        description: Some(format!("cursor of the reader {}", options.consumer)),
        ..pull::Config::default()
    };
    let what = format!("reading the stream {}", options.stream);
    let consumer = bus
        .jetstream()
        .create_consumer_on_stream(config, &options.stream)
        .await;
    let consumer = consumer.map_err(|error| match error.kind() {
        jetstream::stream::ConsumerErrorKind::JetStream(answer)
            if answer.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
        {
            position::gone(&options.stream, after)
        }
        jetstream::stream::ConsumerErrorKind::JetStream(answer) => {
            crate::error::refused(bus.server_host(), &what, &answer)
        }
        _ => bus
            .denied(&format!("$JS.API.CONSUMER.CREATE.{}", options.stream))
            .unwrap_or_else(|| Error::request(&*what, error)),
    })?;
    let pending = consumer.cached_info().num_pending;
    let messages = consumer
        .stream()
        .max_bytes_per_batch(options.max_bytes.max(bus.max_payload() + (64 << 10)))
        .max_messages_per_batch(10_000)
        .expires(Duration::from_secs(30))
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| Error::request(&*what, error))?;
    Ok(Open {
        messages,
        delivered: 0,
        pending,
        losses,
    })
}
