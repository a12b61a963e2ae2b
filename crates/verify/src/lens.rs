//! Comparing with what stands between the two sides in view: a target that is filled through rules holds what
//! the rules make of the source.

use bytes::Bytes;
use model::{DocumentId, IndexDefinition};
use search::{Found, Hit};

/// A document of the source.
#[derive(Debug)]
pub struct Sight<'a> {
    /// Its id.
    pub id: &'a DocumentId,
    /// Its routing, if it has one.
    pub routing: Option<&'a str>,
    /// Whether it was never changed since it was created.
    pub is_created: bool,
    /// Its JSON.
    pub source: Bytes,
}

/// What the rules make of the source.
pub trait Lens: Send + Sync + std::fmt::Debug {
    /// The document as the target should have it; `None` where it should not. One on which the rules do not
    /// work is nothing that the target can have: a text that says so, which equals nothing.
    fn see(&self, document: Sight<'_>) -> Option<Bytes>;

    /// What the index should look like at the target.
    fn define(&self, definition: IndexDefinition) -> IndexDefinition;
}

/// What is seen of a document that was read; nothing where the target should not have it.
pub(crate) fn through(lens: Option<&dyn Lens>, hit: Hit) -> Option<Hit> {
    let Some(lens) = lens else { return Some(hit) };
    let sight = Sight {
        id: &hit.id,
        routing: hit.routing.as_deref(),
        is_created: hit.version == 1,
        source: hit.source.clone(),
    };
    let source = lens.see(sight)?;
    Some(Hit { source, ..hit })
}

/// The same for one that was looked up.
pub(crate) fn look_through(lens: Option<&dyn Lens>, id: &DocumentId, found: Found) -> Found {
    let Some(lens) = lens.filter(|_| found.found) else {
        return found;
    };
    let sight = Sight {
        id,
        routing: found.routing.as_deref(),
        is_created: found.version == Some(1),
        source: found.source.clone().unwrap_or_default(),
    };
    let source = lens.see(sight);
    Found {
        found: source.is_some(),
        source,
        ..found
    }
}
