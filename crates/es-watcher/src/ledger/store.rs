//! The ledger in LMDB: tables that change in one commit.

use std::{
    collections::HashMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use heed::{
    Database, Env, EnvFlags, RoTxn, RwTxn,
    types::{Bytes, Str},
};
use model::{Change, DocumentId, Epoch, IndexName};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Book, Counts, Entry, Gone, LedgerError, Opened, Shelved, block_of, title,
    trail::{self, Row},
};
use crate::{
    History, ShardKey,
    checkpoint::KEPT,
    lmdb::{self, OpenError},
};

/// Bits of a sequence number; the rest of a value checks the hash, the rest of a key is the book.
const SEQ_NO_BITS: u32 = 44;
const SEQ_NO: u64 = (1 << SEQ_NO_BITS) - 1;
const MOST_BOOKS: u32 = 1 << (64 - SEQ_NO_BITS);
/// How many neighbours of a hash are tried when others took its place.
const PROBES: u64 = 8;
/// Under which title the ledger's own name stands; no index is called that.
const NAME: &str = "\0name";
/// Under which title the stream's name stands.
const STREAM: &str = "\0stream";

type Table = Database<Bytes, Bytes>;

/// What is known of the documents of all watched shards. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    env: Env,
    /// Title -> number, up to where it is filled, and of which epoch it is.
    books: Database<Str, Bytes>,
    seen: Table,
    ids: Table,
    blocks: Table,
    trail: Table,
    /// Deletes the folder of a temporary ledger with the last clone.
    _folder: Option<Arc<tempfile::TempDir>>,
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
        let refused = |error| match error {
            OpenError::Io(reason) => LedgerError::Open {
                path: path.to_owned(),
                reason,
                remedy: "free space on its disk, or correct its permissions",
            },
            OpenError::Damaged(reason) => LedgerError::Damaged {
                path: path.to_owned(),
                reason,
            },
        };
        // Its pages are not walked: that takes as long as reading all of it, and it may be large.
        let env = lmdb::open(path, flags, |_| Ok(())).map_err(refused)?;
        let failed = |error: heed::Error| refused(error.into());
        let mut txn = env.write_txn().map_err(failed)?;
        let mut table = |name| env.create_database(&mut txn, Some(name)).map_err(failed);
        let (seen, ids, blocks) = (table("seen")?, table("ids")?, table("blocks")?);
        let trail = table("trail")?;
        let books = env
            .create_database(&mut txn, Some("books"))
            .map_err(failed)?;
        txn.commit().map_err(failed)?;
        Ok(Ledger {
            path: path.to_owned(),
            env,
            books,
            seen,
            ids,
            blocks,
            trail,
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
            name = format!("{:016x}", number(&value));
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

    /// Enters documents, and that the books are filled up to a number; all or nothing.
    pub(super) fn enter<'a>(
        &self,
        pages: impl IntoIterator<Item = Page<'a>>,
    ) -> Result<(), LedgerError> {
        let mut pages: Vec<Page<'a>> = pages.into_iter().collect();
        for page in &pages {
            let highest = page.changes.iter().map(|change| change.version.position());
            if highest.max().is_some_and(|seq_no| seq_no > SEQ_NO) {
                return Err(self.full("a shard counts more operations than it has room for"));
            }
        }
        // In the order of the keys, neighbours share pages of the file.
        let mut hashed: Vec<(u64, u32, Book, &Change)> = Vec::new();
        for page in &pages {
            hashed.extend(page.changes.iter().map(|change| {
                let (hash, check) = hash(page.book, &change.id);
                (hash, check, page.book, change)
            }));
        }
        hashed.sort_unstable_by_key(|(hash, _, _, change)| (*hash, change.version));
        pages.sort_unstable_by_key(|page| page.upto);
        self.write(|txn| {
            let mut deltas: HashMap<(Book, u64), i64> = HashMap::new();
            let mut entered: Vec<(Book, &Change)> = Vec::with_capacity(hashed.len());
            for (hash, check, book, change) in hashed {
                let seq_no = change.version.position();
                let new = pack(check, seq_no);
                // Most documents are new and have their place to themselves: one descent for those.
                let own = hash.to_be_bytes();
                let is_taken = self.seen.get_or_put(txn, &own, &new)?.is_some();
                if is_taken {
                    let (key, before) = self.place(txn, hash, check)?;
                    if before.is_some_and(|before| before >= seq_no) {
                        continue; // entered before a restart, or read again
                    }
                    self.seen.put(txn, &key, &new)?;
                    if let Some(before) = before {
                        self.take_out(txn, &key_of(book, before), &change.id)?;
                        *deltas.entry((book, block_of(before))).or_default() -= 1;
                    }
                }
                *deltas.entry((book, block_of(seq_no))).or_default() += 1;
                entered.push((book, change));
            }
            entered.sort_unstable_by_key(|(book, change)| (book.0, change.version));
            let mut value = Vec::new();
            for (book, change) in entered {
                encode(change, &mut value);
                self.put_in(txn, &key_of(book, change.version.position()), &value)?;
            }
            self.count(txn, deltas)?;
            self.fill(txn, &pages)
        })
    }

    /// Takes entries out that are still where they were.
    ///
    /// `newest` is the number of the log's newest message: should the log lose it, [`Ledger::take_back`]
    /// enters them again.
    pub(crate) fn forget(
        &self,
        gone: &[Arc<Gone>],
        newest: Option<u64>,
    ) -> Result<(), LedgerError> {
        let now = model::now_ms();
        self.write(|txn| {
            let mut deltas: HashMap<(Book, u64), i64> = HashMap::new();
            for gone in gone {
                let mut row = Row {
                    at: now,
                    entries: Vec::new(),
                };
                for entry in &gone.entries {
                    let key = key_of(gone.book, entry.seq_no);
                    let Some(value) = self.take_out(txn, &key, &entry.id)? else {
                        continue;
                    };
                    row.entries.push((entry.seq_no, value));
                    let (hash, check) = hash(gone.book, &entry.id);
                    if let (place, Some(_)) = self.place(txn, hash, check)? {
                        self.seen.delete(txn, &place)?;
                    }
                    *deltas
                        .entry((gone.book, block_of(entry.seq_no)))
                        .or_default() -= 1;
                }
                if let (Some(newest), Some((first, _))) = (newest, row.entries.first()) {
                    let key = trail::key(newest, gone.book, *first);
                    // Another batch may have begun with a document of the same number.
                    let before = self.trail.get(txn, &key)?.and_then(Row::from_bytes);
                    row.entries.extend(before.unwrap_or_default().entries);
                    self.trail.put(txn, &key, &row.to_bytes())?;
                }
            }
            self.trim(txn, now)?;
            self.count(txn, deltas)
        })
    }

    /// Enters again what was forgotten because of messages above a number, which the log has lost.
    /// Returns how many documents that were.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn take_back(&self, upto: u64) -> Result<usize, LedgerError> {
        let mut known = 0;
        self.write(|txn| {
            let mut deltas: HashMap<(Book, u64), i64> = HashMap::new();
            while let Some((key, row)) = self.newest_row(txn)? {
                let Some((_, book)) = trail::of_key(&key).filter(|(newest, _)| *newest > upto)
                else {
                    break;
                };
                for (seq_no, value) in row.entries {
                    let Some(entry) = decode(seq_no, &value) else {
                        continue;
                    };
                    let (hash, check) = hash(book, &entry.id);
                    let (place, newer) = self.place(txn, hash, check)?;
                    if newer.is_some() {
                        continue; // created again since
                    }
                    self.seen.put(txn, &place, &pack(check, seq_no))?;
                    self.put_in(txn, &key_of(book, seq_no), &value)?;
                    *deltas.entry((book, block_of(seq_no))).or_default() += 1;
                    known += 1;
                }
                self.trail.delete(txn, &key)?;
            }
            self.count(txn, deltas)
        })?;
        Ok(known)
    }

    fn newest_row(&self, txn: &RoTxn) -> Result<Option<(Vec<u8>, Row)>, heed::Error> {
        let newest = self.trail.last(txn)?;
        Ok(newest.map(|(key, value)| (key.to_vec(), Row::from_bytes(value).unwrap_or_default())))
    }

    /// Drops rows that are older than a server takes to sync.
    fn trim(&self, txn: &mut RwTxn, now: u64) -> Result<(), heed::Error> {
        let kept = KEPT.as_millis() as u64;
        while let Some((key, value)) = self.trail.first(txn)? {
            let is_kept = Row::from_bytes(value).is_some_and(|row| row.at + kept >= now);
            if is_kept {
                break;
            }
            let key = key.to_vec();
            self.trail.delete(txn, &key)?;
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
        let before = self.read(|txn| Ok(self.books.get(txn, STREAM)?.map(<[u8]>::to_vec)))?;
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

    /// How many entries each of the blocks has.
    pub(crate) fn counts(
        &self,
        book: Book,
        blocks: RangeInclusive<u64>,
    ) -> Result<Counts, LedgerError> {
        let range = key_of(book, *blocks.start())..=key_of(book, *blocks.end());
        let bounds = (range.start().as_slice(), range.end().as_slice());
        self.read(|txn| {
            let mut counts = Vec::new();
            let found = self.blocks.range(
                txn,
                &(
                    std::ops::Bound::Included(bounds.0),
                    std::ops::Bound::Included(bounds.1),
                ),
            )?;
            for entry in found {
                let (key, value) = entry?;
                counts.push((number(key) & SEQ_NO, number(value) as u32));
            }
            Ok(counts)
        })
    }

    /// The entries of a range of sequence numbers, lowest first.
    pub(crate) fn entries(
        &self,
        book: Book,
        numbers: RangeInclusive<u64>,
    ) -> Result<Vec<Entry>, LedgerError> {
        self.some_entries(book, numbers, usize::MAX)
    }

    fn some_entries(
        &self,
        book: Book,
        numbers: RangeInclusive<u64>,
        most: usize,
    ) -> Result<Vec<Entry>, LedgerError> {
        let range = key_of(book, *numbers.start())..=key_of(book, *numbers.end());
        let bounds = (range.start().as_slice(), range.end().as_slice());
        let entries = self.read(|txn| {
            let found = self.ids.range(
                txn,
                &(
                    std::ops::Bound::Included(bounds.0),
                    std::ops::Bound::Included(bounds.1),
                ),
            )?;
            let entries = found.take(most).map(|entry| {
                let (key, value) = entry?;
                Ok(decode_all(number(key) & SEQ_NO, value))
            });
            entries.collect::<Result<Option<Vec<Vec<Entry>>>, heed::Error>>()
        })?;
        let entries = entries.ok_or_else(|| self.damaged("an entry makes no sense"))?;
        Ok(entries.into_iter().flatten().collect())
    }

    /// The entries of up to `most` sequence numbers from one on, lowest first.
    pub(crate) fn first_entries(
        &self,
        book: Book,
        from: u64,
        most: usize,
    ) -> Result<Vec<Entry>, LedgerError> {
        self.some_entries(book, from..=SEQ_NO, most)
    }

    /// All books of an index's name.
    pub(crate) fn shelf(&self, index: &IndexName) -> Result<Vec<Shelved>, LedgerError> {
        let prefix = format!("{index}\0");
        let found = self.read(|txn| {
            let found = self.books.prefix_iter(txn, &prefix)?;
            let books = found.map(|entry| {
                let (title, value) = entry?;
                Ok((title.to_owned(), value.to_vec()))
            });
            books.collect::<Result<Vec<_>, heed::Error>>()
        })?;
        let shelved = found.into_iter().map(|(title, value)| {
            let mut parts = title.split('\0').skip(1);
            let shard = parts.next().and_then(|number| number.parse().ok());
            Ok(Shelved {
                book: Opened::from_bytes(&value)
                    .ok_or_else(|| self.damaged("the record of a book makes no sense"))?
                    .book,
                shard: shard.ok_or_else(|| self.damaged("the title of a book makes no sense"))?,
                index_uuid: parts.next().unwrap_or_default().to_owned(),
            })
        });
        shelved.collect()
    }

    /// Whether a book has the document.
    pub(crate) fn knows(&self, book: Book, id: &DocumentId) -> Result<bool, LedgerError> {
        let (hash, check) = hash(book, id);
        self.read(|txn| Ok(self.place(txn, hash, check)?.1.is_some()))
    }

    /// Whether the document is still where the entry says.
    pub(crate) fn has(&self, book: Book, entry: &Entry) -> Result<bool, LedgerError> {
        let found = self.read(|txn| {
            let value = self.ids.get(txn, &key_of(book, entry.seq_no))?;
            Ok(value.map(|value| decode_all(entry.seq_no, value).unwrap_or_default()))
        })?;
        Ok(found.is_some_and(|there| there.iter().any(|there| there.id == entry.id)))
    }

    /// Puts a document beside those that have its number. Nearly always there are none.
    fn put_in(&self, txn: &mut RwTxn, key: &[u8; 8], document: &[u8]) -> Result<(), heed::Error> {
        let Some(there) = self.ids.get_or_put(txn, key, document)?.map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let mut all = several(&there).unwrap_or_default();
        if !all.contains(&document) {
            all.push(document);
        }
        self.ids.put(txn, key, &join(&all))
    }

    /// Takes a document out of those that have its number, and returns it as it stood.
    fn take_out(
        &self,
        txn: &mut RwTxn,
        key: &[u8; 8],
        id: &DocumentId,
    ) -> Result<Option<Vec<u8>>, heed::Error> {
        let Some(there) = self.ids.get(txn, key)?.map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        let is_it = |value: &&[u8]| decode(0, value).is_some_and(|entry| entry.id == *id);
        let all = several(&there).unwrap_or_default();
        let (taken, left): (Vec<&[u8]>, Vec<&[u8]>) = all.into_iter().partition(is_it);
        match left.is_empty() {
            true => self.ids.delete(txn, key).map(drop)?,
            false => self.ids.put(txn, key, &join(&left))?,
        }
        Ok(taken.first().map(|taken| taken.to_vec()))
    }

    /// Where a document's hash stands or belongs, and its sequence number if it is there.
    fn place(
        &self,
        txn: &RoTxn,
        hash: u64,
        check: u32,
    ) -> Result<([u8; 8], Option<u64>), heed::Error> {
        for probe in 0..PROBES {
            let key = hash.wrapping_add(probe).to_be_bytes();
            match self.seen.get(txn, &key)? {
                None => return Ok((key, None)),
                Some(value) => {
                    let value = number(value);
                    if (value >> SEQ_NO_BITS) as u32 == check {
                        return Ok((key, Some(value & SEQ_NO)));
                    }
                }
            }
        }
        // Eight documents with nearly one hash: the first place is as good as any.
        Ok((hash.to_be_bytes(), None))
    }

    fn count(&self, txn: &mut RwTxn, deltas: HashMap<(Book, u64), i64>) -> Result<(), heed::Error> {
        for ((book, block), delta) in deltas {
            if delta == 0 {
                continue;
            }
            let key = key_of(book, block);
            let before = self.blocks.get(txn, &key)?.map_or(0, number);
            match before.saturating_add_signed(delta) {
                0 => self.blocks.delete(txn, &key).map(drop)?,
                now => self.blocks.put(txn, &key, &now.to_be_bytes())?,
            }
        }
        Ok(())
    }

    fn fill(&self, txn: &mut RwTxn, pages: &[Page<'_>]) -> Result<(), heed::Error> {
        let mut upto: HashMap<&str, (Book, i64)> = HashMap::new();
        for page in pages {
            upto.insert(page.title, (page.book, page.upto));
        }
        for (title, (book, upto)) in upto {
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

    fn read<T>(
        &self,
        look: impl FnOnce(&RoTxn) -> Result<T, heed::Error>,
    ) -> Result<T, LedgerError> {
        let looked = self.env.read_txn().and_then(|txn| look(&txn));
        looked.map_err(|error| self.damaged(error))
    }

    fn write(
        &self,
        change: impl FnOnce(&mut RwTxn) -> Result<(), heed::Error>,
    ) -> Result<(), LedgerError> {
        let write = || {
            let mut txn = self.env.write_txn()?;
            change(&mut txn)?;
            txn.commit()
        };
        write().map_err(|error| match error {
            heed::Error::Mdb(heed::MdbError::Panic) => LedgerError::Broken {
                path: self.path.clone(),
            },
            error => LedgerError::Write {
                path: self.path.clone(),
                reason: error.to_string(),
            },
        })
    }

    fn damaged(&self, reason: impl ToString) -> LedgerError {
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

/// What was read of a shard in one go.
pub(super) struct Page<'a> {
    pub(super) book: Book,
    pub(super) title: &'a str,
    pub(super) changes: &'a [Change],
    /// Up to where the book is filled with it.
    pub(super) upto: i64,
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

    fn from_bytes(bytes: &[u8]) -> Option<Opened> {
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

/// A key, and bits that tell documents apart whose keys are equal.
///
/// Of the book and the id together: as a seed the book would do little to a short id, and two books
/// would take each other's places.
fn hash(book: Book, id: &DocumentId) -> (u64, u32) {
    let id = id.as_str().as_bytes();
    let mut bytes = [0; 4 + DocumentId::MAX_BYTES];
    bytes[..4].copy_from_slice(&book.0.to_le_bytes());
    bytes[4..4 + id.len()].copy_from_slice(id);
    let hash = xxh3_128(&bytes[..4 + id.len()]);
    (hash as u64, (hash >> (64 + SEQ_NO_BITS)) as u32)
}

fn pack(check: u32, seq_no: u64) -> [u8; 8] {
    (u64::from(check) << SEQ_NO_BITS | seq_no).to_be_bytes()
}

/// Of a sequence number or a block of a book. Big-endian, so that neighbours are neighbours.
fn key_of(book: Book, number: u64) -> [u8; 8] {
    (u64::from(book.0) << SEQ_NO_BITS | number.min(SEQ_NO)).to_be_bytes()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// In the place of a routing's length: several documents follow, each after its own length.
const SEVERAL: [u8; 2] = u16::MAX.to_be_bytes();

/// The documents of a number.
fn several(value: &[u8]) -> Option<Vec<&[u8]>> {
    let Some(mut rest) = value.strip_prefix(&SEVERAL) else {
        return Some(vec![value]);
    };
    let mut all = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (document, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        all.push(document);
        rest = after;
    }
    rest.is_empty().then_some(all)
}

fn join(documents: &[&[u8]]) -> Vec<u8> {
    if let [document] = documents {
        return document.to_vec();
    }
    let mut value = SEVERAL.to_vec();
    for document in documents {
        value.extend_from_slice(&(document.len() as u32).to_be_bytes());
        value.extend_from_slice(document);
    }
    value
}

fn decode_all(seq_no: u64, value: &[u8]) -> Option<Vec<Entry>> {
    let documents = several(value)?.into_iter();
    documents.map(|value| decode(seq_no, value)).collect()
}

/// The length of the routing, the routing, the id.
fn encode(change: &Change, value: &mut Vec<u8>) {
    let routing = change.routing.as_deref().unwrap_or_default().as_bytes();
    value.clear();
    // A routing is part of an HTTP request; servers take none that is longer.
    let length = u16::try_from(routing.len()).unwrap_or(u16::MAX);
    let length = if length == u16::MAX { 0 } else { length };
    value.extend_from_slice(&length.to_be_bytes());
    value.extend_from_slice(&routing[..usize::from(length)]);
    value.extend_from_slice(change.id.as_str().as_bytes());
}

fn decode(seq_no: u64, value: &[u8]) -> Option<Entry> {
    let (length, rest) = value.split_first_chunk::<2>()?;
    let (routing, id) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let routing = std::str::from_utf8(routing).ok()?;
    Some(Entry {
        seq_no,
        id: DocumentId::try_from(std::str::from_utf8(id).ok()?).ok()?,
        routing: (!routing.is_empty()).then(|| routing.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{Action, Version};
    use proptest::prelude::*;

    use super::*;

    fn shard(number: u32) -> ShardKey {
        let index = IndexName::try_from("movies").unwrap();
        ShardKey {
            index,
            shard: number,
        }
    }

    fn history(name: &str) -> History {
        History {
            index_uuid: "i".into(),
            history_uuid: name.into(),
        }
    }

    fn change(id: &str, seq_no: u64) -> Change {
        Change {
            id: DocumentId::try_from(id).unwrap(),
            routing: id.ends_with('r').then(|| "röute".into()),
            version: Version::new(Epoch(3), seq_no).unwrap(),
            over: false,
            action: Action::Delete, // what it does is nothing to the ledger
        }
    }

    fn name(id: u8) -> String {
        format!("{id}{}", if id.is_multiple_of(3) { "r" } else { "" })
    }

    fn entry(id: u8, seq_no: u64) -> Entry {
        Entry {
            seq_no,
            id: DocumentId::try_from(name(id).as_str()).unwrap(),
            routing: None,
        }
    }

    fn enter(ledger: &Ledger, book: Book, changes: &[Change], upto: i64) {
        let title = title(&shard(0), &history("h"));
        let page = Page {
            book,
            title: &title,
            changes,
            upto,
        };
        ledger.enter([page]).unwrap();
    }

    fn all(ledger: &Ledger, book: Book) -> Vec<(u64, String)> {
        let entries = ledger.entries(book, 0..=SEQ_NO).unwrap().into_iter();
        entries
            .map(|entry| (entry.seq_no, entry.id.to_string()))
            .collect()
    }

    #[test]
    fn a_book_is_found_again_with_all_that_was_entered() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let opened = ledger
            .begin(&shard(0), &history("h"), Epoch(3), -1)
            .unwrap();
        assert_eq!((opened.upto, opened.whole), (-1, true));
        enter(&ledger, opened.book, &[change("a", 3), change("b r", 7)], 9);
        drop(ledger);
        let ledger = Ledger::open(folder.path()).unwrap();
        let again = ledger.begin(&shard(0), &history("h"), Epoch(3), 9).unwrap();
        assert_eq!(again, Opened { upto: 9, ..opened });
        let entries = ledger.entries(opened.book, 4..=7).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].id.as_str(), "b r");
        assert_eq!(entries[0].routing.as_deref(), Some("röute"));
        let other = ledger
            .begin(&shard(0), &history("other"), Epoch(3), 9)
            .unwrap();
        assert!(other.book != opened.book && !other.whole);
        let shelf = ledger.shelf(&shard(0).index).unwrap();
        assert_eq!(shelf.len(), 2);
        assert!(all(&ledger, other.book).is_empty());
    }

    #[test]
    fn a_history_that_begins_again_has_a_new_book_and_the_old_one_stays_on_the_shelf() {
        let ledger = Ledger::temporary().unwrap();
        let begin = |epoch, published| {
            let opened = ledger.begin(&shard(0), &history("h"), Epoch(epoch), published);
            opened.unwrap()
        };
        let old = begin(0, -1);
        enter(&ledger, old.book, &[change("a", 3)], 9);
        let new = begin(1, -1);
        assert!(new.book != old.book && new.upto == -1 && new.whole);
        // A late page of the old book says nothing about the new one.
        enter(&ledger, old.book, &[change("b", 12)], 12);
        enter(&ledger, new.book, &[change("a", 1)], 1);
        assert_eq!(begin(1, 1), Opened { upto: 1, ..new });
        assert_eq!(all(&ledger, old.book), [(3, "a".into()), (12, "b".into())]);
        assert_eq!(all(&ledger, new.book), [(1, "a".into())]);
        let mut shelf = ledger.shelf(&shard(0).index).unwrap();
        shelf.sort_by_key(|shelved| shelved.book.0);
        let shelved = |opened: Opened| Shelved {
            book: opened.book,
            shard: 0,
            index_uuid: "i".into(),
        };
        assert_eq!(shelf, [shelved(old), shelved(new)]);
        assert!(!begin(2, 5).whole);
        assert!(
            !begin(3, -1).whole,
            "what the second did not know is still there"
        );
    }

    #[test]
    fn shards_that_begin_at_once_get_books_of_their_own() {
        let ledger = Ledger::temporary().unwrap();
        let begin = |number| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                ledger
                    .begin(&shard(number), &history("h"), Epoch(3), -1)
                    .unwrap()
            })
        };
        let started: Vec<_> = (0..32).map(begin).collect();
        let books: std::collections::HashSet<Book> = started
            .into_iter()
            .map(|thread| thread.join().unwrap().book)
            .collect();
        assert_eq!(books.len(), 32);
    }

    #[test]
    fn a_ledger_that_was_cut_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let opened = ledger
            .begin(&shard(0), &history("h"), Epoch(3), -1)
            .unwrap();
        for page in 0..20u64 {
            let changes: Vec<Change> = (0..100)
                .map(|n| change(&format!("document {page} {n}"), page * 100 + n))
                .collect();
            enter(&ledger, opened.book, &changes, page as i64 * 100 + 99);
        }
        drop(ledger);
        let file = folder.path().join("data.mdb");
        let length = fs::metadata(&file).unwrap().len();
        let handle = fs::File::options().write(true).open(&file).unwrap();
        for cut in [length / 2, 9000, 100, 0] {
            handle.set_len(cut).unwrap();
            let error = Ledger::open(folder.path()).unwrap_err();
            assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("move it away"), "{error}");
        }
    }

    #[test]
    #[ignore = "a measurement: cargo test -p es-watcher --release --lib -- --ignored --nocapture ledger"]
    fn what_the_ledger_costs() {
        const DOCUMENTS: u64 = 1_000_000;
        const PAGE: u64 = 3000;
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let book = ledger
            .begin(&shard(0), &history("h"), Epoch(3), -1)
            .unwrap()
            .book;
        let (mut dice, mut seq_no) = (fastrand::Rng::with_seed(1), 0);
        for what in ["new", "updated"] {
            let before = testkit::process::Usage::of_this_process().unwrap();
            let started = std::time::Instant::now();
            for page in 0..DOCUMENTS / PAGE {
                let changes: Vec<Change> = (0..PAGE)
                    .map(|n| {
                        let document = match what {
                            "new" => page * PAGE + n,
                            _ => dice.u64(0..DOCUMENTS),
                        };
                        seq_no += 1;
                        // Twenty characters without order, as the servers' own ids are.
                        let scrambled = document.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                        change(
                            &format!("{scrambled:016x}{:04x}", document % 65_536),
                            seq_no,
                        )
                    })
                    .collect();
                enter(&ledger, book, &changes, seq_no as i64);
            }
            let used = testkit::process::Usage::of_this_process()
                .unwrap()
                .since(&before);
            let size = fs::metadata(folder.path().join("data.mdb")).unwrap().len();
            println!(
                "{what}: {:.2} us of CPU a document, {:.0} documents/s, {} bytes a document on disk, {} written",
                used.cpu().as_secs_f64() * 1e6 / DOCUMENTS as f64,
                DOCUMENTS as f64 / started.elapsed().as_secs_f64(),
                size / DOCUMENTS,
                used.written / DOCUMENTS,
            );
        }
        let started = std::time::Instant::now();
        let blocks = ledger.counts(book, 0..=SEQ_NO).unwrap().len();
        println!("{blocks} blocks are listed in {:?}", started.elapsed());
    }

    proptest! {
        /// Against the definition: a map from document to its newest number.
        #[test]
        fn the_ledger_holds_the_newest_number_of_each_document(
            pages in proptest::collection::vec(
                proptest::collection::vec((0u8..40, 0u64..600), 0..30), 1..20),
            forget in proptest::collection::vec((0u8..40, 0u64..600), 0..200),
        ) {
            let ledger = Ledger::temporary().unwrap();
            // Another book with the same ids and numbers must make no difference.
            let other = ledger.begin(&shard(1), &history("h"), Epoch(3), -1).unwrap().book;
            let book = ledger.begin(&shard(0), &history("h"), Epoch(3), -1).unwrap().book;
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            for page in pages {
                // A page has a document once; a number may be that of several, after a shrink.
                let mut ids = std::collections::HashSet::new();
                let page: Vec<(String, u64)> = page.into_iter()
                    .filter(|(id, _)| ids.insert(*id))
                    .map(|(id, number)| (name(id), number))
                    .collect();
                let changes: Vec<Change> = page.iter().map(|(id, n)| change(id, *n)).collect();
                enter(&ledger, other, &changes, 0);
                enter(&ledger, book, &changes, 0);
                enter(&ledger, book, &changes, 0); // read again after a restart
                for (id, number) in page {
                    let newest = model.entry(id).or_insert(number);
                    *newest = (*newest).max(number);
                }
            }
            let mut forget: Vec<Entry> = forget.into_iter().map(|(id, number)| entry(id, number)).collect();
            forget.extend(model.iter().filter(|(_, number)| *number % 3 == 0).map(|(id, number)| Entry {
                seq_no: *number,
                id: DocumentId::try_from(id.as_str()).unwrap(),
                routing: None,
            }));
            for gone in &forget {
                prop_assert_eq!(ledger.has(book, gone).unwrap(), model.get(gone.id.as_str()) == Some(&gone.seq_no));
            }
            model.retain(|id, number| !forget.iter().any(|gone| gone.id.as_str() == id && gone.seq_no == *number));
            ledger.forget(&[Arc::new(Gone { book, entries: forget })], Some(7)).unwrap();
            let mut expected: Vec<(u64, String)> =
                model.iter().map(|(id, number)| (*number, id.clone())).collect();
            expected.sort();
            let mut found = all(&ledger, book);
            prop_assert!(found.is_sorted_by_key(|(number, _)| *number));
            found.sort();
            prop_assert_eq!(found, expected.clone());
            let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
            for (number, id) in &expected {
                *counts.entry(block_of(*number)).or_default() += 1;
                let id = DocumentId::try_from(id.as_str()).unwrap();
                prop_assert!(ledger.knows(book, &id).unwrap());
            }
            let counts: Counts = counts.into_iter().collect();
            prop_assert_eq!(ledger.counts(book, 0..=u64::MAX).unwrap(), counts);
        }
    }
}
