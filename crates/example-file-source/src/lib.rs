//! How to sync from a system of your own: here, from a file with a JSON document on each line.
//!
//! A source implements [`ChangeSource`]: it yields batches in order, each with a position, and gets a
//! position back once everything up to it is durable. Whatever carries and writes the batches is the
//! same for every source. `src/main.rs` joins this one with the bulk writer of `es-writer`.
//!
//! Three questions decide what a source looks like:
//!
//! - *What is a document's version?* It has to rise with every change of the document, because the
//!   target refuses what is not above the version it has: that makes repetitions harmless. Here it is
//!   the number of the line.
//! - *What is a position?* Whatever it takes to go on after a restart. Here it is the number of the
//!   last line that was read, kept in a file of its own beside the source file.
//! - *What is a partition?* A part of the source with an order of its own. A file has one.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use model::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, IndexName, Origin, Version,
};
use pipeline::{Captured, ChangeSource, Fault};
use tokio::{
    fs::{self, File},
    io::{AsyncBufReadExt, BufReader, Lines},
};

/// How many lines travel together.
const BATCH: usize = 500;

/// The lines of a file as documents of one index. The line number is the document's id, so a file
/// that only grows is an index that only grows.
pub struct FileSource {
    index: IndexName,
    partition: Arc<str>,
    lines: Lines<BufReader<File>>,
    read: u64,
    checkpoint: PathBuf,
    /// The batch that is being filled. Kept here and not in `next`, because the future of `next` may
    /// be dropped in the middle of the file.
    filling: Vec<Change>,
}

impl FileSource {
    /// Opens `file` behind the last confirmed line.
    ///
    /// # Errors
    /// When the file or its checkpoint cannot be read.
    pub async fn open(file: &Path, index: IndexName) -> anyhow::Result<FileSource> {
        let checkpoint = file.with_extension("checkpoint");
        let confirmed: u64 = match fs::read_to_string(&checkpoint).await {
            Ok(text) => text.trim().parse()?,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        let mut lines = BufReader::new(File::open(file).await?).lines();
        for _ in 0..confirmed {
            lines.next_line().await?;
        }
        Ok(FileSource {
            index,
            partition: format!("file/{}", file.display()).into(),
            lines,
            read: confirmed,
            checkpoint,
            filling: Vec::new(),
        })
    }

    fn take(&mut self) -> Captured<u64> {
        let batch = Batch {
            index: self.index.clone(),
            origin: Origin::now(Arc::clone(&self.partition)),
            content: Content::Changes(std::mem::take(&mut self.filling)),
        };
        Captured {
            batch: Arc::new(batch),
            position: self.read,
        }
    }
}

impl ChangeSource for FileSource {
    type Position = u64;

    async fn next(&mut self) -> Result<Option<Captured<u64>>, Fault> {
        while self.filling.len() < BATCH {
            // `Lines` is cancel safe, and what was read before is in `self`: so is this loop.
            let Some(line) = self.lines.next_line().await.map_err(Fault::retry)? else {
                let rest = !self.filling.is_empty();
                return Ok(rest.then(|| self.take()));
            };
            self.read += 1;
            self.filling.push(change(self.read, line)?);
        }
        Ok(Some(self.take()))
    }

    /// Written to a second file first: a crash leaves the old position or the new one, never half.
    async fn confirm(&mut self, position: u64) -> Result<(), Fault> {
        let new = self.checkpoint.with_extension("new");
        let written = async {
            fs::write(&new, position.to_string()).await?;
            fs::rename(&new, &self.checkpoint).await
        };
        written.await.map_err(Fault::fatal)
    }
}

/// A line as a change. Whoever makes a [`Document`] vouches that it is one JSON value, so a line that
/// is none ends the run here, with the place named, and not later at the target.
fn change(number: u64, line: String) -> Result<Change, Fault> {
    if let Err(error) = serde_json::from_str::<&serde_json::value::RawValue>(&line) {
        let remedy = "correct the line and start again: the lines before it are not sent twice";
        return Err(Fault::fatal(format!(
            "line {number} is no JSON: {error}; {remedy}"
        )));
    }
    let id = number.to_string();
    Ok(Change {
        id: DocumentId::try_from(id.as_str()).map_err(Fault::fatal)?,
        routing: None,
        version: Version::new(Epoch(0), number).map_err(Fault::fatal)?,
        over: false,
        action: Action::Index(Document::from_json(Bytes::from(line))),
    })
}
