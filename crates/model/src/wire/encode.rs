//! A batch as messages.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Clear, EXACT, Envelope, Message, OVER};
use crate::{Action, Batch, Change, Content, Kind, Operation, Root, Subject, Tenant};

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
        self.cut_packed(batch, kind, count, self.compress(body), messages);
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
    let version_type = match change.action {
        Action::Index(_) | Action::Update(_) if !change.over => EXACT,
        Action::Index(_) | Action::Update(_) | Action::Delete => OVER,
    };
    let operation = match change.action {
        Action::Index(_) | Action::Update(_) => "index",
        Action::Delete => "delete",
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
