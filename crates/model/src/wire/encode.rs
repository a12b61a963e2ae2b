//! A batch as messages.

use bytes::{BufMut, Bytes};

use super::{Clear, EXACT, Envelope, Message, OVER};
use crate::{Action, Batch, Change, Content, Kind, Operation, Root, Sealed, Subject, Tenant};

/// How batches are encoded.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The log they go to.
    pub root: Root,
    /// Whose they are, unless they come by a gateway, which says it for each batch.
    pub tenant: Tenant,
    /// The most one message's body may have, in bytes.
    pub max_body: usize,
    /// The zstd level; `None` leaves bodies as they are.
    pub zstd_level: Option<i32>,
}

/// How bodies are packed.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// The most one body may have, in bytes, unless a single change has more.
    pub max_body: usize,
    /// The zstd level; `None` leaves bodies as they are.
    pub zstd_level: Option<i32>,
}

impl Encoder {
    /// How it packs.
    pub fn packing(&self) -> Packing {
        Packing {
            max_body: self.max_body,
            zstd_level: self.zstd_level,
        }
    }

    /// The messages that carry `batch`, to be published in this order. None for an empty batch.
    pub fn encode(&self, batch: &Batch) -> Vec<Message> {
        let mut messages = Vec::new();
        match &batch.content {
            Content::Definition(definition) => {
                let body = serde_json::to_vec(definition)
                    .expect("a definition is text and raw JSON, which always serialise");
                self.cut(batch, Kind::Definition, 0, body.into(), &mut messages);
            }
            Content::Sealed(sealed) => {
                let kind = Kind::Operation(sealed.operation);
                let body = (sealed.body.clone(), sealed.compressed);
                self.cut_packed(batch, kind, sealed.count, body, &mut messages);
            }
            Content::Clear(upto) => {
                let body =
                    serde_json::to_vec(&Clear { upto: *upto }).expect("a number always serialises");
                self.cut(batch, Kind::Clear, 0, body.into(), &mut messages);
            }
            Content::Reached(version) => {
                let kind = Kind::Operation(Operation::Index);
                self.cut_packed(batch, kind, 0, (Bytes::new(), false), &mut messages);
                for message in &mut messages {
                    message.envelope.reached = Some(*version);
                }
            }
            Content::Changes(changes) => {
                let size = changes.iter().map(Change::size).sum();
                let mut packer = Packer::new(self.packing(), size);
                changes.iter().for_each(|change| packer.push(change));
                for sealed in packer.finish() {
                    let kind = Kind::Operation(sealed.operation);
                    let body = (sealed.body, sealed.compressed);
                    self.cut_packed(batch, kind, sealed.count, body, &mut messages);
                }
            }
        }
        messages
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
        let body = self.packing().compress(body);
        self.cut_packed(batch, kind, count, body, messages);
    }

    fn cut_packed(
        &self,
        batch: &Batch,
        kind: Kind,
        count: usize,
        (body, compressed): (Bytes, bool),
        messages: &mut Vec<Message>,
    ) {
        let via = batch.origin.via.as_ref();
        let parts = body.len().div_ceil(self.max_body).max(1);
        for part in 0..parts {
            let end = body.len().min((part + 1) * self.max_body);
            messages.push(Message {
                subject: Subject {
                    root: self.root,
                    tenant: via.map_or(&self.tenant, |via| &via.tenant).clone(),
                    index: batch.index.clone(),
                    kind,
                },
                envelope: Envelope {
                    format: kind.format(),
                    count,
                    reached: None,
                    origin: batch.origin.clone(),
                    compressed,
                    part: (part as u32 + 1, parts as u32),
                },
                body: body.slice(part * self.max_body..end),
            });
        }
    }
}

impl Packing {
    /// Compresses where that makes the body smaller.
    fn compress(self, body: Bytes) -> (Bytes, bool) {
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

/// Packs changes of one index into bodies, one for each operation and more where they do not fit.
#[derive(Debug)]
pub struct Packer {
    packing: Packing,
    /// How much there may be of what was not pushed yet, in bytes.
    expected: usize,
    open: [(Vec<u8>, usize); Operation::ALL.len()],
    packed: Vec<Sealed>,
}

impl Packer {
    /// One for changes that have about so many bytes together: a body that grows would be copied again and again.
    pub fn new(packing: Packing, expected: usize) -> Packer {
        Packer {
            packing,
            expected,
            open: Default::default(),
            packed: Vec::new(),
        }
    }

    /// Puts in one more change.
    pub fn push(&mut self, change: &Change) {
        let operation = change.operation();
        let (body, count) = &mut self.open[operation as usize];
        let size = change.size();
        if *count == 0 {
            body.reserve(self.expected.min(self.packing.max_body).max(size));
        }
        self.expected = self.expected.saturating_sub(size);
        let start = body.len();
        write_change(body, change);
        if body.len() > self.packing.max_body && *count > 0 {
            let mut last = body.split_off(start);
            last.reserve(self.expected.min(self.packing.max_body));
            let full = std::mem::replace(body, last);
            let full = (full, std::mem::take(count));
            self.seal(operation, full);
        }
        self.open[operation as usize].1 += 1;
    }

    /// The bodies, by operation.
    pub fn finish(mut self) -> Vec<Sealed> {
        for operation in Operation::ALL {
            let open = std::mem::take(&mut self.open[operation as usize]);
            if open.1 > 0 {
                self.seal(operation, open);
            }
        }
        self.packed.sort_by_key(|sealed| sealed.operation);
        self.packed
    }

    fn seal(&mut self, operation: Operation, (body, count): (Vec<u8>, usize)) {
        let (body, compressed) = self.packing.compress(body.into());
        self.packed.push(Sealed {
            operation,
            count,
            compressed,
            body,
        });
    }
}

/// Appends a change as `_bulk` takes it: a line of metadata, then the document's line if it has one.
pub fn write_change(body: &mut impl BufMut, change: &Change) {
    let (begin, version_type): (&[u8], _) = match change.action {
        Action::Delete => (b"{\"delete\":{\"_id\":", OVER),
        _ if change.over => (b"{\"index\":{\"_id\":", OVER),
        _ => (b"{\"index\":{\"_id\":", EXACT),
    };
    body.put_slice(begin);
    write_text(body, change.id.as_str());
    if let Some(routing) = &change.routing {
        body.put_slice(b",\"routing\":");
        write_text(body, routing);
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

/// Appends a text as JSON.
pub fn write_text(json: &mut impl BufMut, text: &str) {
    let is_plain = |byte| !matches!(byte, b'"' | b'\\' | ..b' ');
    if text.bytes().all(is_plain) {
        json.put_u8(b'"');
        json.put_slice(text.as_bytes());
        json.put_u8(b'"');
    } else {
        serde_json::to_writer(json.writer(), text).expect("writing text to memory cannot fail");
    }
}
