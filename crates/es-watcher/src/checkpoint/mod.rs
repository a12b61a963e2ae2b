//! What a watcher must not forget: how far each shard was published, and under which epoch.

mod disk;
mod trail;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bus::Stored;
use model::{Epoch, Generation, IndexName, Lineage, VersionError};
use serde::{Deserialize, Serialize};

use crate::{ledger::Gone, resync::Ticket};

use disk::{seal, unseal};

pub use disk::{DiskStore, Owner};
pub(crate) use trail::KEPT;

/// A shard of an index, by the index's name: what stays the same when the index is recreated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShardKey {
    /// The index.
    pub index: IndexName,
    /// The shard's number.
    pub shard: u32,
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.index, self.shard)
    }
}

/// Which history of a shard a position belongs to. A recreated or restored shard counts its
/// sequence numbers from the beginning again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The index's UUID.
    pub index_uuid: String,
    /// The shard's history UUID.
    pub history_uuid: String,
}

impl History {
    /// It alone as a lineage, without the source's name.
    pub(crate) fn at(&self, shard: &ShardKey, epoch: Epoch) -> Lineage {
        let generation = Generation {
            index: self.index_uuid.clone(),
            shard: shard.shard,
            epoch,
        };
        let mut lineage = Lineage::default();
        lineage
            .histories
            .insert(self.history_uuid.clone(), generation);
        lineage
    }
}

/// A position of a shard that is durable downstream.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The shard.
    pub shard: Arc<ShardKey>,
    /// The epoch of the history the position belongs to.
    pub epoch: Epoch,
    /// Everything up to this sequence number is published; -1 is nothing.
    pub position: i64,
    /// Deletes that are published with it.
    pub(crate) gone: Option<Arc<Gone>>,
    /// What is answered with it.
    pub(crate) ticket: Option<Arc<Ticket>>,
}

impl Checkpoint {
    /// A position that says nothing: it comes with what belongs to no shard.
    pub(crate) fn none(index: &IndexName) -> Checkpoint {
        let shard = Arc::new(ShardKey {
            index: index.clone(),
            shard: 0,
        });
        Checkpoint {
            shard,
            epoch: Epoch(0),
            position: -1,
            gone: None,
            ticket: None,
        }
    }
}

/// What is stored for a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    history: History,
    epoch: Epoch,
    position: i64,
}

/// A position that moves on.
struct Step {
    shard: ShardKey,
    record: Record,
    /// Where it was.
    before: i64,
}

/// Where checkpoints are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoints(Store);

#[derive(Debug, Clone)]
enum Store {
    Disk(DiskStore),
    Memory(Arc<Mutex<HashMap<ShardKey, Record>>>),
}

impl Checkpoints {
    /// A store that forgets everything when the process ends: for a copy that starts over when it is
    /// interrupted.
    pub fn in_memory() -> Checkpoints {
        Checkpoints(Store::Memory(Arc::default()))
    }

    /// A crash-safe store on disk.
    pub fn on_disk(store: DiskStore) -> Checkpoints {
        Checkpoints(Store::Disk(store))
    }

    /// Where to start reading a shard: its stored position if that belongs to the same history, else
    /// the beginning, under an epoch above every history that it follows. `known` is what other places
    /// know of the epochs; one that is higher there counts, and then everything is read again. A new
    /// epoch is stored before this returns.
    ///
    /// # Errors
    /// When the store cannot be read or written, or no epoch is left.
    pub fn begin(
        &self,
        shard: &Arc<ShardKey>,
        history: &History,
        known: &Lineage,
    ) -> Result<Checkpoint, CheckpointError> {
        let mut all = known.clone();
        let mut own = None;
        for (number, record) in self.records_of(&shard.index)? {
            let key = ShardKey {
                index: shard.index.clone(),
                shard: number,
            };
            all.merge(&record.history.at(&key, record.epoch));
            if number == shard.shard && record.history == *history {
                own = Some(record);
            }
        }
        let epoch = all.epoch_for(&history.history_uuid, &history.index_uuid, shard.shard)?;
        let record = match own.filter(|own| own.epoch == epoch) {
            Some(own) => own,
            None => {
                let record = Record {
                    history: history.clone(),
                    epoch,
                    position: -1,
                };
                self.put(&[(shard.as_ref().clone(), record.clone())])?;
                record
            }
        };
        Ok(Checkpoint {
            shard: Arc::clone(shard),
            epoch: record.epoch,
            position: record.position,
            gone: None,
            ticket: None,
        })
    }

    /// Stores positions, all or none. One of an epoch that is over is left out: it says nothing
    /// about the history that followed. `stored` is the newest message of the log at that time: if
    /// the log should lose it, the positions are taken back.
    ///
    /// # Errors
    /// When the store cannot be written; the positions may be stored again later.
    pub fn commit(
        &self,
        checkpoints: &[Checkpoint],
        stored: Option<&Stored>,
    ) -> Result<(), CheckpointError> {
        let mut records = Vec::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            if let Some(mut record) = self.get(&checkpoint.shard)?
                && record.epoch == checkpoint.epoch
                && record.position < checkpoint.position
            {
                let before = std::mem::replace(&mut record.position, checkpoint.position);
                records.push(Step {
                    shard: checkpoint.shard.as_ref().clone(),
                    record,
                    before,
                });
            }
        }
        match &self.0 {
            Store::Disk(store) => store.step(&records, stored),
            Store::Memory(_) => {
                let records: Vec<_> = records.into_iter().map(|s| (s.shard, s.record)).collect();
                self.put(&records)
            }
        }
    }

    fn get(&self, shard: &ShardKey) -> Result<Option<Record>, CheckpointError> {
        match &self.0 {
            Store::Disk(store) => store.get(shard),
            Store::Memory(records) => Ok(records
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(shard)
                .cloned()),
        }
    }

    fn put(&self, new: &[(ShardKey, Record)]) -> Result<(), CheckpointError> {
        match &self.0 {
            Store::Disk(store) => store.put(new),
            Store::Memory(records) => {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records.extend(new.iter().cloned());
                Ok(())
            }
        }
    }

    fn records_of(&self, index: &IndexName) -> Result<Vec<(u32, Record)>, CheckpointError> {
        match &self.0 {
            Store::Disk(store) => store.records_of(index),
            Store::Memory(records) => {
                let records = records.lock().unwrap_or_else(PoisonError::into_inner);
                let of_index = records.iter().filter(|(key, _)| key.index == *index);
                Ok(of_index
                    .map(|(key, record)| (key.shard, record.clone()))
                    .collect())
            }
        }
    }
}

/// Why checkpoints cannot be read or kept. Nothing is lost by it: the source is only read again from
/// an earlier position.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store cannot be opened.
    #[error("cannot open the checkpoint store {path:?}: {reason}; {remedy}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process has the store open.
    #[error(
        "another process is using the checkpoint store {path:?}; stop that one first, or choose another folder with --checkpoint-path"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The store is damaged.
    #[error(
        "the checkpoint store {path:?} is damaged: {reason}; restore the folder from a copy, or move \
         it away to read the source again from the beginning (no change is lost by that, and the target ignores \
         what it already has; but the ledger in it is gone too: what is deleted meanwhile stays at the target \
         until `syncline verify --delete-extra` has removed it)"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The store belongs to something else.
    #[error(
        "the checkpoint store {path:?} belongs to {found}, not to {expected}; choose another folder with --checkpoint-path (only watchers of one name share one)"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A write failed.
    #[error(
        "cannot write the checkpoint store {path:?}: {reason}; free space there or correct its permissions"
    )]
    Write {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A write has failed in its last step: until it is opened anew, LMDB takes no other.
    #[error(
        "the checkpoint store {path:?} was being written when its disk failed, and is opened anew"
    )]
    Broken {
        /// The folder.
        path: PathBuf,
    },
    /// No epoch is left.
    #[error(transparent)]
    Epoch(#[from] VersionError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u32) -> Arc<ShardKey> {
        Arc::new(ShardKey {
            index: IndexName::try_from("movies").unwrap(),
            shard: number,
        })
    }

    fn history(index: &str, history: &str) -> History {
        History {
            index_uuid: index.into(),
            history_uuid: history.into(),
        }
    }

    /// Both stores have to behave alike.
    fn stores() -> (tempfile::TempDir, [Checkpoints; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner {
            cluster_uuid: "c".into(),
            tenant: "t".into(),
            stream: None,
        };
        let disk = DiskStore::open(folder.path(), &owner).unwrap();
        (
            folder,
            [Checkpoints::in_memory(), Checkpoints::on_disk(disk)],
        )
    }

    fn begin(store: &Checkpoints, number: u32, of: &History) -> (u8, i64) {
        let start = store
            .begin(&shard(number), of, &Lineage::default())
            .unwrap();
        (start.epoch.0, start.position)
    }

    #[test]
    fn a_shard_goes_on_where_its_history_was_left() {
        let (_folder, stores) = stores();
        for store in stores {
            let mut at = store
                .begin(&shard(0), &history("a", "h"), &Lineage::default())
                .unwrap();
            assert_eq!((at.epoch, at.position), (Epoch(0), -1));
            at.position = 41;
            store.commit(&[at.clone()], None).unwrap();
            assert_eq!(begin(&store, 0, &history("a", "h")), (0, 41));
            at.position = 7;
            store.commit(&[at], None).unwrap();
            assert_eq!(
                begin(&store, 0, &history("a", "h")),
                (0, 41),
                "a position never goes back"
            );
        }
    }

    #[test]
    fn all_shards_of_one_index_share_an_epoch_and_a_new_history_gets_one_above_all() {
        let (_folder, stores) = stores();
        for store in stores {
            assert_eq!(begin(&store, 0, &history("a", "h0")), (0, -1));
            assert_eq!(begin(&store, 1, &history("a", "h1")), (0, -1));
            // Recreated with three shards: the new third shard must be above the old first.
            assert_eq!(begin(&store, 2, &history("b", "h2")), (1, -1));
            assert_eq!(begin(&store, 0, &history("b", "h3")), (1, -1));
            // Only the history of one shard is forced anew.
            assert_eq!(begin(&store, 0, &history("b", "h4")), (2, -1));
            assert_eq!(begin(&store, 2, &history("b", "h2")), (1, -1));
        }
    }

    #[test]
    fn a_higher_epoch_that_is_known_elsewhere_counts_and_everything_is_read_again() {
        let (_folder, stores) = stores();
        for store in stores {
            let mut at = store
                .begin(&shard(0), &history("a", "h"), &Lineage::default())
                .unwrap();
            at.position = 41;
            store.commit(&[at], None).unwrap();
            let known = history("a", "h").at(&shard(0), Epoch(4));
            let start = store.begin(&shard(0), &history("a", "h"), &known).unwrap();
            assert_eq!((start.epoch, start.position), (Epoch(4), -1));
            // Where nothing is stored, what is known elsewhere is enough.
            let start = store.begin(&shard(1), &history("a", "i"), &known).unwrap();
            assert_eq!(start.epoch, Epoch(4));
            let start = store.begin(&shard(0), &history("b", "j"), &known).unwrap();
            assert_eq!(start.epoch, Epoch(5));
        }
    }

    #[test]
    fn a_late_position_of_an_epoch_that_is_over_is_ignored() {
        let (_folder, stores) = stores();
        for store in stores {
            let mut old = store
                .begin(&shard(0), &history("a", "h"), &Lineage::default())
                .unwrap();
            old.position = 1_000;
            assert_eq!(begin(&store, 0, &history("b", "i")), (1, -1));
            store.commit(&[old], None).unwrap();
            assert_eq!(begin(&store, 0, &history("b", "i")), (1, -1));
        }
    }
}
