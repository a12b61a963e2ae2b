//! What a pass makes of the documents it reads: sums in buckets, or the documents' digests.

use std::sync::Arc;

use model::DocumentId;
use search::Hit;

use crate::{
    DigestError,
    buckets::{Buckets, Filter},
    digest::Digester,
    scan::Gather,
};

/// Sums in buckets. Its size does not depend on the number of documents.
pub(crate) struct Summary {
    filter: Arc<Filter>,
    digester: Digester,
    pub(crate) buckets: Buckets,
    pub(crate) documents: u64,
    /// The size of the documents' sources.
    pub(crate) bytes: u64,
}

impl Summary {
    pub(crate) fn new(filter: Arc<Filter>) -> Summary {
        Summary {
            buckets: Buckets::new(filter.level()),
            filter,
            digester: Digester::default(),
            documents: 0,
            bytes: 0,
        }
    }
}

impl Gather for Summary {
    fn add(&mut self, hit: Hit) -> Result<(), (String, DigestError)> {
        self.documents += 1;
        self.bytes += hit.source.len() as u64;
        if let Some(id_hash) = self.filter.accept(&hit.id) {
            let digest = self.digester.digest(&hit.source);
            let digest = digest.map_err(|error| (hit.id.to_string(), error))?;
            self.buckets.add(id_hash, hit.routing.as_deref(), digest);
        }
        Ok(())
    }

    fn merge(&mut self, other: Summary) {
        self.documents += other.documents;
        self.bytes += other.bytes;
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
    filter: Arc<Filter>,
    digester: Digester,
    pub(crate) entries: Vec<Entry>,
}

impl Entries {
    pub(crate) fn new(filter: Arc<Filter>) -> Entries {
        Entries {
            filter,
            digester: Digester::default(),
            entries: Vec::new(),
        }
    }
}

impl Gather for Entries {
    fn add(&mut self, hit: Hit) -> Result<(), (String, DigestError)> {
        if self.filter.accept(&hit.id).is_some() {
            let digest = self.digester.digest(&hit.source);
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
