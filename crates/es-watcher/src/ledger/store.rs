//! The ledger: a journal that is durable at once, and LMDB tables that follow in large steps.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use heed::{
    Database, Env, EnvFlags, RoTxn, RwTxn,
    types::{Bytes, Str},
};
use model::Epoch;

use super::{
    Book, LedgerError, Opened, SEQ_NO, SEQ_NO_BITS,
    blocks::{Block, Deltas},
    document,
    entered::{self, Entered, Page},
    journal::Journal,
    key_of, numbers_of,
    places::{Key, Places},
    rows::{Rows, Standing},
    title, word,
};
use crate::{
    History, ShardKey,
    lmdb::{self, CommitError, OpenError},
};

const MOST_BOOKS: u32 = 1 << (64 - SEQ_NO_BITS);
/// How many rows of places change in one commit. LMDB holds a page of four kilobytes for each in memory.
const ROWS_AT_ONCE: usize = 4096;
/// Under which title the ledger's own name stands; no index is called that.
const NAME: &str = "\0name";
/// Under which title the stream's name stands.
const STREAM: &str = "\0stream";
/// Under which title the round of the journal stands that is not in the tables yet.
pub(super) const ROUND: &str = "\0round";
/// A table of the layout before this one.
const OLD_TABLE: &str = "seen";

pub(super) type Table = Database<Bytes, Bytes>;

/// What is known of the documents of all watched shards. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    env: Env,
    /// Title -> number, up to where it is filled, and of which epoch it is.
    pub(super) books: Database<Str, Bytes>,
    pub(super) places: Places,
    pub(super) rows: Rows,
    pub(super) blocks: Table,
    pub(super) trail: Table,
    latest: Arc<Mutex<Latest>>,
    /// Deletes the folder of a temporary ledger with the last clone.
    _folder: Option<Arc<tempfile::TempDir>>,
}

/// What is not in the tables yet.
#[derive(Debug)]
struct Latest {
    entered: Entered,
    /// None in a ledger that ends with the process.
    journal: Option<Journal>,
    round: u64,
}

impl Ledger {
    /// Opens the ledger in the folder `path`, or creates it. The folder must be no other process's:
    /// it lies within that of the checkpoints, whose lock is held.
    ///
    /// # Errors
    /// When the folder cannot be used or the ledger is damaged; a damaged one is never replaced by an
    /// empty one.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        fs::create_dir_all(path).map_err(|error| LedgerError::Open {
            path: path.to_owned(),
            reason: error.to_string(),
            remedy: "make the folder writable, or choose another with --checkpoint-path",
        })?;
        Self::open_with(path, EnvFlags::empty(), None)
    }

    /// A ledger that ends with the process, for a run that starts over when it is interrupted.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be used.
    pub fn temporary() -> Result<Ledger, LedgerError> {
        let folder = tempfile::tempdir().map_err(|error| LedgerError::Open {
            path: std::env::temp_dir(),
            reason: error.to_string(),
            remedy: "set TMPDIR to a folder that this user may write",
        })?;
        let path = folder.path().to_owned();
        Self::open_with(&path, EnvFlags::NO_SYNC, Some(Arc::new(folder)))
    }

    fn open_with(
        path: &Path,
        flags: EnvFlags,
        folder: Option<Arc<tempfile::TempDir>>,
    ) -> Result<Ledger, LedgerError> {
        let refused = |error| opening(path, error);
        // Its pages are not walked: that takes as long as reading all of it, and it may be large.
        let env = lmdb::open(path, flags, |_| Ok(())).map_err(refused)?;
        let failed = |error: heed::Error| refused(error.into());
        let mut txn = env.write_txn().map_err(failed)?;
        let old: Option<Table> = env.open_database(&txn, Some(OLD_TABLE)).map_err(failed)?;
        if old.is_some() {
            return Err(LedgerError::Open {
                path: path.to_owned(),
                reason: "an earlier build has written it in another layout".to_owned(),
                remedy: "move it away: the source is then read again, and what was deleted meanwhile stays at the \
                         target until `syncline verify --delete-extra` removes it",
            });
        }
        let mut table = |name| env.create_database(&mut txn, Some(name)).map_err(failed);
        let (places, rows, blocks) = (table("places")?, table("rows")?, table("blocks")?);
        let trail = table("trail")?;
        let books: Database<Str, Bytes> = env
            .create_database(&mut txn, Some("books"))
            .map_err(failed)?;
        let round = match books.get(&txn, ROUND).map_err(failed)? {
            Some(round) => word(round),
            None => {
                // At random: the journal of another ledger has to be told from this one's.
                let round = fastrand::u64(..u64::MAX / 2);
                books
                    .put(&mut txn, ROUND, &round.to_be_bytes())
                    .map_err(failed)?;
                round
            }
        };
        txn.commit().map_err(failed)?;
        let mut entered = Entered::default();
        let journal = match folder.is_some() {
            true => None,
            false => {
                let journal = Journal::open(path, round, |record| entered.add(record));
                Some(journal.map_err(|error| refused(OpenError::Io(error.to_string())))?)
            }
        };
        let latest = Latest {
            entered,
            journal,
            round,
        };
        Ok(Ledger {
            path: path.to_owned(),
            env,
            books,
            places: Places::new(places),
            rows: Rows::new(rows),
            blocks,
            trail,
            latest: Arc::new(Mutex::new(latest)),
            _folder: folder,
        })
    }

    /// What tells this ledger from every other, as it was named when it was created.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn name(&self) -> Result<String, LedgerError> {
        let mut name = String::new();
        self.write(|txn| {
            let found = self.books.get(txn, NAME)?.map(<[u8]>::to_vec);
            let is_new = found.is_none();
            let value = found.unwrap_or_else(|| fastrand::u64(..).to_be_bytes().to_vec());
            if is_new {
                self.books.put(txn, NAME, &value)?;
            }
            name = format!("{:016x}", word(&value));
            Ok(())
        })?;
        Ok(name)
    }

    /// Opens the book of a shard's history, which may be new; `published` says up to where the
    /// history was published before. A history that begins again under another epoch gets another
    /// book, and the old one stays on the shelf.
    pub(crate) fn begin(
        &self,
        shard: &ShardKey,
        history: &History,
        epoch: Epoch,
        published: i64,
    ) -> Result<Opened, LedgerError> {
        let title = title(shard, history);
        let mut opened = None;
        // Looked up where it is written: two shards that begin at once must not get one number.
        self.write(|txn| {
            let found = self.books.get(txn, &title)?.map(<[u8]>::to_vec);
            opened = found.as_deref().map(Opened::from_bytes);
            let number = u32::try_from(self.books.len(txn)?).unwrap_or(u32::MAX);
            let before = opened.flatten();
            let is_over = before.is_some_and(|before| before.epoch != epoch);
            if (opened.is_some() && !is_over) || number >= MOST_BOOKS {
                return Ok(());
            }
            if let (Some(before), Some(value)) = (before, found) {
                let shelved = format!("{title}\0{}", before.book.0);
                self.books.put(txn, &shelved, &value)?;
            }
            let new = Opened {
                book: Book(number),
                upto: -1,
                whole: published < 0 && before.is_none_or(|before| before.whole),
                epoch,
            };
            opened = Some(Some(new));
            self.books.put(txn, &title, &new.to_bytes())
        })?;
        match opened {
            Some(Some(opened)) => Ok(opened),
            Some(None) => Err(self.damaged("the record of a book makes no sense")),
            None => Err(self.full("there are too many histories in it")),
        }
    }

    /// Enters documents, and that the books are filled up to a number; all or nothing, and durable.
    pub(super) fn enter<'a>(
        &self,
        pages: impl IntoIterator<Item = Page<'a>>,
    ) -> Result<(), LedgerError> {
        let pages: Vec<Page<'a>> = pages.into_iter().collect();
        if pages.is_empty() {
            return Ok(());
        }
        for page in &pages {
            let highest = page.changes.iter().map(|change| change.version.position());
            if highest.max().is_some_and(|seq_no| seq_no > SEQ_NO) {
                return Err(self.full("a shard counts more operations than it has room for"));
            }
        }
        let record = entered::record(&pages);
        let mut latest = self.latest();
        if latest.entered.is_full() {
            self.settle_all(&mut latest)?;
        }
        if let Some(journal) = &mut latest.journal {
            journal
                .append(&record)
                .map_err(|error| self.unwritten(error))?;
        }
        let added = latest.entered.add(&record);
        added.ok_or_else(|| self.damaged("what was just entered makes no sense"))
    }

    /// Puts what was entered into the tables, where it would be put by the next look into them.
    pub(super) fn settle(&self) -> Result<(), LedgerError> {
        self.settle_all(&mut self.latest())
    }

    /// Puts what was entered into the tables, some rows at a time. What is there already makes no
    /// difference, so this may end in the middle and begin again.
    fn settle_all(&self, latest: &mut Latest) -> Result<(), LedgerError> {
        if latest.entered.is_empty() {
            return Ok(());
        }
        let entered = &latest.entered;
        let documents = entered.by_place();
        let keys: Vec<Key> = documents.iter().map(|document| document.key).collect();
        let round = latest.round + 1;
        let mut touched = Deltas::default();
        let mut done = 0;
        loop {
            let mut deltas = Deltas::default();
            let begun = done;
            self.commit(|txn| {
                if begun == 0 {
                    // Before its place a value says nothing, so all of them may come first, in order.
                    let values = entered.by_number();
                    self.rows.add(txn, &values, |book, seq_no| {
                        deltas.of(book, seq_no).stored += 1;
                    })?;
                }
                let rest = &documents[begun..];
                done += self
                    .places
                    .update(txn, &keys[begun..], ROWS_AT_ONCE, |at, before| {
                        let document = rest[at];
                        match before {
                            // Entered before a restart, or read again.
                            Some(before) if before >= document.seq_no => return Some(before),
                            Some(before) => deltas.of(document.book, before).alive -= 1,
                            None => {}
                        }
                        deltas.of(document.book, document.seq_no).alive += 1;
                        Some(document.seq_no)
                    })?;
                self.count(txn, &deltas)?;
                touched.add(&deltas);
                if done == keys.len() {
                    self.sweep(txn, &touched)?;
                    self.fill(txn, entered.filled())?;
                    self.books.put(txn, ROUND, &round.to_be_bytes())?;
                }
                Ok(())
            })?;
            if done == keys.len() {
                break;
            }
        }
        latest.entered.clear();
        latest.round = round;
        if let Some(journal) = &mut latest.journal {
            journal.restart(round);
        }
        Ok(())
    }

    /// Makes sure that the ledger goes with a stream: what another stream was given may never have
    /// been read, so what is still known of that is entered again.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn continue_into(&self, stream: &str, created: u64) -> Result<(), LedgerError> {
        let name = format!("{stream}\0{created}");
        let before = self.peek(|txn| Ok(self.books.get(txn, STREAM)?.map(<[u8]>::to_vec)))?;
        match before {
            // Nothing is written where nothing changes: the disk may be full.
            Some(before) if before == name.as_bytes() => return Ok(()),
            Some(_) => {
                self.take_back(0)?;
            }
            None => {}
        }
        self.write(|txn| self.books.put(txn, STREAM, name.as_bytes()))
    }

    /// Whether what once stood at a number still does.
    pub(super) fn stands(
        &self,
        txn: &RoTxn,
        book: Book,
        standing: Standing<'_>,
    ) -> Result<bool, heed::Error> {
        let Some((_, id)) = document::split(standing.value) else {
            return Ok(true); // whoever reads it finds out
        };
        Ok(self.places.get(txn, Key::of(book, id))? == Some(standing.seq_no))
    }

    pub(super) fn count(&self, txn: &mut RwTxn, deltas: &Deltas) -> Result<(), heed::Error> {
        for ((book, block), delta) in &deltas.0 {
            let key = key_of(*book, *block);
            let before = self
                .blocks
                .get(txn, &key)?
                .map_or(Block::default(), Block::from_bytes);
            let now = before.changed_by(*delta);
            if now != before {
                self.blocks.put(txn, &key, &now.to_bytes())?;
            }
        }
        Ok(())
    }

    /// Drops what has moved away from blocks that hold more of that than of what has not.
    pub(super) fn sweep(&self, txn: &mut RwTxn, touched: &Deltas) -> Result<(), heed::Error> {
        for (book, block) in touched.0.keys() {
            let key = key_of(*book, *block);
            let before = self
                .blocks
                .get(txn, &key)?
                .map_or(Block::default(), Block::from_bytes);
            if before.alive > 0 && before.alive * 2 >= before.stored {
                continue;
            }
            let numbers = numbers_of(*block);
            let stored = match before.alive {
                0 => self.rows.sweep(txn, *book, numbers, |_, _| Ok(false))?,
                _ => self.rows.sweep(txn, *book, numbers, |txn, standing| {
                    self.stands(txn, *book, standing)
                })?,
            };
            match before.alive {
                0 => self.blocks.delete(txn, &key).map(drop)?,
                _ => self
                    .blocks
                    .put(txn, &key, &Block { stored, ..before }.to_bytes())?,
            }
        }
        Ok(())
    }

    fn fill<'a>(
        &self,
        txn: &mut RwTxn,
        filled: impl Iterator<Item = (&'a str, Book, i64)>,
    ) -> Result<(), heed::Error> {
        for (title, book, upto) in filled {
            let before = self.books.get(txn, title)?.and_then(Opened::from_bytes);
            // A book that is entered into was begun, and may have been followed by another since.
            if let Some(before) = before.filter(|before| before.book == book && before.upto < upto)
            {
                let filled = Opened { upto, ..before };
                self.books.put(txn, title, &filled.to_bytes())?;
            }
        }
        Ok(())
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks into the tables when all that was entered is there.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&RoTxn) -> Result<T, heed::Error>,
    ) -> Result<T, LedgerError> {
        self.settle()?;
        self.peek(look)
    }

    /// Looks into the tables as they are.
    pub(super) fn peek<T>(
        &self,
        look: impl FnOnce(&RoTxn) -> Result<T, heed::Error>,
    ) -> Result<T, LedgerError> {
        let looked = self.env.read_txn().and_then(|txn| look(&txn));
        looked.map_err(|error| match lmdb::has_to_be_opened_anew(&error) {
            true => self.broken(),
            false => self.damaged(error),
        })
    }

    /// Changes the tables when all that was entered is there.
    pub(super) fn write(
        &self,
        change: impl FnOnce(&mut RwTxn) -> Result<(), heed::Error>,
    ) -> Result<(), LedgerError> {
        let mut latest = self.latest();
        self.settle_all(&mut latest)?;
        self.commit(change)
    }

    fn commit(
        &self,
        change: impl FnOnce(&mut RwTxn) -> Result<(), heed::Error>,
    ) -> Result<(), LedgerError> {
        lmdb::commit(&self.env, change).map_err(|error| match error {
            CommitError::Write(reason) => self.unwritten(reason),
            CommitError::Broken => self.broken(),
        })
    }

    fn broken(&self) -> LedgerError {
        LedgerError::Broken {
            path: self.path.clone(),
        }
    }

    fn unwritten(&self, reason: impl ToString) -> LedgerError {
        LedgerError::Write {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn damaged(&self, reason: impl ToString) -> LedgerError {
        LedgerError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn full(&self, what: &'static str) -> LedgerError {
        LedgerError::Full {
            path: self.path.clone(),
            what,
        }
    }
}

pub(super) fn opening(path: &Path, error: OpenError) -> LedgerError {
    match error {
        OpenError::Io(reason) => LedgerError::Open {
            path: path.to_owned(),
            reason,
            remedy: "free space on its disk, or correct its permissions",
        },
        OpenError::Damaged(reason) => LedgerError::Damaged {
            path: path.to_owned(),
            reason,
        },
    }
}

impl Opened {
    fn to_bytes(self) -> [u8; 14] {
        let mut bytes = [0; 14];
        bytes[..4].copy_from_slice(&self.book.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.upto.to_be_bytes());
        bytes[12] = u8::from(self.whole);
        bytes[13] = self.epoch.0;
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Opened> {
        let (book, rest) = bytes.split_first_chunk::<4>()?;
        let (upto, rest) = rest.split_first_chunk::<8>()?;
        let &[whole, epoch] = rest else {
            return None;
        };
        Some(Opened {
            book: Book(u32::from_be_bytes(*book)),
            upto: i64::from_be_bytes(*upto),
            whole: whole == 1,
            epoch: Epoch(epoch),
        })
    }
}

#[cfg(test)]
mod tests;
