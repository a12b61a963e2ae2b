//! Where changes go that the target refuses: the stream `ES_DLQ`.
//!
//! A letter stands under the subject of its [`Address`], which names the reader and the document. Its
//! body is the change as it travelled, its headers are those of the wire format and, besides, what
//! [`Letter`] holds; a body above the server's limit is cut into parts like any other, so
//! [`model::wire::Assembler`] and [`model::wire::decode`] read a letter back.
//!
//! A reader that opens learns which documents have a letter ([`JetStreamDeadLetters::open`]), and keeps
//! that as a set of digests. A change of such a document is looked up in the stream before it counts as
//! settled: the stream decides, the set only spares the others the question.
//!
//! **Stragglers.** A process that was cut off can have a letter in its buffers that is stored when its
//! successor has long settled what came later. Were it taken for a letter, a replay could bring back a
//! deleted document. So letters carry their reader's fencing token, and a reader keeps in its record
//! where the letters ended when it opened: the next one removes what an older token has stored beyond.
//!
//! Letters have no message id: the server would take a letter that was replayed and failed again for a
//! repetition of the first, and drop it.

mod address;
mod letter;
mod shelf;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_STREAM,
    jetstream::{Context, message::PublishMessage},
};
use bytes::Bytes;
use model::{
    Batch, Change, Content, IndexName, Origin, Root, Subject, Tenant, Version, token,
    wire::{Encoder, Envelope, Message},
};
use pipeline::{DeadLetter, DeadLetters, Fault, Replay, Replayed};

use crate::{
    Bus, Correspondent, Error, StreamSpec,
    sink::{TOKEN_HEADER, max_body, publish_error},
    stream,
};

pub use address::{About, Address, NoLetter};
pub use letter::{
    ATTEMPTS_HEADER, FIRST_PARKED_HEADER, ID_HEADER, Letter, PARKED_HEADER, REASON_HEADER,
    ROUTING_HEADER, SEQUENCE_HEADER, SIZE_HEADER, STREAM_HEADER, SUBJECT_HEADER, VERSION_HEADER,
};
pub use shelf::{Contents, Letters, Pages};

/// A reason longer than this is cut: headers share the server's limit with the body.
const LONGEST_REASON: usize = 1024;
/// A name that is longer than this when it is encoded has no header; the body has it.
const LONGEST_NAME: usize = 2048;
/// What the headers of a letter take of the server's limit besides those of any message.
const HEADROOM: usize = 8 << 10;

/// The letters of one reader.
#[derive(Debug)]
pub struct JetStreamDeadLetters {
    bus: Bus,
    context: Context,
    letters: Letters,
    stream: String,
    /// The stream the letters come from.
    from: String,
    reader: String,
    token: u64,
    parked: Parked,
}

/// Which documents have a letter, by index. May know some that have none any more, and knows all that do.
#[derive(Debug, Default)]
struct Parked {
    by_index: Mutex<HashMap<String, HashSet<About>>>,
    /// How many there are: with none, nobody waits for the lock.
    count: AtomicUsize,
}

impl Parked {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashSet<About>>> {
        self.by_index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, index: &str, about: About) {
        let mut by_index = self.lock();
        let new = match by_index.get_mut(index) {
            Some(known) => known.insert(about),
            None => by_index.entry(index.to_owned()).or_default().insert(about),
        };
        if new {
            self.count.fetch_add(1, Relaxed);
        }
    }

    fn remove(&self, index: &str, about: About) {
        let removed = self
            .lock()
            .get_mut(index)
            .is_some_and(|known| known.remove(&about));
        if removed {
            self.count.fetch_sub(1, Relaxed);
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    fn contains(&self, index: &str, about: About) -> bool {
        self.lock()
            .get(index)
            .is_some_and(|known| known.contains(&about))
    }
}

/// A message of a letter.
struct Part {
    /// The subject it stood under.
    original: String,
    envelope: Envelope,
    body: Bytes,
}

impl JetStreamDeadLetters {
    /// The letters of a reader that has just opened: makes sure that their stream is there, and learns
    /// which documents have one.
    ///
    /// # Errors
    /// See [`stream::ensure`]; and when the server does not answer.
    pub async fn open(
        bus: &Bus,
        spec: &StreamSpec,
        of: Correspondent,
    ) -> Result<JetStreamDeadLetters, Error> {
        let end = stream::ensure(bus, spec).await?.last_sequence;
        let letters = JetStreamDeadLetters {
            bus: bus.clone(),
            context: bus.context(Duration::from_secs(10)),
            letters: Letters::new(bus, &spec.name),
            stream: spec.name.clone(),
            from: of.stream.clone(),
            reader: of.reader.clone(),
            token: of.token,
            parked: Parked::default(),
        };
        letters.learn(of.seen).await?;
        of.has_seen(end);
        Ok(letters)
    }

    /// Reads the headers of all letters. `seen` is the token of the reader that did so before, and
    /// where the letters ended then.
    async fn learn(&self, seen: Option<(u64, u64)>) -> Result<(), Error> {
        let filter = Address::filter(Some(&self.from), Some(&self.reader));
        let mut pages = self.letters.list(&filter).await?;
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            for letter in page {
                let Some(address) = &letter.address else {
                    continue;
                };
                if seen.is_some_and(|(token, end)| letter.at > end && letter.token < token) {
                    tracing::info!(subject = letter.subject, "removed a letter that came late");
                    self.letters.remove(&letter).await?;
                } else {
                    self.parked.insert(&address.index, address.about);
                }
            }
        }
    }

    /// Where a letter belongs. Its tenant is that of the entry it came from.
    fn address(&self, letter: &DeadLetter) -> Address {
        let subject = letter.subject.as_deref();
        let subject = subject.and_then(|subject| subject.parse::<Subject>().ok());
        Address {
            tenant: subject.map_or("-".to_owned(), |subject| subject.tenant.into()),
            index: letter.index.clone(),
            stream: self.from.clone(),
            reader: self.reader.clone(),
            about: match &letter.change {
                Some(change) => about(change),
                None => About::Entry(letter.sequence),
            },
        }
    }

    /// The letter of a document; looks into the stream only where there may be one.
    async fn find(&self, index: &str, about: About) -> Result<Option<Letter>, Error> {
        if self.parked.is_empty() || !self.parked.contains(index, about) {
            return Ok(None);
        }
        // Whose tenant it was parked for is not known here, and does not matter to the target.
        let [index_token, from, reader] =
            [index, &self.from, &self.reader].map(|name| token::encode(name));
        let subject = format!("dlq.*.{index_token}.{from}.{reader}.{about}");
        let found = self.letters.find(&subject).await?;
        if found.is_none() {
            self.parked.remove(index, about); // somebody has removed it
        }
        Ok(found)
    }

    /// The letter as one or several messages.
    fn parts(&self, letter: &DeadLetter) -> Vec<Part> {
        let subject = letter.subject.as_deref();
        let subject = subject.and_then(|subject| subject.parse::<Subject>().ok());
        let encoder = Encoder {
            root: subject
                .as_ref()
                .map_or(Root::Changes, |subject| subject.root),
            tenant: subject.map_or_else(unknown_tenant, |subject| subject.tenant),
            max_body: max_body(&self.bus).saturating_sub(HEADROOM).max(1 << 10),
            zstd_level: None,
        };
        let readable = letter.change.as_ref().and_then(|change| {
            let batch = Batch {
                index: IndexName::try_from(letter.index.as_str()).ok()?,
                origin: Origin::now("dead-letter".into()),
                content: Content::Changes(vec![change.clone()]),
            };
            Some(encoder.encode(&batch))
        });
        if let Some(messages) = readable {
            let part = |message: Message| Part {
                original: message.subject.to_string(),
                envelope: message.envelope,
                body: message.body,
            };
            return messages.into_iter().map(part).collect();
        }
        cut(&letter.index, &letter.body, encoder.max_body)
    }

    fn headers(
        &self,
        letter: &DeadLetter,
        part: &Part,
        size: usize,
        held: Option<&Letter>,
    ) -> HeaderMap {
        let now = model::now_ms();
        // A reader that died before its floor was stored parks the same entry again: that is no attempt.
        let again = held.filter(|held| held.is_of(letter.sequence, letter.change.as_ref()));
        let attempts = match (held, again) {
            (_, Some(same)) => same.attempts,
            (Some(held), None) => held.attempts.saturating_add(1),
            (None, None) => 1,
        };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, self.stream.as_str());
        for (name, value) in part.envelope.to_headers() {
            headers.insert(name, value);
        }
        headers.insert(TOKEN_HEADER, self.token.to_string());
        headers.insert(REASON_HEADER, header_text(&letter.reason));
        headers.insert(SEQUENCE_HEADER, letter.sequence.to_string());
        headers.insert(STREAM_HEADER, self.from.as_str());
        headers.insert(SUBJECT_HEADER, header_text(&part.original));
        headers.insert(PARKED_HEADER, now.to_string());
        let first = held.map_or(now, |held| held.first_parked);
        headers.insert(FIRST_PARKED_HEADER, first.to_string());
        headers.insert(ATTEMPTS_HEADER, attempts.to_string());
        headers.insert(SIZE_HEADER, size.to_string());
        if let Some(change) = &letter.change {
            headers.insert(VERSION_HEADER, change.version.to_string());
            let names = [
                (ID_HEADER, Some(change.id.as_str())),
                (ROUTING_HEADER, change.routing.as_deref()),
            ];
            for (header, name) in names {
                let encoded = name
                    .map(token::encode)
                    .filter(|name| name.len() <= LONGEST_NAME);
                if let Some(encoded) = encoded {
                    headers.insert(header, encoded.as_ref());
                }
            }
        }
        headers
    }

    /// Publishes a letter; returns the number of its first message.
    async fn publish(
        &self,
        subject: &str,
        letter: &DeadLetter,
        held: Option<&Letter>,
    ) -> Result<u64, Error> {
        // Else the client would keep it until it is connected again, however late that is.
        if !self.bus.is_connected() {
            return Err(Error::Disconnected(self.bus.server_host().to_owned()));
        }
        let parts = self.parts(letter);
        let whole = parts.iter().map(|part| part.body.len()).sum();
        let mut first = None;
        for part in parts {
            let size = part.body.len();
            let headers = self.headers(letter, &part, whole, held);
            let publish = PublishMessage::build().headers(headers).payload(part.body);
            let stored = match self.context.send_publish(subject.to_owned(), publish).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            let ack = stored
                .map_err(|error| publish_error(&self.bus, &self.stream, subject, size, &error))?;
            first.get_or_insert(ack.sequence);
        }
        Ok(first.unwrap_or(0))
    }
}

/// A body that could not be read, in parts.
fn cut(original: &str, body: &Bytes, max_body: usize) -> Vec<Part> {
    let origin = Origin::now("dead-letter".into());
    let of = body.len().div_ceil(max_body).max(1);
    let part = |at: usize| Part {
        original: original.to_owned(),
        envelope: Envelope {
            format: 1,
            count: 0,
            reached: None,
            origin: origin.clone(),
            compressed: false,
            part: (at as u32 + 1, of as u32),
        },
        body: body.slice(at * max_body..body.len().min((at + 1) * max_body)),
    };
    (0..of).map(part).collect()
}

fn about(change: &Change) -> About {
    About::document(change.id.as_str(), change.routing.as_deref())
}

fn unknown_tenant() -> Tenant {
    Tenant::try_from("-").expect("the name is not empty")
}

impl DeadLetters for JetStreamDeadLetters {
    async fn park(&self, letter: DeadLetter) -> Result<(), Fault> {
        let address = self.address(&letter);
        let held = self.find(&address.index, address.about).await?;
        let version = letter.change.as_ref().map(|change| change.version);
        if held.as_ref().is_some_and(|held| held.version > version) {
            return Ok(());
        }
        let subject = address.to_string();
        let first = self.publish(&subject, &letter, held.as_ref()).await?;
        self.parked.insert(&address.index, address.about);
        if let Some(held) = held {
            self.letters.remove_below(&held.subject, first).await?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    fn may_hold(&self, index: &IndexName, change: &Change) -> bool {
        !self.parked.is_empty() && self.parked.contains(index.as_str(), about(change))
    }

    async fn is_parked(&self, index: &IndexName, change: &Change) -> Result<bool, Fault> {
        let held = self.find(index.as_str(), about(change)).await?;
        Ok(held.is_some_and(|held| held.version == Some(change.version)))
    }

    async fn settle(&self, index: &IndexName, change: &Change) -> Result<(), Fault> {
        let about = about(change);
        let Some(held) = self.find(index.as_str(), about).await? else {
            return Ok(());
        };
        if held.version <= Some(change.version) {
            self.letters.remove(&held).await?;
            self.parked.remove(index.as_str(), about);
        }
        Ok(())
    }

    async fn clear(&self, index: &IndexName, upto: Version) -> Result<(), Fault> {
        if self.parked.is_empty() {
            return Ok(());
        }
        let filter = Address::filter(Some(&self.from), Some(&self.reader));
        let mut pages = self.letters.list(&filter).await?;
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            for letter in page {
                let address = letter.address.as_ref();
                let of_index = address.filter(|address| address.index == index.as_str());
                if let Some(address) = of_index
                    && letter.version.is_some_and(|version| version <= upto)
                {
                    self.letters.remove(&letter).await?;
                    self.parked.remove(&address.index, address.about);
                }
            }
        }
    }

    fn replayed(&self, replay: &Replay, outcome: Replayed) {
        if let Some(reply) = &replay.reply {
            self.bus.tell(reply, outcome.as_str());
        }
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
