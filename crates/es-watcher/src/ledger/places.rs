//! Where each document stands: hash of its id -> sequence number.
//!
//! Hashes have no order, so a change of many documents touches as many places. LMDB copies a page for
//! each, and its headers around a single place weigh more than the place. So a row here holds some dozens
//! of neighbouring hashes, and many places change in one pass over the rows that they lie in.

use heed::{RoTxn, RwTxn};
use model::DocumentId;
use xxhash_rust::xxh3::xxh3_128;

use super::{Book, SEQ_NO, SEQ_NO_BITS, store::Table, word};

/// The most places of a row. Above it, a row is split.
const MOST: usize = 64;
/// How many places rows have that are filled at once: they have room for more.
const FILLED: usize = 48;
/// The bytes of a place.
const PLACE: usize = 16;

/// A document of a book: 64 bits that say where, and 20 more that tell apart whose 64 bits are equal.
///
/// Two documents of a billion have the same 84 bits once in some ten million ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    hash: u64,
    check: u32,
}

impl Key {
    /// Of the book and the id together: as a seed the book would do little to a short id, and two books
    /// would take each other's places.
    pub(super) fn of(book: Book, id: &[u8]) -> Key {
        let mut bytes = [0; 4 + DocumentId::MAX_BYTES];
        let length = id.len().min(DocumentId::MAX_BYTES);
        bytes[..4].copy_from_slice(&book.0.to_le_bytes());
        bytes[4..4 + length].copy_from_slice(&id[..length]);
        let hash = xxh3_128(&bytes[..4 + length]);
        Key {
            hash: hash as u64,
            check: (hash >> (64 + SEQ_NO_BITS)) as u32,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Place {
    key: Key,
    seq_no: u64,
}

impl Place {
    fn from_bytes(bytes: &[u8]) -> Place {
        let (hash, packed) = bytes.split_at(8);
        let packed = word(packed);
        Place {
            key: Key {
                hash: word(hash),
                check: (packed >> SEQ_NO_BITS) as u32,
            },
            seq_no: packed & SEQ_NO,
        }
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        let packed = u64::from(self.key.check) << SEQ_NO_BITS | self.seq_no;
        bytes.extend_from_slice(&self.key.hash.to_be_bytes());
        bytes.extend_from_slice(&packed.to_be_bytes());
    }
}

/// The table. A row's key is the lowest hash that belongs into it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places(Table);

impl Places {
    pub(super) fn new(table: Table) -> Places {
        Places(table)
    }

    /// The number at which a document stands.
    pub(super) fn get(&self, txn: &RoTxn, key: Key) -> Result<Option<u64>, heed::Error> {
        let row = self
            .0
            .get_lower_than_or_equal_to(txn, &key.hash.to_be_bytes())?;
        let places = row.map_or(&[][..], |(_, places)| places);
        let (mut low, mut high) = (0, places.len() / PLACE);
        while low < high {
            let middle = low.midpoint(high);
            let place = Place::from_bytes(&places[middle * PLACE..(middle + 1) * PLACE]);
            match place.key.cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Some(place.seq_no)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Changes the places of keys in ascending order, of which some may be equal, in at most so many
    /// rows. `change` gets the position of a key and where the document stands, and says where it
    /// stands from now on. Returns how many keys were seen to.
    pub(super) fn update(
        &self,
        txn: &mut RwTxn,
        keys: &[Key],
        most_rows: usize,
        mut change: impl FnMut(usize, Option<u64>) -> Option<u64>,
    ) -> Result<usize, heed::Error> {
        let mut done = 0;
        let mut merged = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..most_rows {
            let Some(first) = keys.get(done) else {
                break;
            };
            let row = self
                .0
                .get_lower_than_or_equal_to(txn, &first.hash.to_be_bytes())?;
            let (start, places) = row.map_or((0, &[][..]), |(start, places)| (word(start), places));
            let next = self.0.get_greater_than(txn, &first.hash.to_be_bytes())?;
            let next = next.map(|(start, _)| word(start));
            let rest = &keys[done..];
            let here = rest.partition_point(|key| next.is_none_or(|next| key.hash < next));
            merged.clear();
            merge(places, &rest[..here], &mut merged, |at, before| {
                change(done + at, before)
            });
            self.write(txn, start, &merged, &mut bytes)?;
            done += here;
        }
        Ok(done)
    }

    fn write(
        &self,
        txn: &mut RwTxn,
        start: u64,
        places: &[Place],
        bytes: &mut Vec<u8>,
    ) -> Result<(), heed::Error> {
        if places.is_empty() {
            return self.0.delete(txn, &start.to_be_bytes()).map(drop);
        }
        let rows = match places.len() {
            0..=MOST => 1,
            many => many.div_ceil(FILLED),
        };
        let (mut from, mut key) = (0, start);
        for row in 1..=rows {
            let mut to = places.len() * row / rows;
            // One hash lies in one row.
            while to < places.len() && places[to].key.hash == places[to - 1].key.hash {
                to += 1;
            }
            if to <= from {
                continue;
            }
            bytes.clear();
            places[from..to]
                .iter()
                .for_each(|place| place.append_to(bytes));
            self.0.put(txn, &key.to_be_bytes(), bytes)?;
            from = to;
            key = places.get(to).map_or(0, |place| place.key.hash);
        }
        Ok(())
    }
}

/// The places of a row and those of keys together, in order.
fn merge(
    row: &[u8],
    keys: &[Key],
    merged: &mut Vec<Place>,
    mut change: impl FnMut(usize, Option<u64>) -> Option<u64>,
) {
    let mut old = row.chunks_exact(PLACE).map(Place::from_bytes).peekable();
    for (at, &key) in keys.iter().enumerate() {
        while let Some(place) = old.next_if(|place| place.key < key) {
            merged.push(place);
        }
        // The one before may have been of the same document.
        let before = old
            .next_if(|place| place.key == key)
            .or_else(|| merged.pop_if(|place| place.key == key));
        if let Some(seq_no) = change(at, before.map(|place| place.seq_no)) {
            merged.push(Place { key, seq_no });
        }
    }
    merged.extend(old);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use heed::EnvFlags;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map, with so few rows in a commit that there are several commits, and so many places
        /// that rows are split; some hashes are those of several documents.
        #[test]
        fn places_are_those_that_were_put_last_however_many_commits_it_takes(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0u64..150, 0u32..2, proptest::option::of(0u64..99)), 0..200), 1..8),
            rows_at_once in 1usize..4,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let env = crate::lmdb::open(folder.path(), EnvFlags::NO_SYNC, |_| Ok(())).unwrap();
            let mut txn = env.write_txn().unwrap();
            let places = Places::new(env.create_database(&mut txn, Some("places")).unwrap());
            let mut model = BTreeMap::new();
            for round in rounds {
                let mut round: Vec<(Key, Option<u64>)> = round
                    .into_iter()
                    .map(|(hash, check, to)| (Key { hash: hash << 40, check }, to))
                    .collect();
                round.sort_by_key(|(key, _)| *key);
                let keys: Vec<Key> = round.iter().map(|(key, _)| *key).collect();
                let mut done = 0;
                while done < keys.len() {
                    let begun = done;
                    let seen = places.update(&mut txn, &keys[begun..], rows_at_once, |at, before| {
                        let (key, to) = round[begun + at];
                        assert_eq!(before, model.get(&key).copied());
                        match to {
                            Some(to) => drop(model.insert(key, to)),
                            None => drop(model.remove(&key)),
                        }
                        to
                    });
                    done += seen.unwrap();
                }
            }
            for (hash, check) in (0..150).flat_map(|hash| [(hash << 40, 0), (hash << 40, 1)]) {
                let key = Key { hash, check };
                prop_assert_eq!(places.get(&txn, key).unwrap(), model.get(&key).copied());
            }
        }
    }
}
