//! Changes that travel together.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use bytes::Bytes;

use crate::{Change, IndexName, Lineage, Operation, Tenant, Version};

/// Something a source yields about one index.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The index that all of it belongs to.
    pub index: IndexName,
    /// Where it was captured, and when.
    pub origin: Origin,
    /// What it says.
    pub content: Content,
}

/// What a batch says about its index.
#[derive(Debug, Clone)]
pub enum Content {
    /// These documents changed. A document occurs at most once. The list may be empty: then the
    /// batch only says that its source has come further without anything to tell.
    Changes(Vec<Change>),
    /// The index looks like this. Comes before its first document.
    Definition(IndexDefinition),
    /// Nothing that came before this in the log is there any more, up to and including this version.
    /// What comes after it in the log stays, even with this very version. A barrier: it takes effect
    /// when everything before it is settled, and before anything after it is written.
    Clear(Version),
    /// Everything of the index's history up to and including this version came before this in the log,
    /// whether or not there was anything. Who writes says so at the target when all of that is settled.
    Reached(Version),
    /// Changes as they travelled: a gateway passes on what it need not look into. Opened by
    /// [`crate::wire::open`].
    Sealed(Sealed),
}

/// The body of a whole message that nobody has read.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What all of its changes do.
    pub operation: Operation,
    /// How many there are, by the message's own account.
    pub count: usize,
    /// Whether the body is compressed with zstd.
    pub compressed: bool,
    /// The body.
    pub body: Bytes,
}

impl Batch {
    /// The changes; a definition has none, and sealed ones cannot be seen.
    pub fn changes(&self) -> &[Change] {
        match &self.content {
            Content::Changes(changes) => changes,
            Content::Definition(_)
            | Content::Clear(_)
            | Content::Reached(_)
            | Content::Sealed(_) => &[],
        }
    }

    /// Whether there is nothing to carry.
    pub fn is_empty(&self) -> bool {
        matches!(&self.content, Content::Changes(changes) if changes.is_empty())
    }

    /// Roughly what the batch occupies on its way, in bytes.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Changes(changes) => changes.iter().map(Change::size).sum(),
            Content::Definition(definition) => {
                definition.settings.get().len() + definition.mappings.get().len()
            }
            Content::Sealed(sealed) => sealed.body.len(),
            Content::Clear(_) | Content::Reached(_) => 0,
        }
    }
}

/// Where a batch comes from: for lag, for tracing, and never for deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The source and the part of it that has an order of its own, such as
    /// `elasticsearch/3kYGx…/0` for a shard.
    pub partition: Arc<str>,
    /// When the source was asked, in milliseconds since 1970. Every change in the batch is older.
    pub captured_ms: u64,
    /// The entry of another log that it was in before, where a gateway passes it on. Not on the wire.
    pub via: Option<Via>,
}

/// Where a gateway has a batch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// Whose changes they are: a gateway's input has those of many.
    pub tenant: Tenant,
    /// The entry, as the ids of the messages begin: its number and the rule set that was applied.
    pub entry: Arc<str>,
}

impl Origin {
    /// How long ago the source was asked, by this machine's clock.
    pub fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.captured_ms))
    }

    /// A batch of `partition` that is captured now.
    pub fn now(partition: Arc<str>) -> Origin {
        Origin {
            partition,
            captured_ms: now_ms(),
            via: None,
        }
    }
}

/// The time by this machine's clock, in milliseconds since 1970: for people, and to measure lag. Nothing
/// may be decided by comparing it with that of another machine.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// What it takes to create an index like the source's, as the source returned it. What of it the
/// target can take is the target's matter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexDefinition {
    /// The source's product and version, such as `elasticsearch 7.17.29`.
    pub product: String,
    /// The object under `settings.index` of `GET /{index}`.
    pub settings: Box<RawValue>,
    /// The object under `mappings` of `GET /{index}`.
    pub mappings: Box<RawValue>,
    /// The object under `aliases` of `GET /{index}`; absent where the source says nothing of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Box<RawValue>>,
    /// Where it comes from, if the source has such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}
