//! A PostgreSQL instance as a [`ChangeSource`].

use std::{collections::HashMap, fmt::Display, sync::Arc, time::Duration};

use model::IndexName;
use pipeline::{Captured, ChangeSource, Fault, Registry};
use postgres::{Config, Connection, Lsn};
use search::IndexPatterns;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    Columns, Memory, NoKey, Settled, SourceError, Template,
    capture::{self, Capture},
    keeper::Keeper,
};

/// How many batches wait between the capture and the log. Each is about a megabyte at most.
const BATCHES: usize = 2;

/// How an instance is captured.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// How to reach each database.
    pub databases: Vec<Config>,
    /// Which tables, by the names of their indices.
    pub indices: IndexPatterns,
    /// What indices are called.
    pub template: Template,
    /// The slot; of several databases the beginning of its name.
    pub slot: String,
    /// Whether the slot was named by somebody, and is not ours to create under any other name.
    pub slot_lives: SlotLife,
    /// A publication to use as it is.
    pub publication: Option<String>,
    /// What becomes of tables without a key.
    pub no_key: NoKey,
    /// What columns become instead of what their type says.
    pub columns: Columns,
    /// Most connections that copy side by side.
    pub copies: usize,
    /// How often the catalogue is read.
    pub look_every: Duration,
    /// Whether to stay when everything is copied.
    pub follow: bool,
}

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLife {
    /// Until somebody drops it: it waits for us while we are away, and holds back the server's log.
    Stays,
    /// As long as the connection: nothing is left behind, and everything is copied again afterwards.
    Connection,
}

/// How far a database has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// No further.
    Nothing,
    /// Everything that was committed before.
    Stream {
        /// The database.
        database: Arc<str>,
        /// Where.
        lsn: Lsn,
    },
    /// A chunk of a part of a table is copied.
    Chunk {
        /// The database.
        database: Arc<str>,
        /// The table's OID.
        table: u32,
        /// The part's OID.
        part: u32,
        /// The chunk; the whole part without.
        chunk: Option<u32>,
        /// The snapshot that the copy began with: a later copy has nothing of it.
        since: Lsn,
    },
    /// A table is copied.
    Copied {
        /// The database.
        database: Arc<str>,
        /// The table's OID.
        table: u32,
        /// The snapshot that the copy began with.
        since: Lsn,
    },
}

/// Is told how the capture goes. Called from many tasks, so it must return at once.
pub trait SourceObserver: Send + Sync {
    /// A table is captured from now on.
    fn found(&self, _index: &IndexName) {}
    /// A table matches and is not captured.
    fn left_out(&self, _table: &str, _reason: &str) {}
    /// A column is not in the documents, because of what it holds and not because somebody wants that.
    fn column_left_out(&self, _column: &str, _remedy: &str) {}
    /// A table is being copied, about so many rows.
    fn copying(&self, _index: &IndexName, _rows: u64) {}
    /// A table is copied.
    fn copied(&self, _index: &IndexName) {}
    /// So many bytes of a database's log are not read yet.
    fn behind(&self, _database: &str, _bytes: u64) {}
    /// So many bytes of the log are held back by the slot, of so many that it may.
    fn retained(&self, _database: &str, _bytes: u64, _budget: Option<u64>) {}
    /// Something failed and is tried again after a pause.
    fn trouble(&self, _what: &str, _reason: &dyn Display, _pause: Duration) {}
    /// What was in trouble works again.
    fn recovered(&self, _what: &str) {}
    /// The source answers.
    fn fine(&self) {}
}

impl SourceObserver for () {}

/// Looks whether each database can be captured, and waits for none.
///
/// # Errors
/// Why one cannot.
pub async fn preflight(options: &SourceOptions) -> Result<(), SourceError> {
    for config in &options.databases {
        let mut session = Connection::open(config).await?;
        capture::check_server(&mut session).await?;
    }
    Ok(())
}

/// The changes of a PostgreSQL instance.
#[derive(Debug)]
pub struct PgSource {
    batches: mpsc::Receiver<Captured<Position>>,
    captures: JoinSet<Result<(), Fault>>,
    keeper: Keeper,
}

impl PgSource {
    /// Starts to capture from where `memory` and the slots say. A slot is let go as `settled` allows.
    pub fn start(
        options: SourceOptions,
        memory: Memory,
        registry: Arc<dyn Registry>,
        settled: Settled,
        observer: Arc<dyn SourceObserver>,
    ) -> PgSource {
        let (out, batches) = mpsc::channel(BATCHES);
        let options = Arc::new(options);
        let mut flushed = HashMap::new();
        let mut captures = JoinSet::new();
        for config in &options.databases {
            let (sender, receiver) = watch::channel(Lsn::default());
            let database: Arc<str> = config.database.as_str().into();
            flushed.insert(Arc::clone(&database), sender);
            let capture = Capture {
                slot: capture::slot_name(&options, &config.database),
                config: config.clone(),
                database,
                options: Arc::clone(&options),
                memory: memory.clone(),
                registry: Arc::clone(&registry),
                observer: Arc::clone(&observer),
                out: out.clone(),
                flushed: receiver,
                has_read: false,
            };
            captures.spawn(capture.run());
        }
        PgSource {
            batches,
            captures,
            keeper: Keeper::start(memory, flushed, settled, observer),
        }
    }

    /// Ends the capture and remembers the last confirmed positions.
    pub async fn close(mut self) {
        self.captures.shutdown().await;
        self.keeper.close().await;
    }
}

fn done(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Result<(), Fault> {
    ended.unwrap_or_else(|panic| Err(Fault::fatal(panic)))
}

impl ChangeSource for PgSource {
    type Position = Position;

    async fn next(&mut self) -> Result<Option<Captured<Position>>, Fault> {
        loop {
            tokio::select! {
                biased;
                captured = self.batches.recv() => match captured {
                    Some(captured) => return Ok(Some(captured)),
                    None => break,
                },
                Some(ended) = self.captures.join_next() => done(ended)?,
            }
        }
        // The last capture lets go of its end of the channel a moment before it has ended.
        while let Some(ended) = self.captures.join_next().await {
            done(ended)?;
        }
        Ok(None)
    }

    async fn confirm(&mut self, position: Position) -> Result<(), Fault> {
        self.keeper.confirm(position);
        Ok(())
    }
}
