//! Read your writes: waiting until an index has reached a position of its source.
//!
//! | Source | Position | Reached when |
//! |---|---|---|
//! | a search cluster | `SEQ_NO/ID`, from the answer to the write | the document at the target has a version of the newest epoch with this number or a later one |
//! | PostgreSQL | an LSN | the mark of the index in [`MARKS`] is this or a later one |
//!
//! A search cluster numbers the operations of each shard apart and does not tell a writer which shard it
//! was, so a position of the index as a whole is nothing a caller could know; the document it has written
//! is. Once it is there the index is refreshed, so that searches see it.

use std::time::Duration;

use model::{DocumentId, Epoch, IndexName, Version};
use search::{Client, Error, MgetOptions};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    answer::Found,
    backend::Backend,
    compile::Guarded,
    problem::{Kind, Problem},
    schema::Schema,
    shared::Shared,
};

/// Where writers of a source with one position for all keep it: a document for each index, by the
/// index's name, with the position as `position`. It is written when everything up to there is settled.
pub(crate) const MARKS: &str = ".syncline-positions";

/// The pause between two looks: a quarter of the time that was waited, so that nobody waits much longer than he has to.
/// Not shorter, for nothing arrives sooner than that, and each look is a request.
const SHORTEST_PAUSE: Duration = Duration::from_millis(8);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// So old an answer will do for others who ask, too.
const FRESH: Duration = Duration::from_millis(2);

/// What those who wait for positions ask together.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    marks: Shared<u64>,
    refreshes: Shared<()>,
}

/// Something a source has told to whom it has written for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    /// An operation on a document of a search cluster.
    Document {
        seq_no: u64,
        id: DocumentId,
        routing: Option<String>,
    },
    /// A position in PostgreSQL's log.
    Lsn(u64),
}

impl Position {
    /// Reads `lsn:16/B374D848`, `SEQ_NO/ID` or `SEQ_NO@ROUTING/ID`.
    ///
    /// # Errors
    /// When it is none of these.
    pub(crate) fn read(text: &str) -> Result<Position, Problem> {
        if let Some(lsn) = text.strip_prefix("lsn:") {
            return self::lsn(lsn).map(Position::Lsn).ok_or_else(|| {
                let detail = format!("{lsn:?} is no LSN such as 16/B374D848");
                Problem::of(Kind::BadParameter, "min_lsn", detail)
            });
        }
        document(text).ok_or_else(|| {
            let detail = format!("{text:?} is no position; write SEQ_NO/ID, or SEQ_NO@ROUTING/ID");
            Problem::of(Kind::BadParameter, "min_position", detail)
        })
    }
}

fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text: &str| {
        let is_hex = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some(part(high)? << 32 | part(low)?)
}

fn document(text: &str) -> Option<Position> {
    let (operation, id) = text.split_once('/')?;
    let (seq_no, routing) = match operation.split_once('@') {
        Some((seq_no, routing)) => (seq_no, Some(routing.to_owned())),
        None => (operation, None),
    };
    let id = DocumentId::try_from(id).ok()?;
    let seq_no = seq_no
        .parse()
        .ok()
        .filter(|number| *number <= i64::MAX as u64)?;
    Some(Position::Document {
        seq_no,
        id,
        routing,
    })
}

/// Waits until the index has reached the position and shows it. `visible` finds the position's document if
/// whoever asks may see it: one that may not be seen never arrives, so that waiting tells nothing about it.
///
/// # Errors
/// When it is not reached in time, or the index has no such positions.
pub(crate) async fn wait(
    backend: &Backend,
    schema: &Schema,
    position: &Position,
    visible: Option<&Guarded>,
    timeout: Duration,
) -> Result<(), Problem> {
    let began = Instant::now();
    let deadline = began + timeout;
    let index = IndexName::try_from(schema.index.as_str())
        .map_err(|_| Problem::new(Kind::Internal, "the index has no name"))?;
    loop {
        let mut pause = (began.elapsed() / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if is_reached(backend, &index, schema, position).await? {
            show(backend, &index).await?;
            let is_seen = match visible {
                Some(search) => {
                    let answer = backend.search(&schema.index, search).await?;
                    !Found::read(&answer)?.hits().is_empty()
                }
                None => true,
            };
            if is_seen {
                return Ok(());
            }
            pause = LONGEST_PAUSE;
        }
        if Instant::now() + pause >= deadline {
            return Err(not_reached(position, timeout));
        }
        sleep(pause).await;
    }
}

/// Has searches see what is there by now.
async fn show(backend: &Backend, index: &IndexName) -> Result<(), Problem> {
    let refresh = async { backend.client().refresh(index).await.map_err(failed) };
    let refreshes = &backend.waiting().refreshes;
    refreshes.ask(index.as_str(), Instant::now(), refresh).await
}

fn not_reached(position: &Position, timeout: Duration) -> Problem {
    let (parameter, why) = match position {
        Position::Lsn(_) => ("min_lsn", "it is behind"),
        Position::Document { .. } => (
            "min_position",
            "it is behind, or the change was followed by a delete, filtered out or refused",
        ),
    };
    let detail = format!("the index has not reached the position within {timeout:?}: {why}");
    Problem::of(Kind::NotReached, parameter, detail).retry_after(1)
}

async fn is_reached(
    backend: &Backend,
    index: &IndexName,
    schema: &Schema,
    position: &Position,
) -> Result<bool, Problem> {
    match position {
        Position::Document {
            seq_no,
            id,
            routing,
        } => {
            let Some(epoch) = schema.epoch else {
                let detail = "the index is not filled from a search cluster";
                return Err(Problem::of(Kind::BadParameter, "min_position", detail));
            };
            let wanted = Version::new(Epoch(epoch), *seq_no).map_err(|_| {
                Problem::of(
                    Kind::BadParameter,
                    "min_position",
                    "there are no such numbers",
                )
            })?;
            let found = backend
                .client()
                .mget(index, &[(id, routing.as_deref())], MgetOptions::default())
                .await
                .map_err(failed)?;
            let version = found
                .first()
                .and_then(|found| found.version.filter(|_| found.found));
            Ok(version.is_some_and(|version| version >= wanted.get()))
        }
        Position::Lsn(lsn) => {
            let mark = mark(backend.client(), index, schema);
            let now = Instant::now();
            let since = now.checked_sub(FRESH).unwrap_or(now);
            let marks = &backend.waiting().marks;
            Ok(marks.ask(index.as_str(), since, mark).await? >= *lsn)
        }
    }
}

/// The position that everything at the target has come to.
async fn mark(client: &Client, index: &IndexName, schema: &Schema) -> Result<u64, Problem> {
    #[derive(Deserialize)]
    struct Mark {
        position: u64,
    }
    let none = || {
        let detail = "the index has no positions of PostgreSQL";
        Problem::of(Kind::BadParameter, "min_lsn", detail)
    };
    // One that has none yet gets one.
    let not_yet = || match schema.is_from_postgres {
        true => Ok(0),
        false => Err(none()),
    };
    let marks = IndexName::try_from(MARKS).map_err(|_| none())?;
    let id = DocumentId::try_from(index.as_str()).map_err(|_| none())?;
    let options = MgetOptions {
        source: true,
        ..MgetOptions::default()
    };
    let found = match client.mget(&marks, &[(&id, None)], options).await {
        Ok(found) => found,
        Err(Error::IndexNotFound { .. }) => return not_yet(),
        Err(error) => return Err(failed(error)),
    };
    let source = found.into_iter().next().and_then(|found| found.source);
    let Some(source) = source else {
        return not_yet();
    };
    match serde_json::from_slice::<Mark>(&source) {
        Ok(mark) => Ok(mark.position),
        Err(error) => {
            tracing::error!(%error, %index, "the mark of an index cannot be read");
            Err(none())
        }
    }
}

fn failed(error: Error) -> Problem {
    tracing::warn!(%error, "whether a position is reached cannot be seen");
    Problem::new(Kind::Unavailable, "the search cluster cannot answer now").retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_document_or_an_lsn() {
        let document = |seq_no, id: &str, routing: Option<&str>| Position::Document {
            seq_no,
            id: DocumentId::try_from(id).unwrap(),
            routing: routing.map(str::to_owned),
        };
        assert_eq!(Position::read("5/a/b").unwrap(), document(5, "a/b", None));
        assert_eq!(
            Position::read("5@r/a").unwrap(),
            document(5, "a", Some("r"))
        );
        assert_eq!(
            Position::read("lsn:16/B374D848").unwrap(),
            Position::Lsn(0x16_B374_D848)
        );
        for text in [
            "",
            "5",
            "5/",
            "x/a",
            "-1/a",
            "99999999999999999999/a",
            "lsn:",
            "lsn:1",
            "lsn:1/g",
            "lsn:1/123456789",
        ] {
            assert!(Position::read(text).is_err(), "{text}");
        }
    }
}
