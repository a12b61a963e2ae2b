//! A loop that copies a stream and does nothing else.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use bus::{Bus, stream};
use futures::StreamExt;
use testkit::process::Usage;

use crate::bench::runs::Run;

/// How many messages may be under way, as with the gateway.
const WINDOW: usize = 256;
/// And how many bytes: a stream that holds 128 MB which it has not stored yet takes no more.
const WINDOW_BYTES: usize = 32 << 20;

/// Copies every message that the input has.
pub(super) async fn copy(bus: &Bus, total: u64) -> Result<Run> {
    let input = bus.jetstream().get_stream(stream::ES_CHANGES).await?;
    let messages = input.cached_info().state.messages;
    copy_messages(bus, messages, total).await
}

/// Copies so many messages of the input into the output, under the other root, with their headers.
pub(super) async fn copy_messages(bus: &Bus, messages: u64, total: u64) -> Result<Run> {
    let mut left = messages;
    let before = Usage::of_this_process()?;
    let began = Instant::now();
    let jetstream = bus.jetstream();
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let consumer = jetstream
        .create_consumer_on_stream(config, stream::ES_CHANGES)
        .await?;
    let messages = consumer
        .stream()
        // What the gateway's reader asks for, too.
        .max_bytes_per_batch((4 << 20).max(bus.max_payload() + (64 << 10)))
        .max_messages_per_batch(10_000)
        .messages();
    let mut messages = messages.await?;
    let (mut under_way, mut bytes) = (VecDeque::new(), 0);
    while left > 0 {
        let message = messages.next().await.context("it ended early")??;
        left -= 1;
        let mut publish = PublishMessage::build().payload(message.payload.clone());
        for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
            // The id is the publisher's own, and the stream another.
            let text: &str = name.as_ref();
            if !text.starts_with("Nats-") {
                for value in values {
                    publish = publish.header(name.clone(), value.clone());
                }
            }
        }
        let (subject, size) = (format!("gw.{}", message.subject), message.payload.len());
        under_way.push_back((jetstream.send_publish(subject, publish).await?, size));
        bytes += size;
        while (under_way.len() >= WINDOW || bytes > WINDOW_BYTES)
            && let Some((oldest, size)) = under_way.pop_front()
        {
            oldest.await?;
            bytes -= size;
        }
    }
    for (ack, _) in under_way {
        ack.await?;
    }
    Ok(Run {
        documents: total,
        elapsed: began.elapsed(),
        used: Some(Usage::of_this_process()?.since(&before)),
    })
}
