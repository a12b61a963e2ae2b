//! Checkpoints in LMDB: one file that is always whole, whatever dies, and no recovery at start.
//!
//! Every value carries a digest of itself, and all of them are checked when the store is opened, so
//! that damage is met at start and not in the middle of the work.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bus::Stored;
use heed::{
    Database, Env, EnvFlags, RoTxn,
    types::{Bytes, Str},
};
use model::IndexName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    CheckpointError, Record, ShardKey, Step,
    trail::{self, Trail},
};
use crate::lmdb::{self, CommitError, OpenError, pages};

/// The layout this build reads and writes.
const LAYOUT: u32 = 1;
const OWNER_KEY: &str = "owner";
/// The newest message of the log when positions were stored last.
const NEWEST_KEY: &str = "newest";
/// The number of the newest row that the trail has dropped.
const TRIMMED_KEY: &str = "trimmed";

/// Whose checkpoints a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The source cluster.
    pub cluster_uuid: String,
    /// The tenant that subjects carry.
    pub tenant: String,
    /// The stream's name and when it was created, in nanoseconds since 1970. A stream that was
    /// created anew does not have what the old one had.
    pub stream: Option<(String, u64)>,
}

impl Owner {
    /// When the stream was created; 0 without one.
    pub(crate) fn created(&self) -> u64 {
        self.stream.as_ref().map_or(0, |(_, created)| *created)
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    layout: u32,
    #[serde(flatten)]
    owner: Owner,
}

/// A folder with an LMDB environment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DiskStore {
    path: PathBuf,
    env: Env,
    shards: Database<Str, Bytes>,
    trail: Trail,
    /// Held as long as the store is open: two processes would overwrite each other's file.
    _lock: Arc<File>,
}

impl DiskStore {
    /// Opens the store in the folder `path`, or creates it for `owner`. Positions that were stored
    /// for a stream that exists no more are dropped, so that everything is published again.
    ///
    /// # Errors
    /// When the folder cannot be used, the store is damaged, or it belongs to another cluster or
    /// tenant. A damaged store is never replaced by an empty one.
    pub fn open(path: &Path, owner: &Owner) -> Result<DiskStore, CheckpointError> {
        let cannot_open = |remedy| {
            move |error: io::Error| CheckpointError::Open {
                path: path.to_owned(),
                reason: error.to_string(),
                remedy,
            }
        };
        fs::create_dir_all(path).map_err(cannot_open(
            "choose a folder that this user may write with --checkpoint-path",
        ))?;
        let lock = File::create(path.join("watcher.lock")).map_err(cannot_open(
            "make the folder writable, or free space on its disk",
        ))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(CheckpointError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(cannot_open("use a file system that has locks")(error));
            }
        }
        let store = DiskStore::open_environment(path, lock)?;
        store.check_values()?;
        store.claim(owner)?;
        Ok(store)
    }

    fn open_environment(path: &Path, lock: File) -> Result<DiskStore, CheckpointError> {
        let env = lmdb::open(path, EnvFlags::empty(), pages::check)
            .map_err(|error| opening(path, error))?;
        let failed = |error: heed::Error| opening(path, error.into());
        let mut txn = env.write_txn().map_err(failed)?;
        let shards = env
            .create_database(&mut txn, Some("shards"))
            .map_err(failed)?;
        let trail = env
            .create_database(&mut txn, Some("trail"))
            .map_err(failed)?;
        txn.commit().map_err(failed)?;
        Ok(DiskStore {
            path: path.to_owned(),
            env,
            shards,
            trail,
            _lock: Arc::new(lock),
        })
    }

    pub(super) fn get(&self, shard: &ShardKey) -> Result<Option<Record>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
        let value = self
            .shards
            .get(&txn, &key(shard))
            .map_err(|e| self.unreadable(e))?;
        value.map(|value| self.unseal(value)).transpose()
    }

    pub(super) fn put(&self, records: &[(ShardKey, Record)]) -> Result<(), CheckpointError> {
        self.write(|txn| {
            for (shard, record) in records {
                self.shards.put(txn, &key(shard), &seal(record))?;
            }
            Ok(())
        })
    }

    /// The newest message of the log when positions were stored last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn newest(&self) -> Result<Option<Stored>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
        self.special(&txn, NEWEST_KEY)
    }

    /// Moves positions on.
    pub(super) fn step(
        &self,
        steps: &[Step],
        stored: Option<&Stored>,
    ) -> Result<(), CheckpointError> {
        if steps.is_empty() && (stored.is_none() || self.newest()?.as_ref() == stored) {
            return Ok(());
        }
        self.write(|txn| {
            for step in steps {
                self.shards
                    .put(txn, &key(&step.shard), &seal(&step.record))?;
            }
            if let Some(stored) = stored {
                let now = model::now_ms();
                let dropped = trail::keep(self.trail, txn, stored.sequence, now, steps)?;
                if let Some(dropped) = dropped {
                    self.shards.put(txn, TRIMMED_KEY, &seal(&dropped))?;
                }
                self.shards.put(txn, NEWEST_KEY, &seal(stored))?;
            }
            Ok(())
        })
    }

    /// Takes back what relied on messages above a number, because the log has lost them. Returns
    /// how many shards are read again.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn take_back(&self, upto: u64) -> Result<usize, CheckpointError> {
        let trimmed: Option<u64> = {
            let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
            self.special(&txn, TRIMMED_KEY)?
        };
        let mut taken = HashSet::new();
        let reaches_back = trimmed.is_none_or(|trimmed| trimmed <= upto);
        let rewound = if reaches_back {
            Vec::new()
        } else {
            self.rewound()?
        };
        self.write(|txn| {
            for before in trail::undo(self.trail, txn, upto)? {
                let shard = before.shard();
                let found = self.shards.get(txn, &key(&shard))?;
                let found = found.and_then(|value| unseal::<Record>(value).ok());
                if let Some(mut record) = found.filter(|record| record.epoch == before.epoch) {
                    record.position = record.position.min(before.position);
                    self.shards.put(txn, &key(&shard), &seal(&record))?;
                    taken.insert(shard);
                }
            }
            for (key, value) in &rewound {
                self.shards.put(txn, key, value)?;
            }
            self.shards.delete(txn, NEWEST_KEY).map(drop)
        })?;
        Ok(taken.len().max(rewound.len()))
    }

    pub(super) fn records_of(
        &self,
        index: &IndexName,
    ) -> Result<Vec<(u32, Record)>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
        let prefix = format!("shard\0{index}\0");
        let found = self
            .shards
            .prefix_iter(&txn, &prefix)
            .map_err(|e| self.unreadable(e))?;
        found
            .map(|entry| {
                let (key, value) = entry.map_err(|e| self.unreadable(e))?;
                let number = key[prefix.len()..].parse().map_err(|e| self.damaged(e))?;
                Ok((number, self.unseal(value)?))
            })
            .collect()
    }

    fn write(
        &self,
        change: impl FnOnce(&mut heed::RwTxn) -> Result<(), heed::Error>,
    ) -> Result<(), CheckpointError> {
        let path = || self.path.clone();
        lmdb::commit(&self.env, change).map_err(|error| match error {
            CommitError::Write(reason) => CheckpointError::Write {
                path: path(),
                reason,
            },
            CommitError::Broken => CheckpointError::Broken { path: path() },
        })
    }

    /// Reads everything once.
    fn check_values(&self) -> Result<(), CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
        for entry in self.shards.iter(&txn).map_err(|e| self.unreadable(e))? {
            let (key, value) = entry.map_err(|e| self.unreadable(e))?;
            if key.starts_with("shard\0") {
                self.unseal::<Record>(value)?;
            }
        }
        Ok(())
    }

    /// Takes a new store for `owner`, or checks that an old one is the owner's.
    fn claim(&self, owner: &Owner) -> Result<(), CheckpointError> {
        let header = {
            let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
            self.special::<Header>(&txn, OWNER_KEY)?
        };
        let Some(Header {
            layout,
            owner: found,
        }) = header
        else {
            return self.write_header(owner, false);
        };
        let foreign = |found: String, expected: String| {
            Err(CheckpointError::Foreign {
                path: self.path.clone(),
                found,
                expected,
            })
        };
        if layout > LAYOUT {
            return foreign(
                format!("a newer Syncline (layout {layout})"),
                format!("layout {LAYOUT}"),
            );
        }
        if found.cluster_uuid != owner.cluster_uuid {
            let cluster = |uuid: &str| format!("the cluster with the UUID {uuid}");
            return foreign(cluster(&found.cluster_uuid), cluster(&owner.cluster_uuid));
        }
        if found.tenant != owner.tenant {
            let tenant = |name: &str| format!("the tenant {name:?}");
            return foreign(tenant(&found.tenant), tenant(&owner.tenant));
        }
        if found.stream == owner.stream {
            return Ok(());
        }
        tracing::warn!(
            was = ?found.stream, is = ?owner.stream,
            "the stream is not the one these checkpoints speak of: the source is read again from the beginning. Deletes \
             that the old stream still held and no reader had seen are found again if they are younger than ten \
             minutes; `syncline verify --delete-extra` finds the others"
        );
        self.write_header(owner, true)
    }

    fn write_header(&self, owner: &Owner, rewind: bool) -> Result<(), CheckpointError> {
        let header = Header {
            layout: LAYOUT,
            owner: owner.clone(),
        };
        let rewound = if rewind { self.rewound()? } else { Vec::new() };
        self.write(|txn| {
            for (key, value) in &rewound {
                self.shards.put(txn, key, value)?;
            }
            if rewind {
                // The numbers of another stream.
                self.trail.clear(txn)?;
                self.shards.delete(txn, NEWEST_KEY)?;
                self.shards.delete(txn, TRIMMED_KEY)?;
            }
            self.shards.put(txn, OWNER_KEY, &seal(&header))
        })
    }

    /// All records, with nothing read.
    fn rewound(&self) -> Result<Vec<(String, Vec<u8>)>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.unreadable(e))?;
        let found = self.shards.prefix_iter(&txn, "shard\0");
        let records = found.map_err(|e| self.unreadable(e))?.map(|entry| {
            let (key, value) = entry.map_err(|e| self.unreadable(e))?;
            let record = Record {
                position: -1,
                ..self.unseal(value)?
            };
            Ok((key.to_owned(), seal(&record)))
        });
        records.collect()
    }

    /// A value that is no shard's.
    fn special<T: DeserializeOwned>(
        &self,
        txn: &RoTxn,
        key: &str,
    ) -> Result<Option<T>, CheckpointError> {
        let value = self.shards.get(txn, key).map_err(|e| self.unreadable(e))?;
        value.map(|value| self.unseal(value)).transpose()
    }

    fn unseal<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T, CheckpointError> {
        unseal(value).map_err(|reason| self.damaged(reason))
    }

    fn unreadable(&self, error: heed::Error) -> CheckpointError {
        match lmdb::has_to_be_opened_anew(&error) {
            true => CheckpointError::Broken {
                path: self.path.clone(),
            },
            false => self.damaged(error),
        }
    }

    fn damaged(&self, reason: impl ToString) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

fn key(shard: &ShardKey) -> String {
    format!("shard\0{}\0{}", shard.index, shard.shard)
}

pub(super) fn seal(value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(value).expect("records are plain data, which always serialises");
    [&xxh3_64(&body).to_le_bytes()[..], &body].concat()
}

pub(super) fn unseal<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    let (digest, body) = value.split_at_checked(8).ok_or("a value is too short")?;
    if digest != xxh3_64(body).to_le_bytes() {
        return Err("a value does not match its digest".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn opening(path: &Path, error: OpenError) -> CheckpointError {
    let path = path.to_owned();
    match error {
        OpenError::Io(reason) => CheckpointError::Open {
            path,
            reason,
            remedy: "free space on its disk, or correct its permissions",
        },
        OpenError::Damaged(reason) => CheckpointError::Damaged { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use model::Epoch;

    use super::*;
    use crate::checkpoint::History;

    fn owner() -> Owner {
        let stream = Some(("ES_CHANGES".into(), 1));
        Owner {
            cluster_uuid: "c".into(),
            tenant: "t".into(),
            stream,
        }
    }

    fn record(position: i64) -> (ShardKey, Record) {
        let index = IndexName::try_from("movies").unwrap();
        let history = History {
            index_uuid: "i".into(),
            history_uuid: "h".into(),
        };
        (
            ShardKey { index, shard: 3 },
            Record {
                history,
                epoch: Epoch(2),
                position,
            },
        )
    }

    fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        store.put(&[record(41)]).unwrap();
        folder
    }

    #[test]
    fn what_was_stored_is_there_after_a_restart() {
        let folder = filled();
        let (key, stored) = record(41);
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        assert_eq!(store.get(&key).unwrap(), Some(stored));
    }

    #[test]
    fn a_store_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _held = DiskStore::open(folder.path(), &owner()).unwrap();
        let error = DiskStore::open(folder.path(), &owner()).unwrap_err();
        assert!(matches!(error, CheckpointError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_store_of_another_cluster_is_refused() {
        let folder = filled();
        let other = Owner {
            cluster_uuid: "d".into(),
            ..owner()
        };
        let error = DiskStore::open(folder.path(), &other).unwrap_err();
        assert!(matches!(error, CheckpointError::Foreign { .. }), "{error}");
    }

    #[test]
    fn a_new_stream_rewinds_every_shard_and_keeps_its_epoch() {
        let folder = filled();
        let stream = Some(("ES_CHANGES".into(), 2));
        let store = DiskStore::open(folder.path(), &Owner { stream, ..owner() }).unwrap();
        let (key, rewound) = record(-1);
        assert_eq!(store.get(&key).unwrap(), Some(rewound));
    }

    fn step(store: &DiskStore, sequence: u64, positions: [i64; 2]) {
        let stored = Stored {
            sequence,
            message_id: sequence.to_string(),
        };
        let [before, position] = positions;
        let (shard, record) = record(position);
        let step = Step {
            shard,
            record,
            before,
        };
        store.step(&[step], Some(&stored)).unwrap();
    }

    #[test]
    fn what_relied_on_a_lost_end_is_taken_back_and_nothing_else() {
        for (upto, position) in [
            (30, 9),
            (29, 7),
            (20, 7),
            (19, 4),
            (10, 4),
            (9, -1),
            (0, -1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = DiskStore::open(folder.path(), &owner()).unwrap();
            for (sequence, positions) in [(10, [-1, 2]), (10, [2, 4]), (20, [4, 7]), (30, [7, 9])] {
                step(&store, sequence, positions);
            }
            assert_eq!(store.newest().unwrap().unwrap().sequence, 30);
            store.take_back(upto).unwrap();
            let (key, expected) = record(position);
            assert_eq!(store.get(&key).unwrap(), Some(expected), "up to {upto}");
            assert_eq!(store.newest().unwrap(), None);
        }
    }

    #[test]
    fn where_the_trail_does_not_reach_back_everything_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        step(&store, 10, [-1, 4]);
        let long_after = model::now_ms() + trail::KEPT.as_millis() as u64 + 1;
        let dropped = std::cell::Cell::new(None);
        let later = store.write(|txn| {
            dropped.set(trail::keep(store.trail, txn, 20, long_after, &[])?);
            store.shards.put(txn, TRIMMED_KEY, &seal(&10_u64))
        });
        later.unwrap();
        assert_eq!(dropped.get(), Some(10));
        assert_eq!(store.take_back(10).unwrap(), 0, "the trail begins here");
        assert_eq!(store.take_back(9).unwrap(), 1);
        let (key, rewound) = record(-1);
        assert_eq!(store.get(&key).unwrap(), Some(rewound));
    }

    #[test]
    fn a_step_of_an_epoch_that_is_over_takes_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        step(&store, 10, [-1, 4]);
        let (key, mut newer) = record(6);
        newer.epoch = Epoch(3);
        store.put(&[(key.clone(), newer.clone())]).unwrap();
        store.take_back(0).unwrap();
        assert_eq!(store.get(&key).unwrap(), Some(newer));
    }

    /// A store that has seen many commits, so that it has free pages, branches and old pages.
    fn used() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        for round in 0..20 {
            let records: Vec<_> = (0..200)
                .map(|shard| {
                    let (key, record) = record(round);
                    (ShardKey { shard, ..key }, record)
                })
                .collect();
            store.put(&records).unwrap();
        }
        folder
    }

    #[test]
    fn a_store_that_was_used_much_is_whole() {
        let folder = used();
        assert_eq!(pages::check(&folder.path().join("data.mdb")), Ok(()));
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        let name = IndexName::try_from("movies").unwrap();
        assert_eq!(store.records_of(&name).unwrap().len(), 200);
    }

    /// LMDB itself would end the process at a page whose header is nonsense.
    #[test]
    fn no_page_with_a_ruined_header_kills_the_process() {
        let folder = used();
        let whole = fs::read(folder.path().join("data.mdb")).unwrap();
        let mut refused = 0;
        for page in 0..whole.len() / 4096 {
            let mut file = whole.clone();
            file[page * 4096..page * 4096 + 64].fill(0xAB);
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("data.mdb"), &file).unwrap();
            // A page that no tree reaches holds nothing, so its ruin costs nothing.
            refused += usize::from(DiskStore::open(folder.path(), &owner()).is_err());
        }
        assert!(refused > 2, "only {refused} of all pages matter");
    }

    /// Damages the file in every way that is cheap to think of; none may be taken for an empty store
    /// or kill the process.
    #[test]
    fn a_damaged_file_is_refused_and_never_restarted_from_zero() {
        for damage in ["emptied", "cut", "headers overwritten", "value overwritten"] {
            let folder = filled();
            let path = folder.path().join("data.mdb");
            let mut file = fs::read(&path).unwrap();
            match damage {
                "emptied" => file.clear(),
                "cut" => file.truncate(file.len() / 2),
                "headers overwritten" => file[..8192].fill(0xAB),
                _ => {
                    let value = b"\"position\":41";
                    let found = file
                        .windows(value.len())
                        .enumerate()
                        .filter(|(_, w)| w == value);
                    let places: Vec<usize> = found.map(|(at, _)| at).collect();
                    assert!(!places.is_empty());
                    for at in places {
                        file[at + value.len() - 1] = b'2';
                    }
                }
            }
            fs::write(&path, &file).unwrap();
            let error = DiskStore::open(folder.path(), &owner()).err();
            let error = error.unwrap_or_else(|| panic!("a file that was {damage} was taken"));
            assert!(
                matches!(error, CheckpointError::Damaged { .. }),
                "{damage}: {error}"
            );
            assert!(error.to_string().contains("move it away"), "{error}");
        }
    }
}
