//! What a pass makes of what it reads: sums in buckets, or the documents' digests.

use std::sync::Arc;

use model::DocumentId;
use search::{Hit, Numbers};
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::{
    By, DigestError, Side,
    buckets::{Buckets, Filter},
    digest::Digester,
    rule::{Key, Rule, Versions, number, position},
    scan::{Gather, Reading},
};

/// How a pass takes documents: by the rule of the comparison, and which of them.
#[derive(Debug, Clone)]
pub(crate) struct Taking {
    pub(crate) side: Side,
    pub(crate) rule: Rule,
    pub(crate) filter: Arc<Filter>,
}

impl Taking {
    fn reading(&self) -> Reading {
        match (self.rule.by, self.rule.key) {
            (By::Content, _) => Reading::Documents,
            (By::Version, Key::Id) => Reading::Headers,
            (By::Version, Key::Position) => Reading::Numbers,
        }
    }

    /// The hash of the key of a document that is meant.
    fn accept(&self, hit: &Hit) -> Option<u128> {
        let hash = match self.rule.key {
            Key::Id => xxh3_128(hit.id.as_str().as_bytes()),
            Key::Position => hash_of(number(self.side, hit.seq_no, hit.version)),
        };
        self.filter.accept(hash).then_some(hash)
    }

    fn accept_numbers(&self, numbers: Numbers) -> Option<u128> {
        let hash = hash_of(number(self.side, numbers.seq_no, numbers.version));
        self.filter.accept(hash).then_some(hash)
    }
}

/// By the position alone, so that a document falls into the same bucket whatever its epoch.
fn hash_of(number: u64) -> u128 {
    xxh3_128(&position(number).to_le_bytes())
}

/// Sums in buckets. Its size does not depend on the number of documents.
pub(crate) struct Summary {
    taking: Taking,
    digester: Digester,
    pub(crate) buckets: Buckets,
    pub(crate) documents: u64,
    /// The size of the documents' sources.
    pub(crate) bytes: u64,
    pub(crate) versions: Versions,
}

impl Summary {
    pub(crate) fn new(taking: Taking) -> Summary {
        Summary {
            buckets: Buckets::new(taking.filter.level()),
            taking,
            digester: Digester::default(),
            documents: 0,
            bytes: 0,
            versions: Versions::default(),
        }
    }
}

impl Gather for Summary {
    fn reading(&self) -> Reading {
        self.taking.reading()
    }

    fn wants(&self, _: Numbers) -> bool {
        false
    }

    fn count(&mut self, shard: u32, numbers: Numbers) {
        self.documents += 1;
        self.versions.add(numbers.version);
        if let Some(hash) = self.taking.accept_numbers(numbers) {
            let side = self.taking.side;
            let number = number(side, numbers.seq_no, numbers.version);
            let stamp = self.taking.rule.stamp(side, number);
            self.buckets.add(hash, shard.into(), stamp.into());
        }
    }

    fn add(&mut self, hit: Hit) -> Result<(), (String, DigestError)> {
        self.documents += 1;
        self.bytes += hit.source.len() as u64;
        self.versions.add(hit.version);
        if let Some(hash) = self.taking.accept(&hit) {
            let Taking { side, rule, .. } = self.taking;
            let digest = rule.digest(side, &hit, &mut self.digester);
            let digest = digest.map_err(|error| (hit.id.to_string(), error))?;
            // No routing and an empty one are not the same.
            let routing = hit.routing.as_deref();
            let place = routing.map_or(0, |routing| xxh3_128_with_seed(routing.as_bytes(), 1));
            self.buckets.add(hash, place, digest);
        }
        Ok(())
    }

    fn merge(&mut self, other: Summary) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.versions.merge(&other.versions);
        self.buckets.merge(&other.buckets);
    }
}

/// A document in a bucket that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) id: DocumentId,
    pub(crate) routing: Option<Box<str>>,
    pub(crate) digest: u128,
    /// The size of its source.
    pub(crate) bytes: usize,
}

/// The documents that a filter lets through: no more than the summary counted for it, because both
/// passes read up to the same numbers.
pub(crate) struct Entries {
    taking: Taking,
    digester: Digester,
    pub(crate) entries: Vec<Entry>,
}

impl Entries {
    pub(crate) fn new(taking: Taking) -> Entries {
        Entries {
            taking,
            digester: Digester::default(),
            entries: Vec::new(),
        }
    }
}

impl Gather for Entries {
    fn reading(&self) -> Reading {
        self.taking.reading()
    }

    fn wants(&self, numbers: Numbers) -> bool {
        self.taking.accept_numbers(numbers).is_some()
    }

    fn count(&mut self, _: u32, _: Numbers) {}

    fn add(&mut self, hit: Hit) -> Result<(), (String, DigestError)> {
        if self.taking.accept(&hit).is_some() {
            let Taking { side, rule, .. } = self.taking;
            let digest = rule.digest(side, &hit, &mut self.digester);
            self.entries.push(Entry {
                digest: digest.map_err(|error| (hit.id.to_string(), error))?,
                id: hit.id,
                routing: hit.routing,
                bytes: hit.source.len(),
            });
        }
        Ok(())
    }

    fn merge(&mut self, mut other: Entries) {
        self.entries.append(&mut other.entries);
    }
}
