//! Dead letters in a file: for a copy without a stream to keep them in.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use model::wire;
use pipeline::{DeadLetter, DeadLetters, Fault};
use serde_json::json;

/// Appends letters to a file as NDJSON: for each a line with index and reason, then the change as
/// `_bulk` takes it. The file is created with the first letter.
#[derive(Debug, Clone)]
pub struct FileDeadLetters {
    path: PathBuf,
    file: Arc<Mutex<Option<File>>>,
}

impl FileDeadLetters {
    /// Letters into the file at `path`.
    pub fn new(path: &Path) -> FileDeadLetters {
        FileDeadLetters {
            path: path.to_owned(),
            file: Arc::default(),
        }
    }

    fn append(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut text = serde_json::to_vec(&json!({
            "index": letter.index, "reason": letter.reason,
        }))?;
        text.push(b'\n');
        let mut change = BytesMut::new();
        match &letter.change {
            Some(letter) => wire::write_change(&mut change, letter),
            None => change.extend_from_slice(&letter.body),
        }
        text.extend_from_slice(&change);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)?,
            ),
        };
        file.write_all(&text)?;
        file.sync_data()
    }
}

impl DeadLetters for FileDeadLetters {
    async fn park(&self, letter: DeadLetter) -> Result<(), Fault> {
        let letters = self.clone();
        let written = tokio::task::spawn_blocking(move || letters.append(&letter)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::fatal(format!(
                "the target refused a document, and it cannot be kept in {:?}: {error}; free space \
                 there or name another file with --dead-letters",
                self.path
            ))),
            Err(panic) => Err(Fault::fatal(panic)),
        }
    }
}
