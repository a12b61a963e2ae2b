//! What a comparison asks the ledger.

use std::ops::RangeInclusive;

use model::{DocumentId, IndexName};

use super::{
    Book, Counts, Entry, Ledger, LedgerError, Opened, SEQ_NO, Shelved, blocks::Block, document,
    key_of, number_of, places::Key,
};

impl Ledger {
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
                let block = Block::from_bytes(value);
                if block.alive > 0 {
                    counts.push((number_of(key), block.alive));
                }
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
        let mut entries: Vec<Entry> = Vec::new();
        let mut is_whole = true;
        self.read(|txn| {
            self.rows.each(txn, book, numbers, |standing| {
                let is_enough = entries.len() >= most;
                if is_enough
                    && entries
                        .last()
                        .is_some_and(|last| last.seq_no != standing.seq_no)
                {
                    return Ok(false);
                }
                if self.stands(txn, book, standing)? {
                    match document::decode(standing.seq_no, standing.value) {
                        Some(entry) => entries.push(entry),
                        None => is_whole = false,
                    }
                }
                Ok(true)
            })
        })?;
        match is_whole {
            true => Ok(entries),
            false => Err(self.damaged("an entry makes no sense")),
        }
    }

    /// At least `most` entries from a sequence number on, if there are so many, lowest first and all of a
    /// number together.
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
        let key = Key::of(book, id.as_str().as_bytes());
        self.read(|txn| Ok(self.places.get(txn, key)?.is_some()))
    }

    /// Whether the document is still where the entry says.
    pub(crate) fn has(&self, book: Book, entry: &Entry) -> Result<bool, LedgerError> {
        let key = Key::of(book, entry.id.as_str().as_bytes());
        self.read(|txn| Ok(self.places.get(txn, key)? == Some(entry.seq_no)))
    }
}
