//! Comparing what is alive in a shard with what the ledger knows of it.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
};

use search::{Error, MOST_BUCKETS, MgetOptions, ShardCopy};

use super::{Capture, stop::Stop};
use crate::ledger::{BLOCK, Book, Counts, Entry, Ledger, block_of, numbers_of};

/// The most documents that are suspected at once; what is beyond waits for the next count.
const MOST_SUSPECTS: usize = 20_000;
/// How many documents are read together: what a server returns at once.
const READ_AT_ONCE: u64 = 10_000;
/// How many blocks are asked for together: servers take 1,024 clauses in a query.
const BLOCKS_AT_ONCE: usize = 500;
/// How many of a shard's newest documents are compared in order to recognise it.
const RECOGNISED_BY: u64 = 1000;
/// How many documents are looked up together.
const ASK_AT_ONCE: usize = 1000;

/// What a count has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Entries of the ledger that no document stands for.
    pub(crate) suspects: Vec<Entry>,
    /// Whether there are more of them.
    pub(crate) more: bool,
    /// Blocks with more documents than the ledger knows. This should not be.
    pub(crate) unknown: Vec<u64>,
}

/// Compares one copy with a book of the ledger, both up to a sequence number.
pub(crate) struct Comparison<'a> {
    pub(crate) capture: &'a Capture,
    pub(crate) ledger: &'a Ledger,
    pub(crate) book: Book,
    pub(crate) copy: ShardCopy<'a>,
    pub(crate) upto: u64,
}

impl Comparison<'_> {
    /// Finds what is missing, without the entries in `known`.
    pub(crate) async fn find(&self, known: &mut HashSet<Entry>) -> Result<Found, Stop> {
        let mut kept = HashSet::with_capacity(known.len());
        for entry in known.drain() {
            if self.ledger.has(self.book, &entry)? {
                kept.insert(entry);
            }
        }
        *known = kept;
        let last = block_of(self.upto);
        let counted = self.ledger.counts(self.book, 0..=last)?;
        let (fewer, unknown) = differing(&counted, last, MOST_BUCKETS / 2, self).await?;
        let mut found = Found {
            unknown,
            ..Found::default()
        };
        let mut rest = fewer.as_slice();
        while !rest.is_empty() {
            if found.suspects.len() >= MOST_SUSPECTS {
                found.more = true;
                break;
            }
            let (blocks, after) = rest.split_at(readable_together(rest, &counted));
            rest = after;
            let ranges: Vec<_> = blocks.iter().map(|block| self.numbers(*block)).collect();
            let live = self
                .search(|client| client.live_numbers(self.copy, &ranges, READ_AT_ONCE))
                .await?;
            for range in ranges {
                let missing = missing(self.ledger.entries(self.book, range)?, &live);
                let suspects = missing.filter(|entry| !known.contains(entry));
                found.suspects.extend(suspects);
            }
        }
        Ok(found)
    }

    /// Whether the newest of what the copy holds is what the ledger has at those numbers. It is not
    /// when the shard was taken back to an earlier state and numbers were given again since.
    pub(crate) async fn recognises(&self) -> Result<bool, Stop> {
        // Where nothing was read there may be nothing to sort by.
        if self.ledger.first_entries(self.book, 0, 1)?.is_empty() {
            return Ok(true);
        }
        let newest = self
            .search(|client| client.newest_documents(self.copy, self.upto, RECOGNISED_BY))
            .await?;
        for (seq_no, id) in newest {
            let entry = Entry {
                seq_no,
                id,
                routing: None,
            };
            if !self.ledger.has(self.book, &entry)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of those suspects that are still where the ledger says: which does the copy not have?
    pub(crate) async fn gone(&self, suspects: Vec<Entry>) -> Result<Vec<Entry>, Stop> {
        let mut gone = Vec::new();
        for some in suspects.chunks(ASK_AT_ONCE) {
            let mut asked = Vec::with_capacity(some.len());
            for entry in some {
                if self.ledger.has(self.book, entry)? {
                    asked.push(entry);
                }
            }
            let ids: Vec<_> = asked
                .iter()
                .map(|entry| (&entry.id, entry.routing.as_deref()))
                .collect();
            let options = MgetOptions {
                source: false,
                node: Some(self.copy.node),
                ..MgetOptions::default()
            };
            let answers = self
                .search(|client| client.mget(self.copy.index, &ids, options))
                .await?;
            for (entry, answer) in asked.into_iter().zip(answers) {
                match answer.seq_no.filter(|_| answer.found) {
                    // An earlier version has come back.
                    Some(seq_no) if seq_no < entry.seq_no => return Err(Stop::TakenBack),
                    _ if answer.found => {}
                    _ => gone.push(entry.clone()),
                }
            }
        }
        Ok(gone)
    }

    /// The numbers of a block that are compared.
    fn numbers(&self, block: u64) -> RangeInclusive<u64> {
        let numbers = numbers_of(block);
        *numbers.start()..=(*numbers.end()).min(self.upto)
    }

    async fn search<'s, T, F>(
        &'s self,
        search: impl FnOnce(&'s search::Client) -> F,
    ) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let _permit = self.capture.searches.acquire().await;
        let begun = std::time::Instant::now();
        let answer = search(&self.capture.client).await;
        self.capture.cost.add(begun.elapsed());
        Ok(answer?)
    }
}

/// How many of the blocks can be read together. Fewer documents are alive in them than were known when they
/// were counted, and they become no more: what is written has a new number.
fn readable_together(blocks: &[u64], counted: &[(u64, u32)]) -> usize {
    let documents = |block| {
        let found = counted.binary_search_by_key(&block, |(block, _)| *block);
        found.map_or(0, |at| u64::from(counted[at].1))
    };
    let sums = blocks.iter().take(BLOCKS_AT_ONCE).scan(0, |sum, block| {
        *sum += documents(*block);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= READ_AT_ONCE).count().max(1)
}

/// The entries that no document stands for, by the numbers of those that are alive, lowest first. Where
/// some of those that share a number are missing, all of them are suspected.
fn missing<'a>(entries: Vec<Entry>, live: &'a [u64]) -> impl Iterator<Item = Entry> + 'a {
    let mut known: HashMap<u64, usize> = HashMap::new();
    for entry in &entries {
        *known.entry(entry.seq_no).or_default() += 1;
    }
    entries.into_iter().filter(move |entry| {
        let first = live.partition_point(|number| *number < entry.seq_no);
        let end = live.partition_point(|number| *number <= entry.seq_no);
        end - first < known[&entry.seq_no]
    })
}

/// What can be counted.
trait Counter {
    type Error;

    /// How many documents are alive in each group of so many blocks of a range, lowest first; the
    /// range begins with a group.
    fn count(
        &self,
        blocks: RangeInclusive<u64>,
        together: u64,
    ) -> impl Future<Output = Result<Counts, Self::Error>> + Send;
}

impl Counter for Comparison<'_> {
    type Error = Stop;

    async fn count(&self, blocks: RangeInclusive<u64>, together: u64) -> Result<Counts, Stop> {
        let numbers = *numbers_of(*blocks.start()).start()..=*self.numbers(*blocks.end()).end();
        let size = BLOCK * together;
        self.search(|client| client.count_blocks(self.copy, &numbers, size))
            .await
    }
}

/// The blocks up to `last` with fewer live documents than entries, and those with more. Where there are
/// more than `most` of them, they are counted in groups first, and only groups that differ block by
/// block.
async fn differing<C: Counter>(
    known: &[(u64, u32)],
    last: u64,
    most: u64,
    shard: &C,
) -> Result<(Vec<u64>, Vec<u64>), C::Error> {
    let together = (last + 1).div_ceil(most).next_power_of_two();
    let live = shard.count(0..=last, together).await?;
    if together == 1 {
        return Ok(compare(known, &live));
    }
    let (mut groups, more) = compare(&in_groups(known, together), &live);
    groups.extend(more);
    groups.sort_unstable();
    let (mut all_fewer, mut all_more) = (Vec::new(), Vec::new());
    for group in groups {
        let blocks = group * together..=(group * together + together - 1).min(last);
        let live = shard.count(blocks.clone(), 1).await?;
        let first = known.partition_point(|(block, _)| block < blocks.start());
        let end = known.partition_point(|(block, _)| block <= blocks.end());
        let (fewer, more) = compare(&known[first..end], &live);
        all_fewer.extend(fewer);
        all_more.extend(more);
    }
    Ok((all_fewer, all_more))
}

/// The blocks where fewer are alive than known, and those where more are. Both lists are sorted, and
/// a block that is absent has none.
fn compare(known: &[(u64, u32)], live: &[(u64, u32)]) -> (Vec<u64>, Vec<u64>) {
    let (mut fewer, mut more) = (Vec::new(), Vec::new());
    let (mut known, mut live) = (known.iter().peekable(), live.iter().peekable());
    loop {
        let block = match (known.peek(), live.peek()) {
            (None, None) => return (fewer, more),
            (Some((block, _)), None) | (None, Some((block, _))) => *block,
            (Some((known, _)), Some((live, _))) => *known.min(live),
        };
        let of = |counts: &mut std::iter::Peekable<std::slice::Iter<'_, (u64, u32)>>| {
            counts
                .next_if(|(at, _)| *at == block)
                .map_or(0, |(_, count)| *count)
        };
        match (of(&mut known), of(&mut live)) {
            (known, live) if live < known => fewer.push(block),
            (known, live) if live > known => more.push(block),
            _ => {}
        }
    }
}

/// Counts of so many blocks together.
fn in_groups(counts: &[(u64, u32)], together: u64) -> Counts {
    let mut groups: Counts = Vec::new();
    for (block, count) in counts {
        let group = block / together;
        match groups.last_mut() {
            Some((last, sum)) if *last == group => *sum += count,
            _ => groups.push((group, *count)),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    struct Alive(BTreeMap<u64, u32>);

    impl Counter for Alive {
        type Error = Infallible;

        async fn count(
            &self,
            blocks: RangeInclusive<u64>,
            together: u64,
        ) -> Result<Counts, Infallible> {
            let some = self.0.range(blocks).filter(|(_, count)| **count > 0);
            let some: Counts = some.map(|(block, count)| (*block, *count)).collect();
            Ok(in_groups(&some, together))
        }
    }

    proptest! {
        /// Counting in groups first finds what counting block by block finds.
        #[test]
        fn a_coarse_count_hides_nothing(
            blocks in proptest::collection::btree_map(0u64..300, (1u32..9, 0u32..9), 0..200),
            most in 1u64..400,
        ) {
            let known: Counts = blocks.iter().map(|(block, (known, _))| (*block, *known)).collect();
            let live: BTreeMap<u64, u32> = blocks
                .iter()
                .map(|(block, (known, missing))| (*block, known.saturating_sub(*missing)))
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let found = runtime.block_on(differing(&known, 299, most, &Alive(live.clone()))).unwrap();
            let expected: Vec<u64> = known
                .iter()
                .filter(|(block, known)| live[block] < *known)
                .map(|(block, _)| *block)
                .collect();
            prop_assert_eq!(found, (expected, vec![]));
        }
    }

    #[test]
    fn no_more_is_read_together_than_a_server_returns() {
        let plain: Counts = (0..100).map(|block| (block, 256)).collect();
        let blocks: Vec<u64> = (10..100).collect();
        assert_eq!(readable_together(&blocks, &plain), 39);
        assert_eq!(readable_together(&blocks[..5], &plain), 5);
        let shrunk = [(3, 1), (4, 6000), (5, 3000), (6, 1000), (7, 50_000)];
        assert_eq!(readable_together(&[3, 4, 5, 6], &shrunk), 3);
        assert_eq!(readable_together(&[7, 8], &shrunk), 1);
        // Of most of a busy shard's old blocks little is left.
        let sparse: Counts = (0..1000).map(|block| (block, 3)).collect();
        let blocks: Vec<u64> = (0..1000).collect();
        assert_eq!(readable_together(&blocks, &sparse), BLOCKS_AT_ONCE);
    }

    #[test]
    fn all_that_share_a_number_are_suspected_when_one_of_them_is_missing() {
        let entry = |seq_no: u64, id: &str| Entry {
            seq_no,
            id: id.try_into().unwrap(),
            routing: None,
        };
        let entries = [(1, "a"), (2, "b"), (2, "c"), (2, "d"), (3, "e"), (3, "f")];
        let entries = entries.map(|(seq_no, id)| entry(seq_no, id)).to_vec();
        let suspects = |live: &[u64]| -> String {
            let missing = missing(entries.clone(), live);
            missing.map(|entry| entry.id.to_string()).collect()
        };
        assert_eq!(suspects(&[1, 2, 2, 2, 3, 3]), "");
        assert_eq!(suspects(&[1, 2, 2, 3, 3]), "bcd");
        assert_eq!(suspects(&[2, 2, 2, 9]), "aef");
        assert_eq!(suspects(&[]), "abcdef");
    }

    #[test]
    fn blocks_are_compared_also_where_one_side_has_none() {
        let known = [(0, 5), (1, 3), (4, 2), (9, 1)];
        let live = [(0, 5), (1, 4), (3, 1), (4, 1)];
        assert_eq!(compare(&known, &live), (vec![4, 9], vec![1, 3]));
        assert_eq!(compare(&[], &[]), (vec![], vec![]));
        assert_eq!(in_groups(&known, 4), [(0, 8), (1, 2), (2, 1)]);
    }
}
