//! The writing end of the log.
//!
//! Messages are sent without waiting for one acknowledgment before the next message, on one
//! connection, so they are stored in order unless the connection breaks. When it does, every receipt
//! under way fails at once and the caller starts over with a new attempt; what the old attempt still
//! had in the client's or the server's buffers may be stored later all the same. Readers tell such
//! stragglers by two headers: the publisher's fencing token and the attempt (see [`crate::reader`]).

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{
        self, Context,
        context::{PublishAckFuture, PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use model::{
    Batch, Root, Tenant, now_ms,
    wire::{Encoder, Message, Packing},
};
use pipeline::{Fault, MessageSink, Tenure};
use tokio::time::{Instant, timeout_at};

use crate::{Acknowledged, Bus, Error, Stored};

/// The header with the publisher's fencing token.
pub(crate) const TOKEN_HEADER: &str = "Syncline-Token";
/// The header with the attempt.
pub(crate) const ATTEMPT_HEADER: &str = "Syncline-Attempt";

/// What a message's headers, subject and framing may occupy of the server's limit.
const HEADROOM: usize = 4 << 10;
/// Bodies are not made larger than this even where the server takes more: 8 MB is the most that
/// NATS recommends.
const LARGEST_BODY: usize = 8 << 20;

/// How a sink publishes.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// The stream that has to take the messages; a message that would go elsewhere is refused.
    pub stream: String,
    /// The first tokens of the subjects.
    pub root: Root,
    /// The second.
    pub tenant: Tenant,
    /// The zstd level for bodies; `None` leaves them as they are.
    pub zstd_level: Option<i32>,
    /// The publisher's fencing token. It has to be higher in every process that takes over the same
    /// partitions, as [`crate::Lease::token`] is. Readers drop what is older, so a partition must be
    /// published through one sink at a time.
    pub token: u64,
    /// How long this publisher may act. What the stream acknowledges after its end counts as not
    /// published: a successor may already have begun, and readers drop what comes after that.
    pub tenure: Tenure,
    /// How long the stream may take to acknowledge a batch.
    pub ack_timeout: Duration,
    /// The newest message that the stream has acknowledged to this publisher before.
    pub newest: Option<Stored>,
}

/// What was published, by one sink and its clones of statistics.
#[derive(Debug, Default)]
pub struct SinkStats {
    messages: AtomicU64,
    raw_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

impl SinkStats {
    /// Messages sent, repetitions included.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// The size of the batches in them before encoding, in bytes.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes.load(Relaxed)
    }

    /// The size of their bodies as sent, in bytes.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Relaxed)
    }
}

/// Publishes batches into a stream.
#[derive(Debug)]
pub struct JetStreamSink {
    bus: Bus,
    context: Context,
    encoder: Encoder,
    options: Arc<SinkOptions>,
    /// Tells the messages of this process from those of any other.
    run: String,
    /// Tells the messages of this process apart.
    counter: u64,
    attempts: Attempts,
    acknowledged: Arc<Acknowledged>,
    stats: Arc<SinkStats>,
}

impl JetStreamSink {
    /// A sink into a stream that [`crate::stream::ensure`] has looked at.
    pub fn new(bus: &Bus, options: SinkOptions) -> JetStreamSink {
        JetStreamSink {
            context: bus.context(options.ack_timeout),
            encoder: Encoder {
                root: options.root,
                tenant: options.tenant.clone(),
                max_body: max_body(bus),
                zstd_level: options.zstd_level,
            },
            run: format!("{}-{:016x}", options.token, fastrand::u64(..)),
            counter: 0,
            attempts: Attempts::from(now_ms()),
            stats: Arc::default(),
            acknowledged: Arc::new(Acknowledged::new(&options.stream, options.newest.clone())),
            options: Arc::new(options),
            bus: bus.clone(),
        }
    }

    /// How it packs changes into bodies, for whoever packs them before.
    pub fn packing(&self) -> Packing {
        self.encoder.packing()
    }

    /// What was published; keeps counting after the sink has moved elsewhere.
    pub fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.stats)
    }

    /// What the stream has acknowledged; grows with every receipt.
    pub fn acknowledged(&self) -> Arc<Acknowledged> {
        Arc::clone(&self.acknowledged)
    }

    async fn send(&mut self, message: Message, attempt: u64) -> Result<Sent, Error> {
        let subject = message.subject.to_string();
        self.counter += 1;
        let mut message_id = format!("{}-{}", self.run, self.counter);
        if let Some(via) = &message.envelope.origin.via {
            message_id = format!("{}-{message_id}", via.entry);
        }
        let headers = self.headers(&message, &message_id, attempt);
        self.stats.messages.fetch_add(1, Relaxed);
        self.stats
            .wire_bytes
            .fetch_add(message.body.len() as u64, Relaxed);
        let size = message.body.len();
        let publish = PublishMessage::build()
            .headers(headers)
            .payload(message.body);
        match self.context.send_publish(subject.clone(), publish).await {
            Ok(ack) => Ok(Sent {
                number: self.counter,
                subject,
                message_id,
                ack,
            }),
            Err(error) => Err(publish_error(
                &self.bus,
                &self.options.stream,
                &subject,
                size,
                &error,
            )),
        }
    }

    fn headers(&self, message: &Message, message_id: &str, attempt: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message_id);
        headers.insert(NATS_EXPECTED_STREAM, self.options.stream.as_str());
        headers.insert(TOKEN_HEADER, self.options.token.to_string());
        headers.insert(ATTEMPT_HEADER, attempt.to_string());
        for (name, value) in message.envelope.to_headers() {
            headers.insert(name, value);
        }
        headers
    }
}

impl MessageSink for JetStreamSink {
    type Receipt = Receipt;

    async fn publish(&mut self, batch: &Arc<Batch>, attempt: u64) -> Result<Receipt, Fault> {
        // Without this the client would queue messages while the caller starts over again and again.
        if !self.bus.is_connected() {
            return Err(Error::Disconnected(self.bus.server_host().to_owned()).into());
        }
        let attempt = self.attempts.number(attempt);
        let losses = self.bus.losses();
        let denials = self.bus.denials();
        let deadline = Instant::now() + self.options.ack_timeout;
        self.stats.raw_bytes.fetch_add(batch.size() as u64, Relaxed);
        let mut acks = Vec::new();
        for message in self.encoder.encode(batch) {
            acks.push(self.send(message, attempt).await?);
        }
        let confirmation = Confirmation {
            bus: self.bus.clone(),
            options: Arc::clone(&self.options),
            acknowledged: Arc::clone(&self.acknowledged),
            losses,
            denials,
            deadline,
        };
        Ok(Receipt(Box::pin(confirmation.of(acks))))
    }
}

/// Makes attempts rise although every loop counts its own from 0. They begin at the clock's time, so
/// that a publisher that starts again with the token it had is not taken for its own past.
#[derive(Debug)]
struct Attempts {
    base: u64,
    last: u64,
}

impl Attempts {
    fn from(base: u64) -> Attempts {
        Attempts { base, last: 0 }
    }

    fn number(&mut self, attempt: u64) -> u64 {
        if attempt < self.last {
            self.base += self.last + 1;
        }
        self.last = attempt;
        self.base + attempt
    }
}

/// Resolves when the stream has all messages of a batch.
pub struct Receipt(Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>);

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receipt")
    }
}

impl Future for Receipt {
    type Output = Result<(), Fault>;

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// A message that is not acknowledged yet.
struct Sent {
    number: u64,
    subject: String,
    message_id: String,
    ack: PublishAckFuture,
}

struct Confirmation {
    bus: Bus,
    options: Arc<SinkOptions>,
    acknowledged: Arc<Acknowledged>,
    losses: tokio::sync::watch::Receiver<u64>,
    denials: tokio::sync::watch::Receiver<u64>,
    deadline: Instant,
}

impl Confirmation {
    async fn of(mut self, messages: Vec<Sent>) -> Result<(), Fault> {
        for sent in messages {
            self.one(sent).await?;
        }
        if self.options.tenure.remaining() == Some(Duration::ZERO) {
            return Err(Fault::fatal(
                "this publisher's lease has run out and could not be renewed in time; another one \
                 may be active now",
            ));
        }
        Ok(())
    }

    async fn one(&mut self, sent: Sent) -> Result<(), Error> {
        let (stream, subject) = (&self.options.stream, &sent.subject);
        let mut ack = sent.ack.into_future();
        loop {
            let acked = tokio::select! {
                biased;
                acked = timeout_at(self.deadline, &mut ack) => acked,
                Ok(()) = self.losses.changed() => {
                    return Err(Error::Disconnected(self.bus.server_host().to_owned()));
                }
                Ok(()) = self.denials.changed() => match self.bus.denied(subject) {
                    Some(denied) => return Err(denied),
                    None => continue,
                },
            };
            return match acked {
                Ok(Ok(acknowledged)) => {
                    let stored = Stored {
                        sequence: acknowledged.sequence,
                        message_id: sent.message_id,
                    };
                    self.acknowledged.note(sent.number, stored)
                }
                Ok(Err(error)) => Err(publish_error(&self.bus, stream, subject, 0, &error)),
                Err(_) => Err(unanswered(&self.bus, stream, subject)),
            };
        }
    }
}

fn unanswered(bus: &Bus, stream: &str, subject: &str) -> Error {
    bus.denied(subject).unwrap_or_else(|| {
        Error::request(
            format!("publishing to {stream}"),
            "the server does not acknowledge in time",
        )
    })
}

/// The largest body to send.
pub(crate) fn max_body(bus: &Bus) -> usize {
    bus.max_payload()
        .saturating_sub(HEADROOM)
        .clamp(1 << 10, LARGEST_BODY)
}

/// What a failed publication means.
pub(crate) fn publish_error(
    bus: &Bus,
    stream: &str,
    subject: &str,
    size: usize,
    error: &PublishError,
) -> Error {
    let what = || format!("publishing {subject} to the stream {stream}");
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Error::TooLarge {
            subject: subject.to_owned(),
            size,
            limit: bus.max_payload(),
        },
        PublishErrorKind::TimedOut => unanswered(bus, stream, subject),
        PublishErrorKind::StreamNotFound => Error::request(
            what(),
            "no stream takes this subject just now; if that lasts, the stream was deleted or renamed",
        ),
        PublishErrorKind::BrokenPipe => Error::Disconnected(bus.server_host().to_owned()),
        PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::MaxAckPending => Error::request(what(), error),
        PublishErrorKind::Other => match jetstream_error(error) {
            Some(answer) => refused(bus, stream, subject, size, answer),
            None => Error::request(what(), error),
        },
    }
}

/// The server's answer within an error.
pub(crate) fn jetstream_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a jetstream::Error> {
    let mut error = Some(error);
    while let Some(cause) = error {
        if let Some(answer) = cause.downcast_ref::<jetstream::Error>() {
            return Some(answer);
        }
        error = cause.source();
    }
    None
}

fn refused(
    bus: &Bus,
    stream: &str,
    subject: &str,
    size: usize,
    answer: &jetstream::Error,
) -> Error {
    use jetstream::ErrorCode as Code;
    let (stream, reason) = (stream.to_owned(), answer.to_string());
    match answer.error_code() {
        // Any failure to store has this code, and nearly always it is a limit.
        Code::STREAM_STORE_FAILED if reason.contains("exceeded") => {
            Error::StreamFull { stream, reason }
        }
        Code::STREAM_MESSAGE_EXCEEDS_MAXIMUM | Code::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            Error::Refused {
                what: format!("a message of {size} bytes for the stream {stream}"),
                reason: format!("{reason}; raise the stream's max_msg_size"),
            }
        }
        Code::STREAM_NOT_MATCH => Error::StreamUnsuitable {
            stream,
            reason: format!(
                "does not take the subject {subject}, another stream does: correct the subjects of both"
            ),
        },
        Code::STREAM_SEALED => Error::StreamUnsuitable {
            stream,
            reason: "is sealed: it takes no messages".to_owned(),
        },
        // 503 and the rest: a leader is being chosen, the disk is full, the server is busy.
        _ => crate::error::refused(
            bus.server_host(),
            &format!("publishing to the stream {stream}"),
            answer,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_rise_although_every_loop_begins_at_zero() {
        let mut attempts = Attempts::from(70);
        let numbers: Vec<u64> = [0, 0, 1, 2, 0, 1, 0]
            .into_iter()
            .map(|n| attempts.number(n))
            .collect();
        assert_eq!(numbers, [70, 70, 71, 72, 73, 74, 75]);
    }
}
