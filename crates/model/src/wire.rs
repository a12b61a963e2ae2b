//! A batch as messages of a stream, and back.
//!
//! The body of a message is what `_bulk` takes, so that everyone who operates a search cluster can
//! read it: for each change a line of metadata and, unless it is a delete, a line with the document.
//!
//! ```text
//! {"index":{"_id":"7","version":41,"version_type":"external"}}
//! {"title":"Alien"}
//! {"delete":{"_id":"8","version":42,"version_type":"external_gte"}}
//! ```
//!
//! All changes of a message share one subject, which names index and operation. The headers
//! ([`Envelope`]) say the rest. What is larger than the server's message limit is cut into parts
//! that follow each other in the log; [`Assembler`] joins them again.
//!
//! Versions: a document is written with the strict `external`, a delete with `external_gte`,
//! because a delete found by counting can carry the very version its document had (ADR 0003).

use std::{borrow::Cow, collections::HashMap, io::Read, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use crate::{
    Action, Batch, Change, Content, Document, DocumentId, Kind, NameError, Operation, Origin, Root,
    Subject, Tenant, Version, VersionError,
};

/// The format this build writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The most a compressed message may unpack to, in bytes: above the largest request a search engine
/// takes (100 MB), below what would hurt the reader.
pub const MAX_UNPACKED: u64 = 128 << 20;

const FORMAT_HEADER: &str = "Syncline-Format";
const COUNT_HEADER: &str = "Syncline-Count";
const PARTITION_HEADER: &str = "Syncline-Partition";
const CAPTURED_HEADER: &str = "Syncline-Captured";
const PART_HEADER: &str = "Syncline-Part";
const ENCODING_HEADER: &str = "Content-Encoding";

/// One message: what to publish, or what was read.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it goes.
    pub subject: Subject,
    /// What its headers say.
    pub envelope: Envelope,
    /// Its body, compressed if the envelope says so.
    pub body: Bytes,
}

/// The headers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// How many changes the whole body holds; 0 for a definition.
    pub count: usize,
    /// See [`Origin`].
    pub origin: Origin,
    /// Whether the body is compressed with zstd.
    pub compressed: bool,
    /// Which part of how many, from (1, 1). Parts are cut after compression.
    pub part: (u32, u32),
}

impl Envelope {
    /// The headers, by name.
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (FORMAT_HEADER, FORMAT.to_string()),
            (COUNT_HEADER, self.count.to_string()),
            (PARTITION_HEADER, self.origin.partition.to_string()),
            (CAPTURED_HEADER, self.origin.captured_ms.to_string()),
        ];
        if self.compressed {
            headers.push((ENCODING_HEADER, "zstd".to_owned()));
        }
        if self.part.1 > 1 {
            headers.push((PART_HEADER, format!("{}/{}", self.part.0, self.part.1)));
        }
        headers
    }

    /// Reads the headers through `header`, which looks one up by name.
    ///
    /// # Errors
    /// When a header is missing or makes no sense, or when the message was written by a newer
    /// Syncline.
    pub fn from_headers<'a>(
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Envelope, DecodeError> {
        fn number<T: std::str::FromStr>(
            name: &'static str,
            value: Option<&str>,
        ) -> Result<T, DecodeError> {
            let value = value.ok_or(DecodeError::MissingHeader(name))?;
            value.parse().map_err(|_| DecodeError::BadHeader {
                name,
                value: value.to_owned(),
            })
        }
        let format: u32 = number(FORMAT_HEADER, header(FORMAT_HEADER))?;
        if format > FORMAT {
            return Err(DecodeError::NewerFormat(format));
        }
        let compressed = match header(ENCODING_HEADER) {
            None => false,
            Some("zstd") => true,
            Some(value) => {
                let value = value.to_owned();
                return Err(DecodeError::BadHeader {
                    name: ENCODING_HEADER,
                    value,
                });
            }
        };
        let part = match header(PART_HEADER) {
            None => (1, 1),
            Some(value) => parse_part(value).ok_or_else(|| DecodeError::BadHeader {
                name: PART_HEADER,
                value: value.to_owned(),
            })?,
        };
        let partition =
            header(PARTITION_HEADER).ok_or(DecodeError::MissingHeader(PARTITION_HEADER))?;
        Ok(Envelope {
            count: number(COUNT_HEADER, header(COUNT_HEADER))?,
            origin: Origin {
                partition: partition.into(),
                captured_ms: number(CAPTURED_HEADER, header(CAPTURED_HEADER))?,
            },
            compressed,
            part,
        })
    }
}

fn parse_part(value: &str) -> Option<(u32, u32)> {
    let (part, of) = value.split_once('/')?;
    let (part, of) = (part.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&part).then_some((part, of))
}

/// How batches are encoded.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The log they go to.
    pub root: Root,
    /// Whose they are.
    pub tenant: Tenant,
    /// The most one message's body may have, in bytes.
    pub max_body: usize,
    /// The zstd level; `None` leaves bodies as they are.
    pub zstd_level: Option<i32>,
}

impl Encoder {
    /// The messages that carry `batch`, to be published in this order. None for an empty batch.
    pub fn encode(&self, batch: &Batch) -> Vec<Message> {
        let mut messages = Vec::new();
        match &batch.content {
            Content::Definition(definition) => {
                let body = serde_json::to_vec(definition)
                    .expect("a definition is text and raw JSON, which always serialise");
                self.cut(batch, Kind::Definition, 0, body.into(), &mut messages);
            }
            Content::Changes(changes) => {
                for operation in Operation::ALL {
                    let of_kind = changes.iter().filter(|c| c.operation() == operation);
                    self.encode_operation(batch, operation, of_kind, &mut messages);
                }
            }
        }
        messages
    }

    /// Fills messages with changes up to the limit. A single change above it is cut into parts.
    fn encode_operation<'a>(
        &self,
        batch: &Batch,
        operation: Operation,
        changes: impl Iterator<Item = &'a Change>,
        messages: &mut Vec<Message>,
    ) {
        let kind = Kind::Operation(operation);
        let mut body = BytesMut::new();
        let mut count = 0;
        for change in changes {
            let start = body.len();
            write_change(&mut body, change);
            if body.len() > self.max_body && count > 0 {
                let last = body.split_off(start);
                self.cut(batch, kind, count, body.freeze(), messages);
                (body, count) = (last, 0);
            }
            count += 1;
        }
        if count > 0 {
            self.cut(batch, kind, count, body.freeze(), messages);
        }
    }

    /// Compresses a body and cuts it into as many messages as it needs.
    fn cut(
        &self,
        batch: &Batch,
        kind: Kind,
        count: usize,
        body: Bytes,
        messages: &mut Vec<Message>,
    ) {
        let (body, compressed) = self.compress(body);
        let parts = body.len().div_ceil(self.max_body).max(1);
        for part in 0..parts {
            let end = body.len().min((part + 1) * self.max_body);
            messages.push(Message {
                subject: Subject {
                    root: self.root,
                    tenant: self.tenant.clone(),
                    index: batch.index.clone(),
                    kind,
                },
                envelope: Envelope {
                    count,
                    origin: batch.origin.clone(),
                    compressed,
                    part: (part as u32 + 1, parts as u32),
                },
                body: body.slice(part * self.max_body..end),
            });
        }
    }

    /// Compresses where that makes the body smaller.
    fn compress(&self, body: Bytes) -> (Bytes, bool) {
        let compressed = self
            .zstd_level
            .and_then(|level| zstd::bulk::compress(&body, level).ok())
            .filter(|compressed| compressed.len() < body.len());
        match compressed {
            Some(compressed) => (compressed.into(), true),
            None => (body, false),
        }
    }
}

/// Appends a change as `_bulk` takes it: a line of metadata, then the document's line if it has one.
pub fn write_change(body: &mut BytesMut, change: &Change) {
    let (operation, version_type) = match change.action {
        Action::Index(_) | Action::Update(_) => ("index", "external"),
        Action::Delete => ("delete", "external_gte"),
    };
    body.reserve(change.size());
    body.put_slice(b"{\"");
    body.put_slice(operation.as_bytes());
    body.put_slice(b"\":{\"_id\":");
    write_json_string(body, change.id.as_str());
    if let Some(routing) = &change.routing {
        body.put_slice(b",\"routing\":");
        write_json_string(body, routing);
    }
    body.put_slice(b",\"version\":");
    serde_json::to_writer(body.writer(), &change.version).expect("writing to memory cannot fail");
    body.put_slice(b",\"version_type\":\"");
    body.put_slice(version_type.as_bytes());
    body.put_slice(b"\"}}\n");
    if let Some(document) = change.document() {
        body.put_slice(document.as_bytes());
        body.put_u8(b'\n');
    }
}

fn write_json_string(body: &mut BytesMut, text: &str) {
    serde_json::to_writer(body.writer(), text).expect("writing text to memory cannot fail");
}

/// Reads a whole message back. For a message in parts, see [`Assembler`].
///
/// # Errors
/// When the body is not what [`Encoder`] writes.
pub fn decode(message: &Message) -> Result<Batch, DecodeError> {
    let body = unpack(message)?;
    let content = match message.subject.kind {
        Kind::Definition => {
            Content::Definition(serde_json::from_slice(&body).map_err(DecodeError::Definition)?)
        }
        Kind::Operation(operation) => {
            Content::Changes(read_changes(&body, operation, message.envelope.count)?)
        }
    };
    Ok(Batch {
        index: message.subject.index.clone(),
        origin: message.envelope.origin.clone(),
        content,
    })
}

fn unpack(message: &Message) -> Result<Bytes, DecodeError> {
    if !message.envelope.compressed {
        return Ok(message.body.clone());
    }
    let mut body = Vec::new();
    zstd::Decoder::new(&message.body[..])
        .and_then(|decoder| decoder.take(MAX_UNPACKED + 1).read_to_end(&mut body))
        .map_err(DecodeError::Compression)?;
    if body.len() as u64 > MAX_UNPACKED {
        return Err(DecodeError::TooLarge);
    }
    Ok(body.into())
}

#[derive(Deserialize)]
enum MetadataLine<'a> {
    #[serde(rename = "index", borrow)]
    Index(Metadata<'a>),
    #[serde(rename = "delete", borrow)]
    Delete(Metadata<'a>),
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    _id: Cow<'a, str>,
    #[serde(borrow)]
    routing: Option<Cow<'a, str>>,
    version: u64,
}

fn read_changes(
    body: &Bytes,
    operation: Operation,
    count: usize,
) -> Result<Vec<Change>, DecodeError> {
    // A metadata line has more bytes than this: a false count cannot reserve much.
    const SHORTEST_CHANGE: usize = 16;
    let mut changes = Vec::with_capacity(count.min(body.len() / SHORTEST_CHANGE));
    let mut lines = Lines { body, at: 0 };
    while let Some(line) = lines.next_line()? {
        let number = changes.len() + 1;
        let metadata = serde_json::from_slice(&line)
            .map_err(|source| DecodeError::Metadata { number, source })?;
        let (metadata, action) = match (metadata, operation) {
            (MetadataLine::Delete(metadata), Operation::Delete) => (metadata, Action::Delete),
            (MetadataLine::Index(metadata), Operation::Index | Operation::Update) => {
                let line = lines.next_line()?.ok_or(DecodeError::Truncated)?;
                let document = Document::from_json(line);
                match operation {
                    Operation::Update => (metadata, Action::Update(document)),
                    _ => (metadata, Action::Index(document)),
                }
            }
            _ => return Err(DecodeError::WrongOperation { number, operation }),
        };
        changes.push(Change {
            id: DocumentId::try_from(metadata._id.as_ref())?,
            routing: metadata.routing.map(|r| r.into_owned().into()),
            version: Version::try_from(metadata.version)?,
            action,
        });
    }
    if changes.len() != count {
        return Err(DecodeError::Count {
            said: count,
            found: changes.len(),
        });
    }
    Ok(changes)
}

/// The lines of a body, as slices of it.
struct Lines<'a> {
    body: &'a Bytes,
    at: usize,
}

impl Lines<'_> {
    /// The next line without its end; every line has one.
    fn next_line(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let rest = &self.body[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let length = memchr::memchr(b'\n', rest).ok_or(DecodeError::Truncated)?;
        let line = self.body.slice(self.at..self.at + length);
        self.at += length + 1;
        Ok(Some(line))
    }
}

/// Joins messages that were cut into parts.
///
/// Parts of one body follow each other in the log, though messages of other publishers may stand
/// between them. A publisher that failed in the middle starts over with part 1, which replaces what
/// was there; so at most one unfinished body per partition is kept.
#[derive(Debug, Default)]
pub struct Assembler {
    unfinished: HashMap<(Subject, Arc<str>), Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    first_sequence: u64,
    parts: Vec<Bytes>,
}

impl Assembler {
    /// Takes the message with the given number in the log. Returns the whole message once its last
    /// part is here; a part whose beginning was never seen belongs to an attempt that was given up,
    /// and is dropped.
    pub fn push(&mut self, sequence: u64, message: Message) -> Option<Message> {
        let (part, of) = message.envelope.part;
        if of == 1 {
            return Some(message);
        }
        let key = (
            message.subject.clone(),
            message.envelope.origin.partition.clone(),
        );
        if part == 1 {
            let unfinished = Unfinished {
                first_sequence: sequence,
                parts: vec![message.body],
            };
            self.unfinished.insert(key, unfinished);
            return None;
        }
        let unfinished = self.unfinished.get_mut(&key)?;
        if unfinished.parts.len() + 1 != part as usize {
            self.unfinished.remove(&key);
            return None;
        }
        unfinished.parts.push(message.body);
        if part < of {
            return None;
        }
        let unfinished = self.unfinished.remove(&key)?;
        let envelope = Envelope {
            part: (1, 1),
            ..message.envelope
        };
        Some(Message {
            body: unfinished.parts.concat().into(),
            envelope,
            ..message
        })
    }

    /// The number in the log of the oldest part that still waits for the rest: a reader that starts
    /// again must start no later than there.
    pub fn oldest_unfinished(&self) -> Option<u64> {
        self.unfinished.values().map(|u| u.first_sequence).min()
    }
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DecodeError {
    #[error("the header {0} is missing: the message was not published by Syncline")]
    MissingHeader(&'static str),
    #[error("the header {name} has the value {value:?}, which makes no sense there")]
    BadHeader { name: &'static str, value: String },
    #[error(
        "the message has format {0}, this build reads up to {FORMAT}: upgrade the reader first"
    )]
    NewerFormat(u32),
    #[error("the body is not valid zstd: {0}")]
    Compression(std::io::Error),
    #[error("the body unpacks to more than {MAX_UNPACKED} bytes")]
    TooLarge,
    #[error("the body ends in the middle of a change")]
    Truncated,
    #[error("the metadata of change {number} is malformed: {source}")]
    Metadata {
        number: usize,
        source: serde_json::Error,
    },
    #[error("change {number} does not belong under the subject's operation {operation}")]
    WrongOperation { number: usize, operation: Operation },
    #[error("the header says {said} changes, the body has {found}")]
    Count { said: usize, found: usize },
    #[error("the index definition is malformed: {0}")]
    Definition(serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Version(#[from] VersionError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, IndexName};
    use proptest::{collection::vec, option, prelude::*};

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let document = prop_oneof![
            Just("{}".to_owned()),
            ".{0,200}".prop_map(|s| serde_json::json!({ "text": s }).to_string()),
            "[a-z]{2000,9000}".prop_map(|s| serde_json::json!([s, 1.5, null]).to_string()),
        ];
        let change = (
            ".{1,60}",
            option::of(".{1,9}"),
            0..1u64 << 55,
            document,
            0..3usize,
        )
            .prop_map(|(id, routing, position, document, action)| {
                let document = Document::from_json(document.into());
                Change {
                    id: DocumentId::try_from(id.as_str()).unwrap(),
                    routing: routing.map(Into::into),
                    version: Version::new(Epoch(3), position).unwrap(),
                    action: match action {
                        0 => Action::Index(document),
                        1 => Action::Update(document),
                        _ => Action::Delete,
                    },
                }
            });
        vec(change, 0..40)
    }

    fn batch(changes: Vec<Change>) -> Batch {
        Batch {
            index: IndexName::try_from("movies.v1").unwrap(),
            origin: Origin {
                partition: "elasticsearch/x/0".into(),
                captured_ms: 77,
            },
            content: Content::Changes(changes),
        }
    }

    /// As a message comes out of the stream: subject and headers as text.
    fn over_the_wire(message: &Message) -> Message {
        let headers: HashMap<_, _> = message.envelope.to_headers().into_iter().collect();
        Message {
            subject: message.subject.to_string().parse().unwrap(),
            envelope: Envelope::from_headers(|name| headers.get(name).map(String::as_str)).unwrap(),
            body: message.body.clone(),
        }
    }

    fn round_trip(encoder: &Encoder, batch: &Batch) -> Vec<Change> {
        let mut assembler = Assembler::default();
        let mut back = Vec::new();
        for (sequence, message) in encoder.encode(batch).iter().enumerate() {
            assert!(message.body.len() <= encoder.max_body);
            if let Some(whole) = assembler.push(sequence as u64, over_the_wire(message)) {
                let decoded = decode(&whole).unwrap();
                assert_eq!(decoded.index, batch.index);
                assert_eq!(decoded.origin, batch.origin);
                back.extend_from_slice(decoded.changes());
            }
        }
        assert_eq!(assembler.oldest_unfinished(), None);
        back
    }

    proptest! {
        #[test]
        fn any_batch_reads_back_as_itself_whatever_the_message_limit(
            mut changes in changes(), max_body in 50usize..20_000, compress: bool,
        ) {
            let encoder = Encoder {
                root: Root::Changes,
                tenant: Tenant::try_from("t").unwrap(),
                max_body,
                zstd_level: compress.then_some(1),
            };
            let back = round_trip(&encoder, &batch(changes.clone()));
            changes.sort_by_key(Change::operation);
            prop_assert_eq!(back, changes);
        }

        #[test]
        fn no_body_makes_the_decoder_panic(
            body in vec(any::<u8>(), 0..300), count in 0usize..5, compressed: bool, kind in 0usize..4,
        ) {
            let message = Message {
                subject: Subject {
                    root: Root::Changes,
                    tenant: Tenant::try_from("t").unwrap(),
                    index: IndexName::try_from("i").unwrap(),
                    kind: Operation::ALL.get(kind).map_or(Kind::Definition, |o| Kind::Operation(*o)),
                },
                envelope: Envelope { count, origin: Origin::now("p".into()), compressed, part: (1, 1) },
                body: body.into(),
            };
            let _decoded = decode(&message);
        }
    }

    fn large_batch() -> (Encoder, Vec<Message>) {
        let encoder = Encoder {
            root: Root::Changes,
            tenant: Tenant::try_from("t").unwrap(),
            max_body: 100,
            zstd_level: None,
        };
        let document = format!("\"{}\"", "x".repeat(250));
        let messages = encoder.encode(&batch(vec![Change {
            id: DocumentId::try_from("1").unwrap(),
            routing: None,
            version: Version::new(Epoch(0), 1).unwrap(),
            action: Action::Index(Document::from_json(document.into())),
        }]));
        assert_eq!(messages.len(), 4);
        (encoder, messages)
    }

    #[test]
    fn an_attempt_that_was_given_up_in_the_middle_leaves_nothing_behind() {
        let (_, messages) = large_batch();
        let mut assembler = Assembler::default();
        let mut whole = Vec::new();
        let log = messages[..2].iter().chain(&messages);
        for (sequence, message) in log.enumerate() {
            whole.extend(assembler.push(sequence as u64, message.clone()));
        }
        assert_eq!(whole.len(), 1);
        assert_eq!(decode(&whole[0]).unwrap().changes().len(), 1);
        assert_eq!(assembler.oldest_unfinished(), None);
    }

    #[test]
    fn an_unfinished_body_says_where_a_reader_must_start_again() {
        let (_, messages) = large_batch();
        let mut assembler = Assembler::default();
        assert!(assembler.push(41, messages[0].clone()).is_none());
        assert!(assembler.push(42, messages[1].clone()).is_none());
        assert_eq!(assembler.oldest_unfinished(), Some(41));
    }

    #[test]
    fn a_part_without_its_beginning_is_dropped() {
        let (_, messages) = large_batch();
        let mut assembler = Assembler::default();
        assert!(assembler.push(1, messages[3].clone()).is_none());
        assert!(assembler.push(2, messages[0].clone()).is_none());
        assert!(assembler.push(3, messages[2].clone()).is_none());
        assert_eq!(assembler.oldest_unfinished(), None);
    }

    #[test]
    fn a_message_from_a_newer_syncline_is_refused_with_the_remedy() {
        let error = Envelope::from_headers(|_| Some("9"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("upgrade the reader"), "{error}");
    }
}
