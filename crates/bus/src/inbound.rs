//! What a reader makes of a message: a batch, something unreadable, or nothing for it. Pure.
//!
//! **Stragglers.** When a publisher starts over, or another takes over its partition, messages of
//! before can still sit in a buffer and be stored late. Each message carries its publisher's token and
//! attempt; the newest of each partition is remembered, and what is older is dropped. Dropping loses
//! nothing: a publisher counts a batch as published only if it was acknowledged within its tenure and
//! its attempt, that is before anything newer was sent. The fences at the floor are stored with the
//! floor, so that a reader that starts again judges every message as before.
//!
//! **Replays.** A dead letter that was sent again is for the one reader that parked it; for the others there
//! is nothing. It has no token, and a partition of its own, so that it is no straggler and makes none.
//!
//! **Parts.** A message in parts is delivered with the number of its last part. The floor stays below
//! the first part of an unfinished one, because a reader that starts again needs all of them. An
//! unfinished one is given up when a newer attempt or publisher of its partition appears, or when it
//! has stood in the log for much longer than any publisher waits for its acknowledgments: it was never
//! confirmed to its source then.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use model::{
    Subject, token,
    wire::{self, Assembler, DecodeError, Envelope, Message},
};
use pipeline::{Delivery, Payload, Replay};

use crate::sink::{ATTEMPT_HEADER, TOKEN_HEADER};

/// The header of a dead letter that was sent again: the reader it is for, encoded like a token.
pub(crate) const REPLAY_HEADER: &str = "Syncline-Replay";
/// The header with the subject on which its sender wants to hear what became of it.
pub(crate) const REPLY_HEADER: &str = "Syncline-Reply";

/// For how long an unfinished message holds the floor, in nanoseconds of the log's own time.
const GIVE_UP_AFTER: u64 = 15 * 60 * 1_000_000_000;

/// A publisher's token and attempt.
type Fence = (u64, u64);

/// A message as the stream has it.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(crate) time: u64,
    pub(crate) subject: &'a str,
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) body: Bytes,
}

/// What is known about the messages between the floor and the newest.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// This reader's name, as replays have it.
    reader: String,
    /// Whether batches are delivered without having been read.
    sealed: bool,
    fences: HashMap<Arc<str>, Fence>,
    /// Fences above the floor: the message that raised each.
    raised: VecDeque<(u64, Arc<str>, Fence)>,
    unfinished: HashMap<Arc<str>, Unfinished>,
    /// What was delivered above the floor, with the time of each.
    delivered: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Unfinished {
    parts: Assembler,
    since: u64,
}

/// How far the floor may move.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) floor: u64,
    pub(crate) floor_time: u64,
    pub(crate) fences: Vec<(Arc<str>, Fence)>,
}

impl Inbound {
    /// Continues from a floor, as the reader of that name.
    pub(crate) fn new(reader: &str, sealed: bool, fences: &BTreeMap<String, Fence>) -> Inbound {
        let fences = fences
            .iter()
            .map(|(partition, fence)| (partition.as_str().into(), *fence));
        Inbound {
            reader: token::encode(reader).into_owned(),
            sealed,
            fences: fences.collect(),
            ..Inbound::default()
        }
    }

    /// Takes the next message of the log. `None` when there is nothing to deliver yet.
    ///
    /// # Errors
    /// When a newer version of Syncline wrote it.
    pub(crate) fn take(&mut self, raw: Raw<'_>) -> Result<Option<Delivery>, String> {
        let (sequence, time) = (raw.sequence, raw.time);
        let (subject, body) = (Arc::from(raw.subject), raw.body.clone());
        let payload = match self.read(raw) {
            Ok(None) => return Ok(None),
            Ok(Some(payload)) => payload,
            Err(Unreadable::Newer(reason)) => return Err(reason),
            Err(Unreadable::Because(reason)) => Payload::Unreadable { reason, body },
        };
        Ok(Some(self.deliver(sequence, time, Some(subject), payload)))
    }

    /// Says that up to a message nothing is for this reader.
    pub(crate) fn nothing_up_to(&mut self, sequence: u64, time: u64) -> Delivery {
        self.deliver(sequence, time, None, Payload::Nothing)
    }

    /// Everything delivered up to and including `floor` is settled. `None` when the floor cannot move.
    pub(crate) fn settle(&mut self, floor: u64) -> Option<Settled> {
        let below = self
            .oldest_unfinished()
            .map_or(floor, |oldest| floor.min(oldest - 1));
        let mut settled = Settled::default();
        while let Some((sequence, time)) = self.delivered.pop_front_if(|(at, _)| *at <= below) {
            (settled.floor, settled.floor_time) = (sequence, time);
        }
        if settled.floor == 0 {
            return None;
        }
        while let Some((_, partition, fence)) =
            self.raised.pop_front_if(|(at, ..)| *at <= settled.floor)
        {
            settled.fences.push((partition, fence));
        }
        Some(settled)
    }

    fn deliver(
        &mut self,
        sequence: u64,
        time: u64,
        subject: Option<Arc<str>>,
        payload: Payload,
    ) -> Delivery {
        self.delivered.push_back((sequence, time));
        self.unfinished
            .retain(|_, unfinished| time.saturating_sub(unfinished.since) < GIVE_UP_AFTER);
        Delivery {
            sequence,
            subject,
            payload,
        }
    }

    fn oldest_unfinished(&self) -> Option<u64> {
        self.unfinished
            .values()
            .filter_map(|unfinished| unfinished.parts.oldest_unfinished())
            .min()
    }

    fn read(&mut self, raw: Raw<'_>) -> Result<Option<Payload>, Unreadable> {
        let header = |name: &'static str| raw.headers?.get_last(name).map(|value| value.as_str());
        let replay = header(REPLAY_HEADER);
        if replay.is_some_and(|reader| reader != self.reader) {
            return Ok(Some(Payload::Nothing));
        }
        let replay = replay.map(|_| Replay {
            reply: header(REPLY_HEADER).map(Arc::from),
        });
        let envelope = Envelope::from_headers(header)?;
        let fence = fence(header(TOKEN_HEADER), header(ATTEMPT_HEADER))?;
        let subject: Subject = raw
            .subject
            .parse()
            .map_err(|error| Unreadable::Because(format!("{error}")))?;
        let partition = Arc::clone(&envelope.origin.partition);
        if let Some(fence) = fence
            && self.is_straggler(raw.sequence, &partition, fence)
        {
            tracing::debug!(sequence = raw.sequence, %partition, "dropped a message of an earlier attempt");
            return Ok(Some(Payload::Nothing));
        }
        let message = Message {
            subject,
            envelope,
            body: raw.body,
        };
        let Some(message) = self.join(raw.sequence, raw.time, partition, message) else {
            return Ok(None);
        };
        Ok(Some(match replay {
            Some(replay) => Payload::Replay(Arc::new(wire::decode(&message)?), replay),
            None if self.sealed => Payload::Batch(Arc::new(wire::seal(message)?)),
            None => Payload::Batch(Arc::new(wire::decode(&message)?)),
        }))
    }

    /// Compares with the newest publisher of the partition, and notes a newer one.
    fn is_straggler(&mut self, sequence: u64, partition: &Arc<str>, fence: Fence) -> bool {
        match self.fences.get(partition) {
            Some(newest) if fence < *newest => true,
            Some(newest) if fence == *newest => false,
            _ => {
                self.fences.insert(Arc::clone(partition), fence);
                self.raised
                    .push_back((sequence, Arc::clone(partition), fence));
                self.unfinished.remove(partition);
                false
            }
        }
    }

    fn join(
        &mut self,
        sequence: u64,
        time: u64,
        partition: Arc<str>,
        message: Message,
    ) -> Option<Message> {
        if message.envelope.part.1 <= 1 {
            return Some(message);
        }
        let unfinished = self
            .unfinished
            .entry(Arc::clone(&partition))
            .or_insert_with(|| Unfinished {
                parts: Assembler::default(),
                since: time,
            });
        let whole = unfinished.parts.push(sequence, message);
        if unfinished.parts.oldest_unfinished().is_none() {
            self.unfinished.remove(&partition);
        }
        whole
    }
}

/// Why a message is not for us.
enum Unreadable {
    Newer(String),
    Because(String),
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Unreadable {
        match error {
            DecodeError::NewerFormat(_) => Unreadable::Newer(error.to_string()),
            error => Unreadable::Because(error.to_string()),
        }
    }
}

/// A message without a token is taken as it comes: somebody published it by hand.
fn fence(token: Option<&str>, attempt: Option<&str>) -> Result<Option<Fence>, Unreadable> {
    let Some(token) = token else { return Ok(None) };
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Unreadable::Because(format!("{text:?} is no publisher's token")))
    };
    Ok(Some((number(token)?, number(attempt.unwrap_or("0"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Action, Batch, Change, Content, Document, DocumentId, Epoch, Origin, Root, Tenant, Version,
        wire::Encoder,
    };

    fn messages(id: &str, size: usize) -> Vec<Message> {
        let encoder = Encoder {
            root: Root::Changes,
            tenant: Tenant::try_from("t").unwrap(),
            max_body: 200,
            zstd_level: None,
        };
        encoder.encode(&Batch {
            index: "i".parse().unwrap(),
            origin: Origin {
                partition: "p".into(),
                captured_ms: 1,
                via: None,
            },
            content: Content::Changes(vec![Change {
                id: DocumentId::try_from(id).unwrap(),
                routing: None,
                version: Version::new(Epoch(0), 1).unwrap(),
                over: false,
                action: Action::Index(Document::from_json(
                    format!("{:?}", "x".repeat(size)).into(),
                )),
            }]),
        })
    }

    #[derive(Default)]
    struct Log {
        inbound: Inbound,
        sequence: u64,
        time: u64,
    }

    impl Log {
        fn append(&mut self, message: &Message, fence: Fence) -> Option<Delivery> {
            let mut headers = HeaderMap::new();
            for (name, value) in message.envelope.to_headers() {
                headers.insert(name, value);
            }
            headers.insert(TOKEN_HEADER, fence.0.to_string());
            headers.insert(ATTEMPT_HEADER, fence.1.to_string());
            self.sequence += 1;
            self.time += 1;
            let subject = message.subject.to_string();
            let raw = Raw {
                sequence: self.sequence,
                time: self.time,
                subject: &subject,
                headers: Some(&headers),
                body: message.body.clone(),
            };
            self.inbound.take(raw).unwrap()
        }
    }

    fn is_batch(delivery: &Option<Delivery>) -> bool {
        matches!(
            delivery,
            Some(Delivery {
                payload: Payload::Batch(_),
                ..
            })
        )
    }

    fn is_nothing(delivery: &Option<Delivery>) -> bool {
        matches!(
            delivery,
            Some(Delivery {
                payload: Payload::Nothing,
                ..
            })
        )
    }

    #[test]
    fn what_an_earlier_attempt_or_publisher_sent_is_dropped_when_it_comes_late() {
        let message = &messages("1", 1)[0];
        let mut log = Log::default();
        assert!(is_batch(&log.append(message, (7, 0))));
        assert!(is_batch(&log.append(message, (7, 1))));
        assert!(is_nothing(&log.append(message, (7, 0))));
        assert!(is_batch(&log.append(message, (8, 0))));
        assert!(is_nothing(&log.append(message, (7, 2))));
        assert!(is_batch(&log.append(message, (8, 0))));
    }

    #[test]
    fn a_reader_that_starts_again_judges_every_message_as_before() {
        let message = &messages("1", 1)[0];
        let mut log = Log::default();
        log.append(message, (7, 0));
        log.append(message, (7, 0));
        log.append(message, (8, 0));
        let settled = log.inbound.settle(2).unwrap();
        assert_eq!((settled.floor, settled.floor_time), (2, 2));
        assert_eq!(
            settled.fences,
            [("p".into(), (7, 0))],
            "not the fence of message 3"
        );

        let fences = settled
            .fences
            .iter()
            .map(|(p, f)| (p.to_string(), *f))
            .collect();
        log.inbound = Inbound::new("r", false, &fences);
        assert!(is_batch(&log.append(message, (7, 0))));
        assert!(is_nothing(&log.append(message, (6, 9))));
    }

    #[test]
    fn the_floor_stays_below_an_unfinished_message_until_it_is_given_up() {
        let (small, large) = (&messages("1", 1)[0], messages("2", 300));
        let mut log = Log::default();
        log.append(small, (7, 0));
        assert!(log.append(&large[0], (7, 0)).is_none());
        log.append(small, (7, 0));
        assert_eq!(log.inbound.settle(3).unwrap().floor, 1);
        assert_eq!(log.inbound.settle(3), None);
        assert!(is_batch(&log.append(&large[1], (7, 0))));
        assert_eq!(log.inbound.settle(4).unwrap().floor, 4);

        assert!(log.append(&large[0], (7, 0)).is_none());
        log.append(small, (7, 1));
        assert_eq!(
            log.inbound.settle(6).unwrap().floor,
            6,
            "a newer attempt starts over"
        );

        assert!(log.append(&large[0], (7, 1)).is_none());
        log.time += GIVE_UP_AFTER;
        log.append(small, (7, 1));
        assert_eq!(
            log.inbound.settle(8).unwrap().floor,
            8,
            "nobody waits for it any more"
        );
    }

    #[test]
    fn what_is_not_ours_is_unreadable_and_what_is_newer_stops_the_reader() {
        let mut inbound = Inbound::default();
        let raw = |headers| Raw {
            sequence: 1,
            time: 1,
            subject: "es.t.i.index",
            headers,
            body: Bytes::from_static(b"hello"),
        };
        let foreign = inbound.take(raw(None)).unwrap().unwrap();
        assert!(
            matches!(foreign.payload, Payload::Unreadable { .. }),
            "{foreign:?}"
        );
        let mut headers = HeaderMap::new();
        headers.insert("Syncline-Format", "99");
        assert!(
            inbound
                .take(raw(Some(&headers)))
                .unwrap_err()
                .contains("upgrade the reader")
        );
    }
}
