//! How far a reader has come: the entry below which everything is settled.

use std::collections::VecDeque;

/// Tracks which entries of a log are settled, and the floor that follows. Pure.
///
/// Entries are opened in rising order and may be settled in any order, each in several pieces. The
/// floor is the largest number up to which nothing is open; it never falls.
#[derive(Debug, Default)]
pub struct Floor {
    floor: u64,
    open: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    pieces: usize,
    bytes: usize,
}

impl Floor {
    /// Notes an entry that is settled after `pieces` calls of [`Floor::settle`]; one of no pieces is
    /// settled at once.
    ///
    /// # Panics
    /// When entries do not come in rising order: the log's contract is broken, and a floor computed
    /// from it could skip changes.
    pub fn open(&mut self, sequence: u64, pieces: usize, bytes: usize) {
        let newest = self.open.back().map_or(self.floor, |entry| entry.sequence);
        assert!(
            sequence > newest || (newest == 0 && self.open.is_empty()),
            "entry {sequence} of the log came after entry {newest}"
        );
        self.open.push_back(Entry {
            sequence,
            pieces,
            bytes,
        });
        self.bytes += bytes;
        self.advance();
    }

    /// Notes that one piece of an entry is settled.
    pub fn settle(&mut self, sequence: u64) {
        let found = self
            .open
            .binary_search_by_key(&sequence, |entry| entry.sequence);
        let Ok(at) = found else {
            debug_assert!(
                false,
                "entry {sequence} was settled more often than it has pieces"
            );
            return;
        };
        self.open[at].pieces = self.open[at].pieces.saturating_sub(1);
        self.advance();
    }

    /// The floor.
    pub fn get(&self) -> u64 {
        self.floor
    }

    /// The entries with a piece missing, the oldest first.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = u64> {
        let open = self.open.iter().filter(|entry| entry.pieces > 0);
        open.map(|entry| entry.sequence)
    }

    /// How many entries above the floor are known.
    pub fn entries(&self) -> usize {
        self.open.len()
    }

    /// Their size together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn advance(&mut self) {
        while let Some(entry) = self.open.pop_front_if(|entry| entry.pieces == 0) {
            self.floor = entry.sequence;
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: the floor is just below the first entry with a piece missing.
        #[test]
        fn the_floor_is_always_just_below_the_first_unsettled_entry(
            steps in proptest::collection::vec((1u64..4, 0usize..4, 0usize..100), 0..200),
        ) {
            let mut floor = Floor::default();
            let mut model: Vec<(u64, usize)> = Vec::new();
            let mut sequence = 0;
            for (gap, pieces, pick) in steps {
                sequence += gap;
                floor.open(sequence, pieces, 1);
                model.push((sequence, pieces));
                let open: Vec<usize> = (0..model.len()).filter(|i| model[*i].1 > 0).collect();
                if !open.is_empty() {
                    let at = open[pick % open.len()];
                    model[at].1 -= 1;
                    floor.settle(model[at].0);
                }
                let expected = model
                    .iter()
                    .take_while(|(_, pieces)| *pieces == 0)
                    .last()
                    .map_or(0, |(sequence, _)| *sequence);
                prop_assert_eq!(floor.get(), expected);
                prop_assert_eq!(floor.bytes(), floor.entries());
            }
        }
    }
}
