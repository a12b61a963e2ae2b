//! Checkpoints in LMDB: one file that is always whole, whatever dies, and no recovery at start.
//!
//! Every value carries a digest of itself. LMDB trusts its file and reads it through a memory map,
//! so two things are checked before it may: that the file is as long as its own header says (a read
//! behind the end would kill the process), and that every stored value is what was written.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use heed::{
    Database, Env, EnvOpenOptions,
    types::{Bytes, Str},
};
use model::IndexName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

use super::{CheckpointError, Record, ShardKey, pages};

/// The layout this build reads and writes.
const LAYOUT: u32 = 1;
/// Address space, not disk: the file grows as needed.
const MAP_BYTES: usize = 1 << 40;
/// Two header pages of the smallest page size.
const HEADER_BYTES: u64 = 8 << 10;
const OWNER_KEY: &str = "owner";

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

    #[allow(
        unsafe_code,
        reason = "LMDB maps its file; ADR 0004 says what that costs and pays"
    )]
    fn open_environment(path: &Path, lock: File) -> Result<DiskStore, CheckpointError> {
        let damaged = |reason| CheckpointError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let file = path.join("data.mdb");
        check_headers(&file).map_err(damaged)?;
        pages::check(&file).map_err(damaged)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(8);
        // SAFETY: the caller's lock keeps every other process away from the file, and nothing but
        // its headers is read before its length is checked.
        let env = unsafe { options.open(path) }.map_err(|error| opening(path, error))?;
        check_length(&env).map_err(damaged)?;
        let mut txn = env.write_txn().map_err(|error| opening(path, error))?;
        let shards = env
            .create_database(&mut txn, Some("shards"))
            .map_err(|error| opening(path, error))?;
        txn.commit().map_err(|error| opening(path, error))?;
        Ok(DiskStore {
            path: path.to_owned(),
            env,
            shards,
            _lock: Arc::new(lock),
        })
    }

    pub(super) fn get(&self, shard: &ShardKey) -> Result<Option<Record>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.damaged(e))?;
        let value = self
            .shards
            .get(&txn, &key(shard))
            .map_err(|e| self.damaged(e))?;
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

    pub(super) fn records_of(
        &self,
        index: &IndexName,
    ) -> Result<Vec<(u32, Record)>, CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.damaged(e))?;
        let prefix = format!("shard\0{index}\0");
        let found = self
            .shards
            .prefix_iter(&txn, &prefix)
            .map_err(|e| self.damaged(e))?;
        found
            .map(|entry| {
                let (key, value) = entry.map_err(|e| self.damaged(e))?;
                let number = key[prefix.len()..].parse().map_err(|e| self.damaged(e))?;
                Ok((number, self.unseal(value)?))
            })
            .collect()
    }

    fn write(
        &self,
        change: impl FnOnce(&mut heed::RwTxn) -> Result<(), heed::Error>,
    ) -> Result<(), CheckpointError> {
        let write = || {
            let mut txn = self.env.write_txn()?;
            change(&mut txn)?;
            txn.commit()
        };
        write().map_err(|error| CheckpointError::Write {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }

    /// Reads everything once, so that damage is met at start and not in the middle of the work.
    fn check_values(&self) -> Result<(), CheckpointError> {
        let txn = self.env.read_txn().map_err(|e| self.damaged(e))?;
        for entry in self.shards.iter(&txn).map_err(|e| self.damaged(e))? {
            let (key, value) = entry.map_err(|e| self.damaged(e))?;
            if key != OWNER_KEY {
                self.unseal::<Record>(value)?;
            }
        }
        Ok(())
    }

    /// Takes a new store for `owner`, or checks that an old one is the owner's.
    fn claim(&self, owner: &Owner) -> Result<(), CheckpointError> {
        let header = {
            let txn = self.env.read_txn().map_err(|e| self.damaged(e))?;
            let value = self
                .shards
                .get(&txn, OWNER_KEY)
                .map_err(|e| self.damaged(e))?;
            value
                .map(|value| self.unseal::<Header>(value))
                .transpose()?
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
            "the stream is not the one these checkpoints speak of: the source is read again from the beginning"
        );
        self.write_header(owner, true)
    }

    fn write_header(&self, owner: &Owner, rewind: bool) -> Result<(), CheckpointError> {
        let header = Header {
            layout: LAYOUT,
            owner: owner.clone(),
        };
        let mut rewound: Vec<(String, Vec<u8>)> = Vec::new();
        if rewind {
            let txn = self.env.read_txn().map_err(|e| self.damaged(e))?;
            for entry in self
                .shards
                .prefix_iter(&txn, "shard\0")
                .map_err(|e| self.damaged(e))?
            {
                let (key, value) = entry.map_err(|e| self.damaged(e))?;
                let record: Record = self.unseal(value)?;
                rewound.push((
                    key.to_owned(),
                    seal(&Record {
                        position: -1,
                        ..record
                    }),
                ));
            }
        }
        self.write(|txn| {
            for (key, value) in &rewound {
                self.shards.put(txn, key, value)?;
            }
            self.shards.put(txn, OWNER_KEY, &seal(&header))
        })
    }

    fn unseal<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T, CheckpointError> {
        let (digest, body) = value
            .split_at_checked(8)
            .ok_or_else(|| self.damaged("a value is too short"))?;
        if digest != xxh3_64(body).to_le_bytes() {
            return Err(self.damaged("a value does not match its digest"));
        }
        serde_json::from_slice(body).map_err(|error| self.damaged(error))
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

fn seal(value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(value).expect("records are plain data, which always serialises");
    [&xxh3_64(&body).to_le_bytes()[..], &body].concat()
}

fn opening(path: &Path, error: heed::Error) -> CheckpointError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error {
        heed::Error::Io(_) => CheckpointError::Open {
            path,
            reason,
            remedy: "free space on its disk, or correct its permissions",
        },
        _ => CheckpointError::Damaged { path, reason },
    }
}

/// LMDB takes a file without headers for a new one; for us, a file that is there has to be whole.
pub(crate) fn check_headers(file: &Path) -> Result<(), String> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(found) if found.len() < HEADER_BYTES => Err(format!(
            "data.mdb has {} bytes, less than its headers alone",
            found.len()
        )),
        Ok(_) => Ok(()),
    }
}

/// A read behind the end of a mapped file kills the process, so the file must be as long as its
/// newest header says.
pub(crate) fn check_length(env: &Env) -> Result<(), String> {
    let pages = env.info().last_page_number as u64 + 1;
    let needed = pages * u64::from(env.stat().page_size);
    let found = env.real_disk_size().map_err(|error| error.to_string())?;
    if found < needed {
        return Err(format!(
            "data.mdb has {found} bytes where its header says {needed}"
        ));
    }
    Ok(())
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
