//! What is remembered of each database: which tables are copied, and how far the slot was let go.
//!
//! How far the stream was read is not kept here: the slot knows. A file for each database, written anew as
//! a whole and synced; it is small.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::Epoch;
use postgres::Lsn;
use serde::{Deserialize, Serialize};

use crate::SourceError;

/// Whose state it is. Another owner has nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Whom the changes belong to, or which target they go to.
    pub tenant: String,
    /// The stream that has them, and when it was created.
    pub stream: Option<(String, u64)>,
}

/// What is remembered of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseState {
    pub(crate) owner: Owner,
    /// The server's system identifier.
    pub(crate) system: String,
    /// Its timeline when this state began.
    pub(crate) timeline: u32,
    pub(crate) slot: String,
    /// The slot may have been confirmed up to here, and by us no further.
    pub(crate) confirmed: Lsn,
    /// When this state began the server's log had gone back, or on another way: tables whose copy has not
    /// begun need versions above all that this history has given before.
    #[serde(default)]
    pub(crate) begins_again: bool,
    /// The tables that were copied before this state began: the target may have rows of theirs that are gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) filled: BTreeSet<u32>,
    pub(crate) tables: BTreeMap<u32, TableState>,
}

/// What is remembered of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableState {
    /// `schema.name`, for people.
    pub(crate) table: String,
    pub(crate) fingerprint: u64,
    /// The epoch of its versions.
    pub(crate) epoch: Epoch,
    /// The snapshot that the copy began with. What the target has from before is out of date.
    pub(crate) since: Lsn,
    /// Whether all is copied.
    pub(crate) is_copied: bool,
    /// Whether the target has to be cleared of what is older than the copy.
    pub(crate) clears: bool,
    /// What of each part is copied.
    pub(crate) parts: BTreeMap<u32, PartState>,
}

/// What is remembered of a part of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartState {
    pub(crate) filenode: u32,
    /// The chunks that are copied, of a part that is not copied yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) chunks: BTreeSet<u32>,
    pub(crate) is_copied: bool,
}

/// The states of all databases. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: Option<PathBuf>,
    owner: Owner,
    states: Mutex<BTreeMap<String, DatabaseState>>,
    /// Held as long as the folder is ours.
    _lock: Option<File>,
}

impl Memory {
    /// One that ends with the process.
    pub fn in_process(owner: Owner) -> Memory {
        Memory {
            inner: Arc::new(Inner {
                folder: None,
                owner,
                states: Mutex::default(),
                _lock: None,
            }),
        }
    }

    /// One in a folder, which is created if need be.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(folder: &Path, owner: Owner) -> Result<Memory, SourceError> {
        let failed = |path: &Path, error: std::io::Error| SourceError::State {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(|e| failed(&path, e))?;
        lock.try_lock().map_err(|_| SourceError::InUse {
            path: folder.to_owned(),
        })?;
        let mut states = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(|e| failed(folder, e))? {
            let path = entry.map_err(|e| failed(folder, e))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let content = fs::read(&path).map_err(|e| failed(&path, e))?;
            let (database, state): (String, DatabaseState) = serde_json::from_slice(&content)
                .map_err(|error| SourceError::State {
                    path: path.clone(),
                    reason: format!("{error}; remove it, and the database is copied again"),
                })?;
            states.insert(database, state);
        }
        Ok(Memory {
            inner: Arc::new(Inner {
                folder: Some(folder.to_owned()),
                owner,
                states: Mutex::new(states),
                _lock: Some(lock),
            }),
        })
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// What is remembered of a database.
    pub(crate) fn get(&self, database: &str) -> Option<DatabaseState> {
        self.lock().get(database).cloned()
    }

    /// Changes what is remembered of a database, and returns when that is durable.
    pub(crate) fn update(
        &self,
        database: &str,
        change: impl FnOnce(&mut DatabaseState),
    ) -> Result<(), SourceError> {
        let mut states = self.lock();
        let Some(state) = states.get_mut(database) else {
            return Ok(());
        };
        let before = state.clone();
        change(state);
        match *state == before {
            true => Ok(()),
            false => self.write(database, state),
        }
    }

    /// Begins to remember a database anew.
    pub(crate) fn put(&self, database: &str, state: DatabaseState) -> Result<(), SourceError> {
        self.write(database, &state)?;
        self.lock().insert(database.to_owned(), state);
        Ok(())
    }

    fn write(&self, database: &str, state: &DatabaseState) -> Result<(), SourceError> {
        let Some(folder) = &self.inner.folder else {
            return Ok(());
        };
        let name: String = database
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => (byte as char).to_string(),
                byte => format!("={byte:02X}"),
            })
            .collect();
        let path = folder.join(format!("{name}.json"));
        let partial = folder.join(format!("{name}.partial"));
        let content = serde_json::to_vec(&(database, state))
            .expect("a state is plain data, which serialises");
        let written = File::create(&partial)
            .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&partial, &path))
            .and_then(|()| File::open(folder)?.sync_all());
        written.map_err(|error| SourceError::Write {
            path,
            reason: error.to_string(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DatabaseState>> {
        self.inner
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
