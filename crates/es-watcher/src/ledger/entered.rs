//! Documents that are in the journal, and not in the tables yet.

use std::{collections::HashMap, ops::Range};

use model::Change;

use super::{Book, document, places::Key, rows::Standing};

/// How many documents are put into the tables at once. More cost less each, and more memory: about a
/// hundred bytes a document.
const MOST: usize = 65_536;
/// How many bytes of ids and routings, where they are long.
const MOST_BYTES: usize = 8 << 20;

/// What was read of a shard in one go.
pub(super) struct Page<'a> {
    pub(super) book: Book,
    pub(super) title: &'a str,
    pub(super) changes: &'a [Change],
    /// Up to where the book is filled with it.
    pub(super) upto: i64,
}

/// A document that was entered.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) key: Key,
    pub(super) book: Book,
    pub(super) seq_no: u64,
    value: Range<usize>,
}

/// What was entered since the tables were written.
#[derive(Debug, Default)]
pub(super) struct Entered {
    documents: Vec<Document>,
    values: Vec<u8>,
    /// Book -> its title, and up to where it is filled.
    filled: HashMap<Book, (Box<str>, i64)>,
}

impl Entered {
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.filled.is_empty()
    }

    /// Whether it is time to write the tables.
    pub(super) fn is_full(&self) -> bool {
        self.documents.len() >= MOST || self.values.len() >= MOST_BYTES
    }

    /// Up to where books are filled.
    pub(super) fn filled(&self) -> impl Iterator<Item = (&str, Book, i64)> {
        let filled = self.filled.iter();
        filled.map(|(book, (title, upto))| (&**title, *book, *upto))
    }

    /// In the order of their places; of one document, the oldest first.
    pub(super) fn by_place(&self) -> Vec<&Document> {
        let mut documents: Vec<&Document> = self.documents.iter().collect();
        documents.sort_unstable_by_key(|document| (document.key, document.seq_no));
        documents
    }

    /// In the order of their numbers.
    pub(super) fn by_number(&self) -> Vec<(Book, Standing<'_>)> {
        let standing = self.documents.iter().map(|document| {
            let standing = Standing {
                seq_no: document.seq_no,
                value: &self.values[document.value.clone()],
            };
            (document.book, standing)
        });
        let mut standing: Vec<_> = standing.collect();
        standing.sort_unstable_by_key(|(book, standing)| (book.0, standing.seq_no));
        standing
    }

    /// The newest number of a document, and its value.
    pub(super) fn newest(&self, key: Key) -> Option<(u64, &[u8])> {
        let all = self.documents.iter().filter(|document| document.key == key);
        let newest = all.max_by_key(|document| document.seq_no)?;
        Some((newest.seq_no, &self.values[newest.value.clone()]))
    }

    pub(super) fn clear(&mut self) {
        self.documents.clear();
        self.values.clear();
        self.filled.clear();
    }

    /// Adds what [`record`] has written; `None` if it makes no sense.
    pub(super) fn add(&mut self, mut record: &[u8]) -> Option<()> {
        while !record.is_empty() {
            record = self.add_page(record)?;
        }
        Some(())
    }

    fn add_page<'a>(&mut self, page: &'a [u8]) -> Option<&'a [u8]> {
        let (book, rest) = page.split_first_chunk::<4>()?;
        let (upto, rest) = rest.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (title, mut rest) = sized(rest)?;
        let book = Book(u32::from_be_bytes(*book));
        let upto = i64::from_be_bytes(*upto);
        for _ in 0..u32::from_be_bytes(*count) {
            let (seq_no, after) = rest.split_first_chunk::<8>()?;
            let (value, after) = sized(after)?;
            let (_, id) = document::split(value)?;
            let start = self.values.len();
            self.values.extend_from_slice(value);
            self.documents.push(Document {
                key: Key::of(book, id),
                book,
                seq_no: u64::from_be_bytes(*seq_no),
                value: start..self.values.len(),
            });
            rest = after;
        }
        let title = std::str::from_utf8(title).ok()?;
        let filled = self.filled.entry(book);
        let filled = filled.or_insert_with(|| (title.into(), upto));
        filled.1 = filled.1.max(upto); // something may be read again
        Some(rest)
    }
}

/// Pages, as they are appended to the journal.
pub(super) fn record(pages: &[Page<'_>]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut value = Vec::new();
    for page in pages {
        record.extend_from_slice(&page.book.0.to_be_bytes());
        record.extend_from_slice(&page.upto.to_be_bytes());
        record.extend_from_slice(&(page.changes.len() as u32).to_be_bytes());
        append_sized(page.title.as_bytes(), &mut record);
        for change in page.changes {
            value.clear();
            document::encode(&change.id, change.routing.as_deref(), &mut value);
            record.extend_from_slice(&change.version.position().to_be_bytes());
            append_sized(&value, &mut record);
        }
    }
    record
}

fn append_sized(value: &[u8], record: &mut Vec<u8>) {
    record.extend_from_slice(&(value.len() as u16).to_be_bytes());
    record.extend_from_slice(value);
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
