//! The letters that there are: listing them, reading one whole, sending one again, removing one.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_STREAM,
    jetstream::{
        Context,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        message::{PublishMessage, StreamMessage},
        stream::{RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use model::{
    Batch, Change, Origin,
    wire::{self, Assembler, Envelope, Message},
};

use super::{Address, Letter};
use crate::{
    Bus, Error,
    inbound::{REPLAY_HEADER, REPLY_HEADER},
    sink::publish_error,
    stream,
};

/// How many letters a page has at most.
const PAGE: usize = 2000;
/// How long the server keeps a listing that nobody goes on with: a page may take long to send again.
const LISTING_LIFE: Duration = Duration::from_secs(600);

/// The stream of letters, for whoever reads them.
#[derive(Debug, Clone)]
pub struct Letters {
    bus: Bus,
    context: Context,
    name: String,
}

/// What a letter holds.
#[derive(Debug, Clone)]
pub enum Contents {
    /// The change that was refused.
    Change(Box<Change>),
    /// The bytes of an entry that could not be read.
    Unreadable(Bytes),
}

/// A listing, page by page.
#[derive(Debug)]
pub struct Pages {
    what: String,
    consumer: Option<Consumer<pull::Config>>,
    /// The newest message of the stream when the listing began: a replayed letter that is refused again is parked
    /// behind it, and would be replayed for ever.
    end: u64,
    /// How many letters have not been passed, at most: each go passes one, be it one that has vanished.
    left: u64,
}

impl Letters {
    /// The letters in the stream of that name.
    pub fn new(bus: &Bus, stream: &str) -> Letters {
        Letters {
            bus: bus.clone(),
            context: bus.context(Duration::from_secs(10)),
            name: stream.to_owned(),
        }
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        let handle = self.bus.jetstream().get_stream_no_info(&self.name).await;
        handle.map_err(|error| stream::get_error(&self.bus, &self.name, &error))
    }

    /// The letters whose subjects match `filter` (see [`Address::filter`]), in the order in which they
    /// were parked last. Bodies are not read. What is parked meanwhile is not in it.
    ///
    /// # Errors
    /// When the server does not answer or denies it. A stream that does not exist has no letters.
    pub async fn list(&self, filter: &str) -> Result<Pages, Error> {
        let what = format!("listing the letters in {}", self.name);
        let mut pages = Pages {
            what,
            consumer: None,
            end: 0,
            left: 0,
        };
        if stream::info(&self.bus, &self.name).await?.is_none() {
            return Ok(pages);
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: filter.to_owned(),
            headers_only: true,
            inactive_threshold: LISTING_LIFE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let made = self
            .bus
            .jetstream()
            .create_consumer_on_stream(config, &self.name);
        let consumer = made.await.map_err(|error| {
            let denied = self
                .bus
                .denied(&format!("$JS.API.CONSUMER.CREATE.{}", self.name));
            denied.unwrap_or_else(|| Error::request(&*pages.what, error))
        })?;
        let info = stream::info(&self.bus, &self.name).await?;
        pages.end = info.map_or(0, |info| info.last_sequence);
        pages.left = consumer.cached_info().num_pending;
        pages.consumer = Some(consumer);
        Ok(pages)
    }

    /// How many letters a reader has, by index.
    ///
    /// # Errors
    /// When the server does not answer. A stream that does not exist has no letters.
    pub async fn count(&self, stream: &str, reader: &str) -> Result<BTreeMap<String, u64>, Error> {
        let what = || format!("counting the letters in {}", self.name);
        let mut counts = BTreeMap::new();
        if stream::info(&self.bus, &self.name).await?.is_none() {
            return Ok(counts);
        }
        let filter = Address::filter(Some(stream), Some(reader));
        let subjects = self.stream().await?.info_with_subjects(filter).await;
        let mut subjects = subjects.map_err(|error| Error::request(what(), error))?;
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|error| Error::request(what(), error))?;
            if let Ok(address) = subject.parse::<Address>() {
                *counts.entry(address.index).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The newest letter under a subject, which may have wildcards.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn find(&self, subject: &str) -> Result<Option<Letter>, Error> {
        match self
            .stream()
            .await?
            .get_last_raw_message_by_subject(subject)
            .await
        {
            Ok(message) => Ok(Some(letter_of(&message))),
            Err(error) if is_not_found(error.kind()) => Ok(None),
            Err(error) => Err(Error::request(format!("looking for {subject}"), error)),
        }
    }

    /// The letter whose last message has that number; `None` where there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn at(&self, number: u64) -> Result<Option<Letter>, Error> {
        if stream::info(&self.bus, &self.name).await?.is_none() {
            return Ok(None);
        }
        match self.stream().await?.get_raw_message(number).await {
            Ok(message) => Ok(Some(letter_of(&message))),
            Err(error) if is_not_found(error.kind()) => Ok(None),
            Err(error) => Err(Error::request(
                format!("looking for letter {number}"),
                error,
            )),
        }
    }

    /// Reads a letter whole; `None` when it is gone.
    ///
    /// # Errors
    /// When the server does not answer, or what is there is not a letter.
    pub async fn read(&self, letter: &Letter) -> Result<Option<Contents>, Error> {
        let Some(message) = self.whole(letter).await? else {
            return Ok(None);
        };
        let Message { envelope, body, .. } = &message.1;
        if letter.version.is_none() || envelope.count == 0 {
            return Ok(Some(Contents::Unreadable(body.clone())));
        }
        let batch: Batch =
            wire::decode(&message.1).map_err(|error| self.damaged(letter, &error))?;
        match batch.changes() {
            [change] => Ok(Some(Contents::Change(Box::new(change.clone())))),
            changes => {
                let reason = format!("it has {} changes", changes.len());
                Err(self.damaged(letter, &reason))
            }
        }
    }

    fn damaged(&self, letter: &Letter, reason: &dyn std::fmt::Display) -> Error {
        Error::Refused {
            what: format!("the letter {} of the stream {}", letter.at, self.name),
            reason: format!("{reason}; remove it, and change the document at its source"),
        }
    }

    /// The messages of a letter, and the message they were cut from.
    async fn whole(&self, letter: &Letter) -> Result<Option<(Vec<StreamMessage>, Message)>, Error> {
        let mut parts: Vec<StreamMessage> = Vec::new();
        let stream = self.stream().await?;
        let mut from = match letter.parts {
            1 => letter.at,
            _ => 1,
        };
        while from <= letter.at {
            let found = stream.get_first_raw_message_by_subject(&letter.subject, from);
            match found.await {
                Ok(message) if message.sequence <= letter.at => {
                    from = message.sequence + 1;
                    parts.push(message);
                }
                Ok(_) => break,
                Err(error) if is_not_found(error.kind()) => break,
                Err(error) => return Err(Error::request(format!("reading {}", letter.at), error)),
            }
        }
        let Some(first) = parts.len().checked_sub(letter.parts as usize) else {
            return Ok(None);
        };
        parts.drain(..first);
        let mut assembler = Assembler::default();
        let mut whole = None;
        for part in &parts {
            let message = self.message(letter, part)?;
            whole = assembler.push(part.sequence, message);
        }
        Ok(whole.map(|whole| (parts, whole)))
    }

    fn message(&self, letter: &Letter, part: &StreamMessage) -> Result<Message, Error> {
        let header = |name: &'static str| part.headers.get_last(name).map(|value| value.as_str());
        let envelope = Envelope::from_headers(header).map_err(|e| self.damaged(letter, &e))?;
        // What could not be read may have stood under a subject that says nothing.
        let subject = letter.original.parse().or_else(|_| "es.-.-.index".parse());
        Ok(Message {
            subject: subject.map_err(|error| self.damaged(letter, &error))?,
            envelope,
            body: part.payload.clone(),
        })
    }

    /// Sends a letter's change again: into the stream it came from, for the reader that parked it.
    /// Returns the number of its last message there; `None` when the letter is gone. `reply` is a
    /// subject on which the reader says what became of it (see [`pipeline::Replayed::as_str`]).
    ///
    /// # Errors
    /// When it could not be read in the first place, or the stream does not take it.
    pub async fn replay(&self, letter: &Letter, reply: Option<&str>) -> Result<Option<u64>, Error> {
        let (Some(address), Some(_)) = (&letter.address, letter.version) else {
            return Err(Error::Refused {
                what: format!("sending letter {} again", letter.at),
                reason: "it holds no change that could be read: look at it, and remove it"
                    .to_owned(),
            });
        };
        let Some((parts, _)) = self.whole(letter).await? else {
            return Ok(None);
        };
        // A partition of its own: parts of one partition are joined, and a publisher's tokens go by it.
        let partition = format!("replay/{}/{:016x}", address.about, fastrand::u64(..));
        let mut last = None;
        for part in parts {
            let mut envelope = self.message(letter, &part)?.envelope;
            envelope.origin = Origin::now(partition.as_str().into());
            let headers = replay_headers(address, &envelope, reply);
            last = Some(self.publish(letter, headers, part.payload).await?);
        }
        Ok(last)
    }

    async fn publish(
        &self,
        letter: &Letter,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<u64, Error> {
        let (subject, size) = (&letter.original, body.len());
        let publish = PublishMessage::build().headers(headers).payload(body);
        let acked = match self.context.send_publish(subject.clone(), publish).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let ack = acked
            .map_err(|error| publish_error(&self.bus, &letter.stream, subject, size, &error))?;
        Ok(ack.sequence)
    }

    /// Removes a letter and what came before it under its subject. A letter that has taken its place
    /// meanwhile stays.
    ///
    /// # Errors
    /// When the server does not answer or denies it.
    pub async fn remove(&self, letter: &Letter) -> Result<(), Error> {
        self.remove_below(&letter.subject, letter.at + 1).await
    }

    pub(super) async fn remove_below(&self, subject: &str, sequence: u64) -> Result<(), Error> {
        let stream = self.stream().await?;
        let purge = stream.purge().filter(subject).sequence(sequence);
        let purged = purge.await;
        purged.map(drop).map_err(|error| {
            let denied = self
                .bus
                .denied(&format!("$JS.API.STREAM.PURGE.{}", self.name));
            denied.unwrap_or_else(|| Error::request(format!("removing {subject}"), error))
        })
    }
}

impl Pages {
    /// The next letters; none when there are no more.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next(&mut self) -> Result<Vec<Letter>, Error> {
        // What the server gives in one go ends at a letter that has vanished since the listing began.
        while self.consumer.is_some() && self.left > 0 {
            let letters = self.fetch().await?;
            self.left = self.left.saturating_sub((letters.len() as u64).max(1));
            if !letters.is_empty() {
                return Ok(letters);
            }
        }
        Ok(Vec::new())
    }

    /// What the server gives in one go.
    async fn fetch(&mut self) -> Result<Vec<Letter>, Error> {
        let Some(consumer) = &self.consumer else {
            return Ok(Vec::new());
        };
        let mut is_over = false;
        let failed = |error: &dyn std::fmt::Display| Error::request(&*self.what, error);
        let fetch = consumer.fetch().max_messages(PAGE).messages().await;
        let mut messages = fetch.map_err(|error| failed(&error))?;
        let mut letters = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| failed(&error))?;
            let sequence = message
                .info()
                .map_err(|error| failed(&error))?
                .stream_sequence;
            if sequence > self.end {
                is_over = true;
                break;
            }
            let none = HeaderMap::new();
            let headers = message.headers.as_ref().unwrap_or(&none);
            letters.push(Letter::read(message.subject.as_str(), sequence, headers, 0));
        }
        if is_over {
            self.consumer = None;
        }
        Ok(letters)
    }
}

fn letter_of(message: &StreamMessage) -> Letter {
    let (subject, body) = (message.subject.as_str(), message.payload.len());
    Letter::read(subject, message.sequence, &message.headers, body)
}

fn replay_headers(address: &Address, envelope: &Envelope, reply: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, address.stream.as_str());
    for (name, value) in envelope.to_headers() {
        headers.insert(name, value);
    }
    headers.insert(
        REPLAY_HEADER,
        model::token::encode(&address.reader).as_ref(),
    );
    if let Some(reply) = reply {
        headers.insert(REPLY_HEADER, reply);
    }
    headers
}

fn is_not_found(kind: RawMessageErrorKind) -> bool {
    match kind {
        RawMessageErrorKind::NoMessageFound => true,
        RawMessageErrorKind::JetStream(answer) => answer.code() == 404,
        _ => false,
    }
}
