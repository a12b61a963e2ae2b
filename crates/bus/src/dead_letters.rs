//! Where changes go that the target refuses: the stream `ES_DLQ`.
//!
//! A letter stands under `dlq.{tenant}.{index}`. Its body is the change as it travelled, its headers
//! are those of the wire format and, besides, the reason and where it came from; a body above the
//! server's limit is cut into parts like any other, so [`model::wire::Assembler`] and
//! [`model::wire::decode`] read a letter back.
//!
//! Letters have no message id: the server would take a letter that was replayed and failed again for a
//! repetition of the first, and drop it. A letter parked twice because the floor was not stored in
//! time has the same [`SEQUENCE_HEADER`] and document, and is recognised by them.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_STREAM,
    jetstream::{Context, message::PublishMessage},
};
use bytes::Bytes;
use model::{
    Batch, Change, Content, IndexName, Origin, Root, Tenant, token,
    wire::{Encoder, Envelope, Message},
};
use pipeline::{DeadLetter, DeadLetters, Fault};

use crate::{
    Bus, Error, StreamSpec,
    sink::{max_body, publish_error},
    stream,
};

/// Why the letter was parked.
pub const REASON_HEADER: &str = "Syncline-Reason";
/// The number of the entry it came from, in the stream of [`STREAM_HEADER`].
pub const SEQUENCE_HEADER: &str = "Syncline-Sequence";
/// The stream it came from.
pub const STREAM_HEADER: &str = "Syncline-Stream";
/// The subject it stood under.
pub const SUBJECT_HEADER: &str = "Syncline-Subject";
/// When it was parked, in milliseconds since 1970.
pub const PARKED_HEADER: &str = "Syncline-Parked";
/// The change's version; absent where the entry could not be read.
pub const VERSION_HEADER: &str = "Syncline-Version";

/// A reason longer than this is cut: headers share the server's limit with the body.
const LONGEST_REASON: usize = 1024;

/// Parks letters in JetStream.
#[derive(Debug, Clone)]
pub struct JetStreamDeadLetters {
    bus: Bus,
    context: Context,
    stream: String,
    /// The stream the letters come from.
    from: String,
    encoder: Encoder,
}

/// A message of a letter.
struct Part {
    /// The subject it stood under.
    original: String,
    envelope: Envelope,
    body: Bytes,
}

impl JetStreamDeadLetters {
    /// Parks what a reader of the stream `from` could not write for `tenant`; makes sure that the
    /// stream for letters is there.
    ///
    /// # Errors
    /// See [`stream::ensure`].
    pub async fn open(
        bus: &Bus,
        spec: &StreamSpec,
        from: &str,
        root: Root,
        tenant: Tenant,
    ) -> Result<JetStreamDeadLetters, Error> {
        stream::ensure(bus, spec).await?;
        Ok(JetStreamDeadLetters {
            bus: bus.clone(),
            context: bus.context(Duration::from_secs(10)),
            stream: spec.name.clone(),
            from: from.to_owned(),
            encoder: Encoder {
                root,
                tenant,
                max_body: max_body(bus),
                zstd_level: None,
            },
        })
    }

    /// The letter's subject, without the root.
    fn subject(&self, index: &str) -> String {
        let tenant = token::encode(self.encoder.tenant.as_str());
        format!("dlq.{tenant}.{}", token::encode(index))
    }

    /// The letter as one or several messages.
    fn parts(&self, letter: &DeadLetter) -> Vec<Part> {
        let readable = letter.change.as_ref().and_then(|change| {
            let index = IndexName::try_from(letter.index.as_str()).ok()?;
            Some(self.encode(index, change.clone()))
        });
        if let Some(messages) = readable {
            let part = |message: Message| Part {
                original: message.subject.to_string(),
                envelope: message.envelope,
                body: message.body,
            };
            return messages.into_iter().map(part).collect();
        }
        let origin = Origin::now("dead-letter".into());
        let of = letter.body.len().div_ceil(self.encoder.max_body).max(1);
        let part = |at: usize| {
            let start = at * self.encoder.max_body;
            let end = letter.body.len().min(start + self.encoder.max_body);
            let part = (at as u32 + 1, of as u32);
            let envelope = Envelope {
                count: 0,
                origin: origin.clone(),
                compressed: false,
                part,
            };
            Part {
                original: letter.index.clone(),
                envelope,
                body: letter.body.slice(start..end),
            }
        };
        (0..of).map(part).collect()
    }

    fn encode(&self, index: IndexName, change: Change) -> Vec<Message> {
        self.encoder.encode(&Batch {
            index,
            origin: Origin::now("dead-letter".into()),
            content: Content::Changes(vec![change]),
        })
    }

    fn headers(&self, letter: &DeadLetter, part: &Part) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, self.stream.as_str());
        for (name, value) in part.envelope.to_headers() {
            headers.insert(name, value);
        }
        headers.insert(REASON_HEADER, header_text(&letter.reason));
        headers.insert(SEQUENCE_HEADER, letter.sequence.to_string());
        headers.insert(STREAM_HEADER, self.from.as_str());
        headers.insert(SUBJECT_HEADER, header_text(&part.original));
        headers.insert(PARKED_HEADER, model::now_ms().to_string());
        if let Some(change) = &letter.change {
            headers.insert(VERSION_HEADER, change.version.to_string());
        }
        headers
    }
}

impl DeadLetters for JetStreamDeadLetters {
    async fn park(&self, letter: DeadLetter) -> Result<(), Fault> {
        let subject = self.subject(&letter.index);
        for part in self.parts(&letter) {
            let size = part.body.len();
            let headers = self.headers(&letter, &part);
            let publish = PublishMessage::build().headers(headers).payload(part.body);
            let stored = match self.context.send_publish(subject.clone(), publish).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            stored
                .map_err(|error| publish_error(&self.bus, &self.stream, &subject, size, &error))?;
        }
        Ok(())
    }
}

/// A text as a header's value, which is a single line.
fn header_text(text: &str) -> String {
    let line = text.replace(['\r', '\n'], " ");
    let end = line.floor_char_boundary(LONGEST_REASON);
    line[..end].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_becomes_one_short_line() {
        assert_eq!(
            header_text("mapper_parsing_exception:\r\n [x] "),
            "mapper_parsing_exception:   [x]"
        );
        assert_eq!(header_text(&"é".repeat(1000)).len(), 1024);
    }
}
