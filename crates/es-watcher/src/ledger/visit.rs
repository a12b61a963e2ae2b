//! What the ledger knows of one document, for somebody who asks beside the watcher.
//!
//! The watcher has the tables open and writes them. LMDB lets others of the same machine read them
//! meanwhile, each as of one commit, and holds no writer up for it. What is not in the tables yet is in
//! the journal, whose beginning is overwritten when a round is over: so what was read there counts only
//! if the tables still name the same round afterwards.

use std::path::Path;

use heed::{Database, Env, RoTxn, types::Str};
use model::{DocumentId, Epoch, IndexName};

use super::{
    Book, LedgerError, Opened, document,
    entered::Entered,
    journal,
    places::{Key, Places},
    rows::Rows,
    store::{ROUND, Table, opening},
    trail::{self, Row},
    word,
};
use crate::lmdb;

/// How often a round may end while the journal is read: one takes tens of thousands of documents.
const ATTEMPTS: usize = 10;

/// What a ledger remembers of a document in one history of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The shard's number.
    pub shard: u32,
    /// The index's UUID.
    pub index_uuid: String,
    /// The history's UUID.
    pub history_uuid: String,
    /// The epoch under which it was published.
    pub epoch: Epoch,
    /// Whether the same history has begun again since, under a higher epoch.
    pub over: bool,
    /// Everything of the shard up to here was read; -1 is nothing.
    pub read_upto: i64,
    /// Whether the ledger was there before anything of the history was published.
    pub whole: bool,
    /// Where the document stands, if it is known.
    pub standing: Option<Stood>,
    /// Where it stood when it was forgotten, if that was in the last minutes: the log has its delete then.
    pub forgotten: Option<Forgotten>,
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stood {
    /// The number of the operation that wrote it last, as far as the shard was read.
    pub seq_no: u64,
    /// The routing it was written with.
    pub routing: Option<Box<str>>,
}

/// A document whose delete was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Where it stood.
    pub seq_no: u64,
    /// When the log had the delete, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What the ledger in a checkpoint folder remembers of a document, in every history that it has of the
/// index's name. `None` where there is no ledger. A watcher may be running: it notices nothing. The folder
/// must be on a disk of this machine.
///
/// # Errors
/// When the ledger cannot be read or makes no sense.
pub fn remembered(
    checkpoints: &Path,
    index: &IndexName,
    id: &DocumentId,
) -> Result<Option<Vec<Remembered>>, LedgerError> {
    let path = &checkpoints.join("ledger");
    let refused = |error| opening(path, error);
    let Some(env) = lmdb::visit(path).map_err(refused)? else {
        return Ok(None);
    };
    let damaged = |reason: String| LedgerError::Damaged {
        path: path.clone(),
        reason,
    };
    for _ in 0..ATTEMPTS {
        let Some(round) = round(&env).map_err(|error| refused(error.into()))? else {
            return Ok(None); // it was created this moment
        };
        let mut latest = Entered::default();
        let read = journal::read(path, round, |record| latest.add(record));
        read.map_err(|error| damaged(error.to_string()))?;
        let visit = Visit { index, id, latest };
        let found = env.read_txn().and_then(|txn| visit.look(&env, &txn, round));
        if let Some(found) = found.map_err(|error| refused(error.into()))? {
            return found
                .map(Some)
                .ok_or_else(|| damaged("the record of a book makes no sense".to_owned()));
        }
    }
    Err(LedgerError::Open {
        path: path.clone(),
        reason: "it was written faster than it could be read".to_owned(),
        remedy: "try again",
    })
}

/// The round of the journal that is not in the tables yet.
fn round(env: &Env) -> Result<Option<u64>, heed::Error> {
    let txn = env.read_txn()?;
    let books: Option<Database<Str, heed::types::Bytes>> =
        env.open_database(&txn, Some("books"))?;
    let round = books.map(|books| books.get(&txn, ROUND)).transpose()?;
    Ok(round.flatten().map(word))
}

struct Visit<'a> {
    index: &'a IndexName,
    id: &'a DocumentId,
    /// What is not in the tables yet.
    latest: Entered,
}

impl Visit<'_> {
    /// Looks into the tables, if they are still of that round. The inner value is none where they make no sense.
    fn look(
        &self,
        env: &Env,
        txn: &RoTxn,
        round: u64,
    ) -> Result<Option<Option<Vec<Remembered>>>, heed::Error> {
        let books: Option<Database<Str, heed::types::Bytes>> =
            env.open_database(txn, Some("books"))?;
        let table = |name| env.open_database(txn, Some(name));
        let tables: [Option<Table>; 3] = [table("places")?, table("rows")?, table("trail")?];
        let (Some(books), [Some(places), Some(rows), Some(trail)]) = (books, tables) else {
            return Ok(Some(None));
        };
        if books.get(txn, ROUND)?.map(word) != Some(round) {
            return Ok(None);
        }
        let (places, rows) = (Places::new(places), Rows::new(rows));
        let prefix = format!("{}\0", self.index);
        let mut found = Vec::new();
        for entry in books.prefix_iter(txn, &prefix)? {
            let (title, value) = entry?;
            let parts: Vec<&str> = title.split('\0').skip(1).collect();
            let (Some(opened), [shard, index_uuid, history_uuid, rest @ ..]) =
                (Opened::from_bytes(value), parts.as_slice())
            else {
                return Ok(Some(None));
            };
            let filled = self
                .latest
                .filled()
                .filter(|(_, book, _)| *book == opened.book);
            found.push(Remembered {
                shard: shard.parse().unwrap_or(u32::MAX),
                index_uuid: (*index_uuid).to_owned(),
                history_uuid: (*history_uuid).to_owned(),
                epoch: opened.epoch,
                over: !rest.is_empty(),
                read_upto: filled.map(|(.., upto)| upto).fold(opened.upto, i64::max),
                whole: opened.whole,
                standing: self.standing(txn, opened.book, places, rows)?,
                forgotten: self.forgotten(txn, opened.book, trail)?,
            });
        }
        Ok(Some(Some(found)))
    }

    fn standing(
        &self,
        txn: &RoTxn,
        book: Book,
        places: Places,
        rows: Rows,
    ) -> Result<Option<Stood>, heed::Error> {
        let key = Key::of(book, self.id.as_str().as_bytes());
        let in_tables = places.get(txn, key)?;
        let in_journal = self.latest.newest(key);
        if let Some((seq_no, value)) =
            in_journal.filter(|(seq_no, _)| in_tables.is_none_or(|at| at <= *seq_no))
        {
            let routing = document::decode(seq_no, value).and_then(|entry| entry.routing);
            return Ok(Some(Stood { seq_no, routing }));
        }
        let Some(seq_no) = in_tables else {
            return Ok(None);
        };
        let mut routing = None;
        rows.each(txn, book, seq_no..=seq_no, |standing| {
            let entry = document::decode(standing.seq_no, standing.value);
            if let Some(entry) = entry.filter(|entry| entry.id == *self.id) {
                routing = entry.routing;
            }
            Ok(true)
        })?;
        Ok(Some(Stood { seq_no, routing }))
    }

    /// The last time it was forgotten. All of the trail is read, which is what was deleted in the last minutes.
    fn forgotten(
        &self,
        txn: &RoTxn,
        book: Book,
        trail: Table,
    ) -> Result<Option<Forgotten>, heed::Error> {
        let mut last = None;
        for row in trail.iter(txn)? {
            let (key, row) = row?;
            if trail::of_key(key).is_none_or(|(_, of)| of != book) {
                continue;
            }
            let Some(Row { at, entries }) = Row::from_bytes(row) else {
                continue;
            };
            let is_it = |value: &[u8]| {
                document::split(value).is_some_and(|(_, id)| id == self.id.as_str().as_bytes())
            };
            let mine = entries.iter().filter(|(_, value)| is_it(value));
            last = mine
                .map(|(seq_no, _)| Forgotten {
                    seq_no: *seq_no,
                    at_ms: at,
                })
                .chain(last)
                .max_by_key(|forgotten| (forgotten.at_ms, forgotten.seq_no));
        }
        Ok(last)
    }
}
