//! What the log has the delete of is forgotten, and known again should the log lose it.

use std::sync::Arc;

use heed::{RoTxn, RwTxn};

use super::{
    Book, Entry, Gone, Ledger, LedgerError,
    blocks::Deltas,
    document,
    places::Key,
    rows::Standing,
    trail::{self, Row},
};
use crate::checkpoint::KEPT;

impl Ledger {
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
            let mut deltas = Deltas::default();
            for gone in gone {
                let taken = self.take_out(txn, gone.book, &gone.entries, &mut deltas)?;
                let mut row = Row {
                    at: now,
                    entries: taken,
                };
                if let (Some(newest), Some((first, _))) = (newest, row.entries.first()) {
                    let key = trail::key(newest, gone.book, *first);
                    // Another batch may have begun with a document of the same number.
                    let before = self.trail.get(txn, &key)?.and_then(Row::from_bytes);
                    row.entries.extend(before.unwrap_or_default().entries);
                    self.trail.put(txn, &key, &row.to_bytes())?;
                }
            }
            self.trim(txn, now)?;
            self.count(txn, &deltas)?;
            self.sweep(txn, &deltas)
        })
    }

    /// Takes out which of the entries are still where they were, and returns these as they are written.
    fn take_out(
        &self,
        txn: &mut RwTxn,
        book: Book,
        entries: &[Entry],
        deltas: &mut Deltas,
    ) -> Result<Vec<(u64, Vec<u8>)>, heed::Error> {
        let mut sorted: Vec<(Key, &Entry)> = entries
            .iter()
            .map(|entry| (Key::of(book, entry.id.as_str().as_bytes()), entry))
            .collect();
        sorted.sort_unstable_by_key(|(key, entry)| (*key, entry.seq_no));
        let keys: Vec<Key> = sorted.iter().map(|(key, _)| *key).collect();
        let mut taken = Vec::new();
        self.places.update(txn, &keys, usize::MAX, |at, before| {
            let entry = sorted[at].1;
            if before != Some(entry.seq_no) {
                return before;
            }
            let mut value = Vec::new();
            document::encode(&entry.id, entry.routing.as_deref(), &mut value);
            taken.push((entry.seq_no, value));
            deltas.of(book, entry.seq_no).alive -= 1;
            None
        })?;
        Ok(taken)
    }

    /// Enters again what was forgotten because of messages above a number, which the log has lost.
    /// Returns how many documents that were.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn take_back(&self, upto: u64) -> Result<usize, LedgerError> {
        let mut known = 0;
        self.write(|txn| {
            let mut deltas = Deltas::default();
            while let Some((key, row)) = self.newest_row(txn)? {
                let Some((_, book)) = trail::of_key(&key).filter(|(newest, _)| *newest > upto)
                else {
                    break;
                };
                for (seq_no, value) in &row.entries {
                    known += self.put_back(txn, book, *seq_no, value, &mut deltas)?;
                }
                self.trail.delete(txn, &key)?;
            }
            self.count(txn, &deltas)
        })?;
        Ok(known)
    }

    /// Enters one document again, unless it was created again since; returns how many that are.
    fn put_back(
        &self,
        txn: &mut RwTxn,
        book: Book,
        seq_no: u64,
        value: &[u8],
        deltas: &mut Deltas,
    ) -> Result<usize, heed::Error> {
        let Some((_, id)) = document::split(value) else {
            return Ok(0);
        };
        let mut known = 0;
        let key = Key::of(book, id);
        self.places.update(txn, &[key], 1, |_, before| {
            known = usize::from(before.is_none());
            before.or(Some(seq_no))
        })?;
        if known == 1 {
            deltas.of(book, seq_no).alive += 1;
            let standing = Standing { seq_no, value };
            self.rows.add(txn, &[(book, standing)], |book, seq_no| {
                deltas.of(book, seq_no).stored += 1;
            })?;
        }
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
}
