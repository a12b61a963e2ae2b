//! A document as the ledger writes it: the length of its routing, the routing, the id.

use model::DocumentId;

use super::Entry;

/// The longest routing that is kept. A routing is part of an HTTP request; servers take none that is longer.
const LONGEST_ROUTING: usize = 60_000;

pub(super) fn encode(id: &DocumentId, routing: Option<&str>, bytes: &mut Vec<u8>) {
    let routing = routing.unwrap_or_default().as_bytes();
    let routing = match routing.len() {
        0..=LONGEST_ROUTING => routing,
        _ => &[],
    };
    bytes.extend_from_slice(&(routing.len() as u16).to_be_bytes());
    bytes.extend_from_slice(routing);
    bytes.extend_from_slice(id.as_str().as_bytes());
}

/// The routing and the id.
pub(super) fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = value.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

pub(super) fn decode(seq_no: u64, value: &[u8]) -> Option<Entry> {
    let (routing, id) = split(value)?;
    let routing = std::str::from_utf8(routing).ok()?;
    Some(Entry {
        seq_no,
        id: DocumentId::try_from(std::str::from_utf8(id).ok()?).ok()?,
        routing: (!routing.is_empty()).then(|| routing.into()),
    })
}
