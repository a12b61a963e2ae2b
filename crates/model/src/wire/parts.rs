//! Messages that were cut, and joining them again.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{Envelope, Message};
use crate::Subject;

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
