//! Which documents have stood at a number: what to look up when a block of numbers differs.
//!
//! A document that moves to another number, or is forgotten, is not looked for here: that would touch a
//! page for each. It stays, and whoever reads asks [`super::places`] whether it still stands there. When
//! less than half of what a block holds is alive, the block is swept.

use std::ops::RangeInclusive;

use heed::{RoTxn, RwTxn};

use super::{Book, key_of, number_of, store::Table};

/// Numbers of a row, as a power of two. A row of ids of twenty characters is then small enough to share
/// its page with others, and its own header weighs little.
const ROW_BITS: u32 = 5;
/// The bytes before a value: its number within the row, and its length.
const HEADER: usize = 3;

/// A value at a number: see [`super::document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub(super) seq_no: u64,
    pub(super) value: &'a [u8],
}

/// The table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows(Table);

impl Rows {
    pub(super) fn new(table: Table) -> Rows {
        Rows(table)
    }

    /// Adds values, lowest book and number first, and says for each that was not there.
    pub(super) fn add<'a>(
        &self,
        txn: &mut RwTxn,
        values: &[(Book, Standing<'a>)],
        mut added: impl FnMut(Book, u64),
    ) -> Result<(), heed::Error> {
        let row_of = |(book, standing): &(Book, Standing<'a>)| (*book, standing.seq_no >> ROW_BITS);
        let mut bytes = Vec::new();
        for together in values.chunk_by(|one, other| row_of(one) == row_of(other)) {
            let (book, row) = row_of(&together[0]);
            let key = key_of(book, row);
            bytes.clear();
            bytes.extend_from_slice(self.0.get(txn, &key)?.unwrap_or_default());
            let there = bytes.len();
            for (_, standing) in together {
                let is_new = items(row, &bytes).all(|item| item != *standing);
                if is_new {
                    append(standing, &mut bytes);
                    added(book, standing.seq_no);
                }
            }
            if bytes.len() > there {
                self.0.put(txn, &key, &bytes)?;
            }
        }
        Ok(())
    }

    /// Sees to every value at a range of numbers, lowest row first, until it is told to stop.
    pub(super) fn each(
        &self,
        txn: &RoTxn,
        book: Book,
        numbers: RangeInclusive<u64>,
        mut see: impl FnMut(Standing<'_>) -> Result<bool, heed::Error>,
    ) -> Result<(), heed::Error> {
        let first = key_of(book, *numbers.start() >> ROW_BITS);
        let last = key_of(book, *numbers.end() >> ROW_BITS);
        let range = (
            std::ops::Bound::Included(first.as_slice()),
            std::ops::Bound::Included(last.as_slice()),
        );
        for row in self.0.range(txn, &range)? {
            let (key, bytes) = row?;
            let mut standing: Vec<Standing<'_>> = items(number_of(key), bytes)
                .filter(|standing| numbers.contains(&standing.seq_no))
                .collect();
            standing.sort_by_key(|standing| standing.seq_no);
            for standing in standing {
                if !see(standing)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Keeps of a range of whole rows what still has its place, and returns how much that is.
    pub(super) fn sweep(
        &self,
        txn: &mut RwTxn,
        book: Book,
        numbers: RangeInclusive<u64>,
        mut stands: impl FnMut(&RoTxn, Standing<'_>) -> Result<bool, heed::Error>,
    ) -> Result<u32, heed::Error> {
        let mut kept = 0;
        for row in *numbers.start() >> ROW_BITS..=*numbers.end() >> ROW_BITS {
            let key = key_of(book, row);
            let Some(before) = self.0.get(txn, &key)?.map(<[u8]>::to_vec) else {
                continue;
            };
            let mut left = Vec::new();
            for standing in items(row, &before) {
                if stands(txn, standing)? {
                    append(&standing, &mut left);
                    kept += 1;
                }
            }
            match left.len() {
                0 => self.0.delete(txn, &key).map(drop)?,
                length if length == before.len() => {}
                _ => self.0.put(txn, &key, &left)?,
            }
        }
        Ok(kept)
    }
}

fn append(standing: &Standing<'_>, bytes: &mut Vec<u8>) {
    bytes.push((standing.seq_no & ((1 << ROW_BITS) - 1)) as u8);
    bytes.extend_from_slice(&(standing.value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(standing.value);
}

/// The values of a row. What is cut off is not there.
fn items(row: u64, mut bytes: &[u8]) -> impl Iterator<Item = Standing<'_>> {
    std::iter::from_fn(move || {
        let (&[at, high, low], rest) = bytes.split_first_chunk::<HEADER>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        bytes = rest;
        Some(Standing {
            seq_no: row << ROW_BITS | u64::from(at),
            value,
        })
    })
}
