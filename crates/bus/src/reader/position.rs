//! Whether a position still means what it meant, and where a reader starts when it does not.

use std::collections::BTreeMap;

use super::ReaderOptions;
use crate::{Bus, Error, Stored, StreamInfo, TakenBack, lease::Mark, stream};

/// A message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its number.
    pub(crate) sequence: u64,
    /// When it was stored, in nanoseconds since 1970; 0 when unknown.
    pub(crate) time: u64,
}

impl Position {
    fn floor(mark: &Mark) -> Position {
        Position {
            sequence: mark.floor,
            time: mark.floor_time,
        }
    }
}

/// Where a reader starts.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Behind this.
    pub(crate) at: Position,
    pub(crate) stream_created: u64,
    pub(crate) fences: BTreeMap<String, (u64, u64)>,
    /// How far back that is, where an output has lost something.
    pub(crate) taken_back: Option<TakenBack>,
    /// The newest message that the output has to have.
    pub(crate) passed: Option<Stored>,
}

/// What a position turns out to be.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Go on behind it.
    Good,
    /// The stream was deleted and created again.
    Recreated,
    /// The stream ends below it, or has something else in its place.
    LostEnd(String),
    /// What follows it was removed, up to this number.
    Unread { to: u64 },
}

fn judge(info: &StreamInfo, created: u64, at: Position, time_there: Option<u64>) -> Verdict {
    if created != info.created {
        return Verdict::Recreated;
    }
    if at.sequence > info.last_sequence {
        return Verdict::LostEnd(format!("ends at {}", info.last_sequence));
    }
    match time_there {
        Some(time) if at.time != 0 && time != at.time => {
            Verdict::LostEnd(format!("has another message {}", at.sequence))
        }
        _ if info.first_sequence > at.sequence + 1 => Verdict::Unread {
            to: info.first_sequence - 1,
        },
        _ => Verdict::Good,
    }
}

/// Where a reader with this mark starts.
pub(crate) async fn start(
    bus: &Bus,
    options: &ReaderOptions,
    key: &str,
    mark: Option<&Mark>,
) -> Result<Start, Error> {
    let missing = || Error::StreamMissing {
        stream: options.stream.clone(),
    };
    let info = stream::info(bus, &options.stream)
        .await?
        .ok_or_else(missing)?;
    let beginning = Position {
        sequence: info.first_sequence.saturating_sub(1),
        time: 0,
    };
    let (stream, consumer) = (&options.stream, &options.consumer);
    let mut start = Start {
        at: beginning,
        stream_created: info.created,
        fences: BTreeMap::new(),
        taken_back: None,
        passed: None,
    };
    let Some(mark) = mark else {
        tracing::info!(
            stream,
            consumer,
            at = beginning.sequence + 1,
            "a new reader: it starts at the stream's first message and does not see what was removed before"
        );
        return Ok(start);
    };
    let floor = Position::floor(mark);
    let there = time_of(bus, stream, floor).await?;
    match judge(&info, mark.stream_created, floor, there) {
        Verdict::Good => {
            tracing::info!(stream, consumer, at = floor.sequence + 1, "reading on");
            start.at = floor;
            start.fences = mark.fences.clone();
        }
        Verdict::Recreated => tracing::warn!(
            stream,
            consumer,
            floor = floor.sequence,
            at = beginning.sequence + 1,
            "the stream was deleted and created again since this reader last read; it starts at the \
             new stream's first message. What the old one still held is lost: run `syncline verify`"
        ),
        Verdict::LostEnd(what) => tracing::warn!(
            stream,
            consumer,
            floor = floor.sequence,
            at = beginning.sequence + 1,
            what,
            "the stream has lost its end, as after a power failure; reading everything in it again"
        ),
        Verdict::Unread { to } => {
            return Err(Error::Unread {
                stream: stream.clone(),
                consumer: consumer.clone(),
                key: key.to_owned(),
                from: floor.sequence + 1,
                to,
            });
        }
    }
    Ok(start)
}

/// Whether the floor of a mark is one of this stream, as it is now.
pub(crate) async fn stands(bus: &Bus, info: &StreamInfo, mark: &Mark) -> Result<bool, Error> {
    let floor = Position::floor(mark);
    let there = time_of(bus, &info.name, floor).await?;
    Ok(match judge(info, mark.stream_created, floor, there) {
        Verdict::Good | Verdict::Unread { .. } => true,
        Verdict::Recreated | Verdict::LostEnd(_) => false,
    })
}

/// Whether a reader that has come this far may go on.
pub(super) async fn check(
    bus: &Bus,
    stream: &str,
    created: u64,
    seen: Position,
) -> Result<(), Error> {
    let info = stream::info(bus, stream).await?;
    let info = info.ok_or_else(|| gone(stream, seen))?;
    let there = time_of(bus, stream, seen).await?;
    match judge(&info, created, seen, there) {
        // What is gone behind the newest message seen was not there to be read when we started, or
        // another reader's messages were purged by subject.
        Verdict::Good | Verdict::Unread { .. } => Ok(()),
        Verdict::Recreated => Err(lost(
            stream,
            seen,
            "was deleted and created again".to_owned(),
        )),
        Verdict::LostEnd(what) => Err(lost(stream, seen, what)),
    }
}

/// What a reader that has come this far says of a stream that is not there any more.
pub(super) fn gone(stream: &str, seen: Position) -> Error {
    lost(stream, seen, "is gone".to_owned())
}

fn lost(stream: &str, seen: Position, what: String) -> Error {
    Error::LostEnd {
        stream: stream.to_owned(),
        read: seen.sequence,
        what,
    }
}

/// What is ahead of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Up to this end of the stream there is nothing for it.
    Nothing(Position),
    /// Something it has not seen.
    Unread,
    /// The stream is not there any more.
    Gone,
    /// The server did not say.
    Unknown,
}

/// Looks what is ahead of a position. The leader of the stream is asked, because a replica that lags
/// would not know the newest.
pub(super) async fn ahead(
    bus: Bus,
    options: ReaderOptions,
    seen: Position,
) -> Result<Ahead, Error> {
    let Some(info) = stream::info(&bus, &options.stream).await? else {
        return Ok(Ahead::Gone);
    };
    if info.last_sequence <= seen.sequence {
        return Ok(Ahead::Nothing(seen));
    }
    let handle = bus.jetstream().get_stream_no_info(&options.stream).await;
    let handle = handle.map_err(|error| stream::get_error(&bus, &options.stream, &error))?;
    let everything = [">".to_owned()];
    let filters = match &options.filter_subjects[..] {
        [] => &everything[..],
        filters => filters,
    };
    for filter in filters {
        match handle
            .get_first_raw_message_by_subject(filter, seen.sequence + 1)
            .await
        {
            Ok(message) if message.sequence <= info.last_sequence => return Ok(Ahead::Unread),
            Ok(_) => {}
            Err(error) if stream::is_not_found(&error) => {}
            Err(error) => {
                return Err(Error::request(
                    format!("looking into {}", options.stream),
                    error,
                ));
            }
        }
    }
    Ok(Ahead::Nothing(Position {
        sequence: info.last_sequence,
        time: info.last_time,
    }))
}

/// When the message at a position was stored; `None` when it is gone.
async fn time_of(bus: &Bus, stream: &str, at: Position) -> Result<Option<u64>, Error> {
    if at.time == 0 {
        return Ok(None);
    }
    let handle = bus.jetstream().get_stream_no_info(stream).await;
    let handle = handle.map_err(|error| stream::get_error(bus, stream, &error))?;
    match handle.get_raw_message(at.sequence).await {
        Ok(message) => Ok(Some(stream::nanos(message.time.unix_timestamp_nanos()))),
        Err(error) if stream::is_not_found(&error) => Ok(None),
        Err(error) => Err(Error::request(format!("looking into {stream}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(first_sequence: u64, last_sequence: u64) -> StreamInfo {
        StreamInfo {
            name: "S".to_owned(),
            created: 1,
            replicas: 1,
            max_bytes: None,
            bytes: 0,
            messages: 0,
            first_sequence,
            last_sequence,
            last_time: 0,
            gateways: BTreeMap::new(),
            filled_from: None,
        }
    }

    #[test]
    fn a_position_is_judged_by_stream_end_time_and_gap() {
        let at = |sequence| Position { sequence, time: 50 };
        let (same, other) = (Some(50), Some(51));
        assert_eq!(judge(&stream(1, 9), 1, at(5), same), Verdict::Good);
        assert_eq!(
            judge(&stream(6, 9), 1, at(5), None),
            Verdict::Good,
            "purged to its floor"
        );
        assert_eq!(
            judge(&stream(10, 9), 1, at(9), None),
            Verdict::Good,
            "empty"
        );
        assert_eq!(
            judge(
                &stream(0, 0),
                1,
                Position {
                    sequence: 0,
                    time: 0
                },
                None
            ),
            Verdict::Good
        );
        assert_eq!(judge(&stream(1, 9), 2, at(5), same), Verdict::Recreated);
        assert_eq!(
            judge(&stream(1, 4), 1, at(5), None),
            Verdict::LostEnd("ends at 4".to_owned())
        );
        assert!(matches!(
            judge(&stream(1, 9), 1, at(5), other),
            Verdict::LostEnd(_)
        ));
        assert_eq!(
            judge(&stream(8, 9), 1, at(5), None),
            Verdict::Unread { to: 7 }
        );
    }
}
