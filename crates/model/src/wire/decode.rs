//! A message as a batch.

use std::io::Read;

use bytes::Bytes;
use zstd::zstd_safe;

use super::{
    Clear, DecodeError, MAX_UNPACKED, Message, OVER,
    metadata::{self, MetadataLine},
};
use crate::{
    Action, Batch, Change, Content, Document, DocumentId, Kind, Operation, Sealed, Version,
};

/// Reads a whole message back. For a message in parts, see [`Assembler`].
///
/// # Errors
/// When the body is not what [`Encoder`] writes.
pub fn decode(message: &Message) -> Result<Batch, DecodeError> {
    let body = unpack(&message.body, message.envelope.compressed)?;
    let content = match message.subject.kind {
        Kind::Definition => {
            Content::Definition(serde_json::from_slice(&body).map_err(DecodeError::Definition)?)
        }
        Kind::Clear => {
            let clear: Clear = serde_json::from_slice(&body).map_err(DecodeError::Clear)?;
            Content::Clear(clear.upto)
        }
        Kind::Operation(operation) => {
            if let Some(reached) = reached(message)? {
                return Ok(reached);
            }
            Content::Changes(read_changes(&body, operation, message.envelope.count)?)
        }
    };
    Ok(Batch {
        index: message.subject.index.clone(),
        origin: message.envelope.origin.clone(),
        content,
    })
}

/// The same without looking into the body, unless it is no change.
///
/// # Errors
/// When a definition is malformed.
pub fn seal(message: Message) -> Result<Batch, DecodeError> {
    let Kind::Operation(operation) = message.subject.kind else {
        return decode(&message);
    };
    if let Some(reached) = reached(&message)? {
        return Ok(reached);
    }
    Ok(Batch {
        index: message.subject.index,
        origin: message.envelope.origin,
        content: Content::Sealed(Sealed {
            operation,
            count: message.envelope.count,
            compressed: message.envelope.compressed,
            body: message.body,
        }),
    })
}

/// The batch of a message that says how far its source has come, if it does.
fn reached(message: &Message) -> Result<Option<Batch>, DecodeError> {
    let Some(reached) = message.envelope.reached else {
        return Ok(None);
    };
    if message.envelope.count != 0 || !message.body.is_empty() {
        return Err(DecodeError::ReachedWithChanges);
    }
    Ok(Some(Batch {
        index: message.subject.index.clone(),
        origin: message.envelope.origin.clone(),
        content: Content::Reached(reached),
    }))
}

/// Reads what is sealed; anything else is returned as it is.
///
/// # Errors
/// When the body is not what [`Encoder`] writes.
///
/// [`Encoder`]: super::Encoder
pub fn open(batch: &Batch) -> Result<Batch, DecodeError> {
    let Content::Sealed(sealed) = &batch.content else {
        return Ok(batch.clone());
    };
    let body = unpack(&sealed.body, sealed.compressed)?;
    Ok(Batch {
        index: batch.index.clone(),
        origin: batch.origin.clone(),
        content: Content::Changes(read_changes(&body, sealed.operation, sealed.count)?),
    })
}

fn unpack(packed: &Bytes, compressed: bool) -> Result<Bytes, DecodeError> {
    if !compressed {
        return Ok(packed.clone());
    }
    // A frame says how much is in it if whoever packed it knew, as the encoder does: then it needs no window beside
    // the body, and the body is not moved while it grows.
    let size = zstd_safe::get_frame_content_size(packed).ok().flatten();
    if let Some(size) = size.filter(|size| *size <= MAX_UNPACKED)
        && let Ok(body) = zstd::bulk::decompress(packed, size as usize)
    {
        return Ok(body.into());
    }
    let mut body = Vec::new();
    zstd::Decoder::with_buffer(&packed[..])
        .and_then(|decoder| decoder.take(MAX_UNPACKED + 1).read_to_end(&mut body))
        .map_err(DecodeError::Compression)?;
    if body.len() as u64 > MAX_UNPACKED {
        return Err(DecodeError::TooLarge);
    }
    Ok(body.into())
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
        let line =
            metadata::read(&line).map_err(|source| DecodeError::Metadata { number, source })?;
        let (metadata, action) = match (line, operation) {
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
            id: DocumentId::try_from(metadata.id.as_ref())?,
            routing: metadata.routing.map(|r| r.into_owned().into()),
            version: Version::try_from(metadata.version)?,
            over: operation != Operation::Delete && metadata.version_type.as_deref() == Some(OVER),
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
