//! What a stream has acknowledged to a publisher, and whether it still has it.
//!
//! A server that loses power before it has synced comes back without the end of its stream
//! (`sync_interval` is two minutes unless it was changed). The publisher was told that the end was
//! there, so it has to notice, and to publish it again. Three signs: the stream ends below what it
//! has acknowledged, has another message in that place, or acknowledges a number that it has given
//! before.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::header::NATS_MESSAGE_ID;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Bus, Error, stream};

/// How often is looked without any sign that the server was away.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long after a failed look the next one follows.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A message that a stream has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its number.
    pub sequence: u64,
    /// Its id, which no other message has.
    pub message_id: String,
}

/// Whether a stream still has what it has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It has, or readers are through with it.
    Whole,
    /// Nothing above this number is what it was.
    Lost {
        /// 0 where the stream does not tell.
        upto: u64,
        /// What is there instead.
        what: String,
    },
}

/// The newest message that a stream has acknowledged to a publisher.
#[derive(Debug)]
pub struct Acknowledged {
    stream: String,
    newest: Mutex<Newest>,
    lost: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Newest {
    stored: Option<Stored>,
    /// The how manieth message of this publisher it was; 0 for one of an earlier run.
    sent: u64,
}

impl Acknowledged {
    /// Begins with what the publisher has kept from an earlier run.
    pub fn new(stream: &str, newest: Option<Stored>) -> Acknowledged {
        Acknowledged {
            stream: stream.to_owned(),
            newest: Mutex::new(Newest {
                stored: newest,
                sent: 0,
            }),
            lost: watch::Sender::new(None),
        }
    }

    /// The newest message. Whatever was confirmed before this call is not above it.
    pub fn newest(&self) -> Option<Stored> {
        self.lock().stored.clone()
    }

    /// Resolves when the stream, which was created then, has lost what it has acknowledged. Looks whenever the
    /// connection was lost, and now and then.
    pub async fn lost(&self, bus: &Bus, created: u64) -> Error {
        let (mut losses, mut lost) = (bus.losses(), self.lost.subscribe());
        let mut pause = LOOK_EVERY;
        loop {
            tokio::select! {
                Ok(found) = lost.wait_for(Option::is_some) => {
                    let what = found.clone().unwrap_or_default();
                    return self.error(what);
                }
                Ok(()) = losses.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = match look(bus, (&self.stream, created), self.newest().as_ref()).await {
                Ok(Ending::Whole) => LOOK_EVERY,
                Ok(Ending::Lost { what, .. }) => return self.error(what),
                Err(_) => LOOK_AGAIN,
            };
        }
    }

    /// Takes the acknowledgment of the how manieth message. They may come in any order, for a publisher may wait for
    /// a later message first; the stream numbers the messages in the order in which they were sent.
    ///
    /// # Errors
    /// When the stream gives a number again.
    pub(crate) fn note(&self, sent: u64, stored: Stored) -> Result<(), Error> {
        let mut newest = self.lock();
        let known = newest.stored.as_ref().map_or(0, |known| known.sequence);
        let is_in_order = match sent > newest.sent {
            true => stored.sequence > known,
            false => stored.sequence < known,
        };
        if !is_in_order {
            let what = format!("gives the number {} again", stored.sequence);
            self.lost.send_replace(Some(what.clone()));
            drop(newest);
            return Err(self.error(what));
        }
        if sent > newest.sent {
            *newest = Newest {
                stored: Some(stored),
                sent,
            };
        }
        Ok(())
    }

    fn error(&self, what: String) -> Error {
        Error::LostAcknowledged {
            stream: self.stream.clone(),
            had: self.newest().map_or(0, |newest| newest.sequence),
            what,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a stream, named and by when it was created, still has a message that it has acknowledged, and everything
/// before it; without one, whether it is there.
///
/// # Errors
/// When the server does not answer.
pub async fn look(
    bus: &Bus,
    (name, created): (&str, u64),
    stored: Option<&Stored>,
) -> Result<Ending, Error> {
    let all = |what: &str| Ending::Lost {
        upto: 0,
        what: what.to_owned(),
    };
    let Some(info) = stream::info(bus, name).await? else {
        return Ok(all("is gone"));
    };
    if info.created != created {
        return Ok(all("was deleted and created again"));
    }
    let Some(stored) = stored else {
        return Ok(Ending::Whole);
    };
    if info.last_sequence < stored.sequence {
        return Ok(Ending::Lost {
            upto: info.last_sequence,
            what: format!("ends at {}", info.last_sequence),
        });
    }
    let handle = bus.jetstream().get_stream_no_info(name).await;
    let handle = handle.map_err(|error| stream::get_error(bus, name, &error))?;
    match handle.get_raw_message(stored.sequence).await {
        Ok(message) => {
            let id = message.headers.get(NATS_MESSAGE_ID);
            if id.is_some_and(|id| id.as_str() == stored.message_id) {
                return Ok(Ending::Whole);
            }
            Ok(all(&format!("has another message {}", stored.sequence)))
        }
        // Removed, because every reader has settled it.
        Err(error) if stream::is_not_found(&error) => Ok(Ending::Whole),
        Err(error) => Err(Error::request(format!("looking into {name}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(sequence: u64, message_id: &str) -> Stored {
        Stored {
            sequence,
            message_id: message_id.into(),
        }
    }

    #[test]
    fn a_number_that_is_given_again_is_a_lost_end() {
        let acknowledged = Acknowledged::new("S", None);
        acknowledged.note(1, stored(7, "a")).unwrap();
        acknowledged.note(2, stored(9, "b")).unwrap();
        let error = acknowledged.note(3, stored(9, "c")).unwrap_err();
        assert!(
            error.to_string().contains("gives the number 9 again"),
            "{error}"
        );
        assert_eq!(acknowledged.newest().unwrap().message_id, "b");
    }

    #[test]
    fn a_number_of_an_earlier_run_that_is_given_again_is_a_lost_end() {
        let acknowledged = Acknowledged::new("S", Some(stored(7, "a")));
        acknowledged.note(1, stored(7, "b")).unwrap_err();
    }

    #[test]
    fn an_earlier_message_may_be_acknowledged_after_a_later_one() {
        let acknowledged = Acknowledged::new("S", None);
        acknowledged.note(1, stored(7, "a")).unwrap();
        acknowledged.note(3, stored(9, "c")).unwrap();
        acknowledged.note(2, stored(8, "b")).unwrap();
        assert_eq!(acknowledged.newest().unwrap().message_id, "c");
        // One that was sent before the newest cannot be stored behind it.
        acknowledged.note(2, stored(10, "b")).unwrap_err();
    }
}
