//! What an earlier history left at the target.
//!
//! An index that was deleted and created again, or restored to an earlier state, has another history
//! under the same name. Documents of the old one that the new one lacks would stay at the target for
//! ever. So once all shards of the new one are read, every document of the old books that no new book
//! has is deleted, with a version between the two: above all of the old history, below all of the
//! new. It can therefore neither miss its document nor hit one that is written later.

use std::{collections::HashMap, sync::Arc};

use model::{Batch, Content, Epoch, IndexName, Origin, Version};
use pipeline::{Captured, Fault};
use tokio::sync::watch;

use super::Capture;
use crate::{
    checkpoint::Checkpoint,
    ledger::{self, Book, Gone, Ledger, LedgerError, Noted, Shelved},
};

/// The history of a shard that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) book: Book,
    pub(crate) epoch: Epoch,
}

/// The shards of an index that were read up to where they stood at the beginning.
pub(crate) type Read = HashMap<u32, Current>;

/// Closes old books for as long as an index is read.
pub(crate) async fn inherit(
    capture: Arc<Capture>,
    ledger: Ledger,
    index: IndexName,
    index_uuid: String,
    shards: u32,
    mut read: watch::Receiver<Read>,
) -> Result<(), Fault> {
    while read.changed().await.is_ok() {
        let current = read.borrow_and_update().clone();
        if current.len() < shards as usize {
            continue;
        }
        capture.stage.settled().await?;
        for old in ledger.shelf(&index).map_err(Fault::fatal)? {
            if current.values().any(|current| current.book == old.book) {
                continue;
            }
            match before(&current, &old, &index_uuid) {
                Some(version) => close(&capture, &ledger, &index, &current, &old, version).await?,
                None => tracing::error!(
                    %index, shard = old.shard,
                    "an earlier history of this shard has no earlier epoch: what it left at the target stays there"
                ),
            }
        }
    }
    Ok(())
}

/// A version above everything of the old history and below everything of the new. An old shard of
/// this very index is replaced by the shard of its number; one of an index before may have left its
/// documents to any.
fn before(current: &Read, old: &Shelved, index_uuid: &str) -> Option<Version> {
    let epoch = if old.index_uuid == index_uuid {
        current.get(&old.shard)?.epoch
    } else {
        current.values().map(|current| current.epoch).min()?
    };
    epoch.0.checked_sub(1).map(Epoch).map(Version::last_of)
}

async fn close(
    capture: &Capture,
    ledger: &Ledger,
    index: &IndexName,
    current: &Read,
    old: &Shelved,
    version: Version,
) -> Result<(), Fault> {
    let mut from = 0;
    loop {
        let entries = ledger
            .first_entries(old.book, from, ledger::TOGETHER)
            .map_err(Fault::fatal)?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        from = last.seq_no + 1;
        let mut deletes = Vec::new();
        for entry in &entries {
            let is_known = current
                .values()
                .map(|current| ledger.knows(current.book, &entry.id))
                .collect::<Result<Vec<bool>, LedgerError>>()
                .map_err(Fault::fatal)?
                .contains(&true);
            if !is_known {
                deletes.push(entry.delete(version));
            }
        }
        capture.observer.deleted(index, deletes.len(), None);
        let batch = Batch {
            index: index.clone(),
            origin: Origin::now(format!("elasticsearch/{}/{}", old.index_uuid, old.shard).into()),
            content: Content::Changes(deletes),
        };
        let gone = Gone {
            book: old.book,
            entries,
        };
        let position = Checkpoint {
            gone: Some(Arc::new(gone)),
            ticket: None,
            ..Checkpoint::none(index)
        };
        let captured = Captured {
            batch: Arc::new(batch),
            position,
        };
        capture.stage.put(Noted::Other(captured)).await?;
    }
}
