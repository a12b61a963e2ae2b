//! Why a database cannot be captured.

use std::path::PathBuf;

use pipeline::Fault;

/// Why a database cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server refuses, or does not answer.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The stream says something that cannot be read.
    #[error(transparent)]
    Stream(#[from] postgres::pgoutput::DecodeError),
    /// The server is too old.
    #[error("PostgreSQL {0} is too old: version 12 is the oldest that is supported")]
    TooOld(u32),
    /// The server writes too little into its log.
    #[error(
        "wal_level is {0:?}: changes can only be read with wal_level = logical. Set it in postgresql.conf (or ALTER \
         SYSTEM SET wal_level = logical; on RDS the parameter rds.logical_replication = 1) and restart the server"
    )]
    WalLevel(String),
    /// The server is a stand-by.
    #[error(
        "the server is a stand-by that is in recovery: point the source at the primary, or promote this one"
    )]
    Standby,
    /// A slot or publication was named that is not there.
    #[error(
        "{what} {name:?} does not exist in database {database:?}; create it, or leave {flag} away"
    )]
    Missing {
        /// `slot` or `publication`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Where.
        database: String,
        /// The flag that named it.
        flag: &'static str,
    },
    /// The slot is of another kind.
    #[error("slot {slot:?} {problem}; name another with --slot, or drop it yourself")]
    ForeignSlot {
        /// Its name.
        slot: String,
        /// What is wrong.
        problem: String,
    },
    /// A table was named that cannot be captured.
    #[error("table {table} cannot be captured: {reason}")]
    Uncapturable {
        /// Which.
        table: String,
        /// Why, with the remedy.
        reason: String,
    },
    /// There is nothing to capture.
    #[error(
        "no table of database {database:?} gives an index that matches {patterns:?}; tables give indices \
         by the template {template:?}"
    )]
    NoTable {
        /// Where.
        database: String,
        /// What was asked for.
        patterns: String,
        /// How indices are named.
        template: String,
    },
    /// Two tables would share an index.
    #[error(
        "the tables {one} and {other} would both become index {index}; give them different names with \
         --index-template, or exclude one"
    )]
    SameIndex {
        /// One.
        one: String,
        /// The other.
        other: String,
        /// Their index.
        index: String,
    },
    /// A position has no version.
    #[error(transparent)]
    Version(#[from] model::VersionError),
    /// What is remembered cannot be read.
    #[error("the state file {path:?}: {reason}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What is to be remembered cannot be written.
    #[error("the state file {path:?} cannot be written: {reason}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process remembers in the same folder.
    #[error(
        "the folder {path:?} is in use by another process: give each its own --checkpoint-path"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A table was written anew while it was copied.
    #[error("table {0} was written anew while it was copied: it is copied again")]
    Rewritten(String),
    /// A table is not what it was when a comparison began.
    #[error("table {0} was altered, dropped or created anew meanwhile: compare it again")]
    Altered(String),
    /// The registry of epochs.
    #[error(transparent)]
    Registry(#[from] Fault),
}

impl SourceError {
    /// Whether the server refused a statement with one of these SQLSTATEs.
    pub(crate) fn is_one_of(&self, codes: &[&str]) -> bool {
        matches!(self, SourceError::Postgres(inner) if inner.is_one_of(codes))
    }
}

/// What an error means for the loop that carries changes.
pub fn fault(error: SourceError) -> Fault {
    match error {
        SourceError::Registry(fault) => fault,
        SourceError::Postgres(ref inner) if inner.passes() => Fault::retry(error),
        SourceError::Write { .. } | SourceError::Rewritten(_) => Fault::retry(error),
        error => Fault::fatal(error),
    }
}
