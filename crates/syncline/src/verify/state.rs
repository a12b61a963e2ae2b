//! What an interrupted comparison has already found, in a file.
//!
//! Its unit is the index, because only an index has a verdict: the sums of a half-read one mean
//! something only together with all that was read, of both sides, and the index goes on changing
//! until the run is started again. Only equal ones are kept: what differs is looked at anew, for it
//! may have been repaired. An index that was created anew meanwhile (it has another UUID) is
//! compared again.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use model::IndexName;
use search::{Client, IndexPatterns};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use verify::{By, IndexReport};

use super::CommandError;

const FORMAT: u32 = 1;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("the state {path:?} cannot be {what}: {error}; choose another place with --state")]
    File {
        path: PathBuf,
        what: &'static str,
        error: io::Error,
    },
    #[error("the state {path:?} cannot be read: {reason}; delete it to compare everything")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the state {path:?} is of another comparison ({reason}); name another file, or delete it to compare everything"
    )]
    Another { path: PathBuf, reason: &'static str },
}

/// The file of a run.
pub(super) struct State {
    path: PathBuf,
    content: Content,
}

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    /// What identifies both sides: a cluster's UUID, the databases of a PostgreSQL server.
    source: String,
    target: String,
    by: By,
    equal: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// When it was found equal.
    at: String,
    report: IndexReport,
}

impl State {
    /// Reads what the run before has left, if there was one.
    pub(super) fn open(
        path: &Path,
        source: &str,
        target: &Client,
        by: By,
    ) -> Result<State, StateError> {
        let path = path.to_owned();
        let new = Content {
            format: FORMAT,
            source: source.to_owned(),
            target: target.server().cluster_uuid.clone(),
            by,
            equal: Vec::new(),
        };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Now rather than after the first index, which may take hours.
                let state = State { path, content: new };
                state.write()?;
                return Ok(state);
            }
            Err(error) => {
                return Err(StateError::File {
                    path,
                    what: "read",
                    error,
                });
            }
        };
        let content: Content = match serde_json::from_slice(&text) {
            Ok(content) => content,
            Err(error) => {
                let reason = error.to_string();
                return Err(StateError::Damaged { path, reason });
            }
        };
        let reason = match () {
            () if content.format != FORMAT => "its format is not that of this version",
            () if content.source != new.source => "its source is another one",
            () if content.target != new.target => "its target is another cluster",
            () if content.by != new.by => "it compared something else of the documents",
            () => return Ok(State { path, content }),
        };
        Err(StateError::Another { path, reason })
    }

    /// What was found about an index, and when, if it is still the same index on both sides.
    pub(super) async fn found_equal(
        &self,
        index: &IndexName,
        source_uuid: &str,
        target: &Client,
    ) -> Result<Option<(IndexReport, String)>, CommandError> {
        let mut entries = self.content.equal.iter();
        let entry = entries.find(|e| e.report.index == *index && e.report.uuids[0] == source_uuid);
        let Some(Entry { at, report }) = entry else {
            return Ok(None);
        };
        let alone: IndexPatterns = report
            .target
            .as_str()
            .parse()
            .expect("the name of an index is a pattern");
        let found = target.list_indices(&alone).await;
        let found = found.map_err(CommandError::Target)?;
        let is_same = found.iter().any(|info| info.uuid == report.uuids[1]);
        Ok(is_same.then(|| (report.clone(), at.clone())))
    }

    /// Keeps what was found about an index.
    pub(super) fn keep(&mut self, report: &IndexReport) -> Result<(), StateError> {
        self.content
            .equal
            .retain(|e| e.report.index != report.index);
        if report.equal() {
            self.content.equal.push(Entry {
                at: jiff::Timestamp::now()
                    .round(jiff::Unit::Second)
                    .map_or_else(|_| String::new(), |at| at.to_string()),
                report: report.clone(),
            });
        }
        self.write()
    }

    /// All indices were compared: the next run begins anew.
    pub(super) fn complete(self) -> Result<(), StateError> {
        fs::remove_file(&self.path).map_err(|error| self.failed("removed", error))
    }

    /// Replaces the file as a whole, so that there is never half of one.
    fn write(&self) -> Result<(), StateError> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let written = (|| {
            let mut file = NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut file, &self.content)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            io::Result::Ok(())
        })();
        written.map_err(|error| self.failed("written", error))
    }

    fn failed(&self, what: &'static str, error: io::Error) -> StateError {
        StateError::File {
            path: self.path.clone(),
            what,
            error,
        }
    }
}
