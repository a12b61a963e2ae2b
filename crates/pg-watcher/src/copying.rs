//! Copies tables from a snapshot, several connections side by side, each table in chunks of its file.
//!
//! A chunk is done when all of it has left. After a restart the chunks that are missing are copied from a
//! new snapshot, and the others stay as they are: whatever has changed in them since comes in the stream,
//! which began before. A row that an update has moved into another chunk comes in the stream likewise. The
//! file itself must be the same: rewriting a table moves its rows and says nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use model::{Change, Operation, Version};
use postgres::{Config, Connection, Error, Lsn, Part, copy, quote_ident, quote_literal};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    SourceError,
    layout::{Layout, Values},
    state::PartState,
};

/// How many pages of a file (8 KiB each, as servers are built) make a chunk.
const CHUNK_PAGES: u32 = 4096;
/// At this size, in bytes, a batch leaves.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// So does one with this many rows.
pub(crate) const BATCH_ROWS: usize = 5000;
/// What a snapshot that is gone, or a table that was altered meanwhile, is refused with: it is tried again
/// with a new snapshot.
const CHANGED_SINCE: [&str; 6] = ["42703", "42P01", "3F000", "42704", "22023", "0A000"];

/// A snapshot that other sessions can take, at a position of the log: what was committed before is in it,
/// what is committed later is not, and comes in the stream.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) lsn: Lsn,
    pub(crate) name: String,
    /// The snapshot can be taken as long as this session does nothing else.
    _session: Connection,
}

impl Snapshot {
    /// Makes one by a slot that lives no longer than its session. The server waits for all transactions
    /// that are open at that moment.
    pub(crate) async fn take(config: &Config) -> Result<Snapshot, SourceError> {
        // Slots are the instance's: two databases, or two processes, may take one in the same moment.
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        let mut session = Connection::open_for_replication(config).await?;
        let slot = format!(
            "syncline_copy_{:x}_{:x}_{:x}",
            std::process::id(),
            model::now_ms() & 0xff_ffff_ffff,
            TAKEN.fetch_add(1, Ordering::Relaxed)
        );
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
            quote_ident(&slot)
        );
        let rows = session.query(&sql).await?;
        let row = rows.first();
        let lsn = row.and_then(|row| row.text(1).parse().ok());
        let name = row.map(|row| row.text(2).to_owned()).unwrap_or_default();
        let lsn = lsn.ok_or_else(|| Error::Protocol {
            host: config.to_string(),
            reason: "a slot without a consistent point".to_owned(),
        })?;
        Ok(Snapshot {
            lsn,
            name,
            _session: session,
        })
    }

    /// A session that sees what the snapshot shows.
    pub(crate) async fn session(&self, config: &Config) -> Result<Connection, SourceError> {
        let mut session = Connection::open(config).await?;
        begin(&mut session, &self.name).await?;
        Ok(session)
    }
}

async fn begin(session: &mut Connection, snapshot: &str) -> Result<(), SourceError> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot)
    );
    session.query(&sql).await?;
    Ok(())
}

/// A table to copy.
#[derive(Debug, Clone)]
pub(crate) struct CopyTable {
    pub(crate) layout: Arc<Layout>,
    /// The version of its rows.
    pub(crate) version: Version,
    /// Its parts with what is done of each.
    pub(crate) parts: Vec<(Part, PartState)>,
}

/// What the copy brings.
#[derive(Debug)]
pub(crate) enum Copied {
    /// Rows of a table.
    Rows {
        layout: Arc<Layout>,
        changes: Vec<Change>,
    },
    /// All rows of a chunk have been brought.
    Chunk {
        table: u32,
        part: u32,
        /// The whole part without.
        chunk: Option<u32>,
    },
    /// Everything of a table has been brought.
    Table(Arc<Layout>),
}

struct Chunk {
    table: Arc<CopyTable>,
    part: Part,
    /// Which pages; all without.
    pages: Option<(u32, Option<u32>)>,
    number: u32,
}

/// What is left of each table.
struct Left {
    queue: VecDeque<Chunk>,
    /// How many chunks of each part, and of each table, are not done.
    of_part: std::collections::HashMap<(u32, u32), usize>,
    of_table: std::collections::HashMap<u32, usize>,
}

/// Copies tables; what it brings goes to `out`.
pub(crate) async fn copy_tables(
    config: Config,
    snapshot: Arc<Snapshot>,
    tables: Vec<CopyTable>,
    copies: usize,
    out: mpsc::Sender<Copied>,
) -> Result<(), SourceError> {
    let mut left = Left {
        queue: VecDeque::new(),
        of_part: Default::default(),
        of_table: Default::default(),
    };
    let mut session = Connection::open(&config).await?;
    for table in tables {
        let table = Arc::new(table);
        let mut count = 0;
        for (part, state) in &table.parts {
            if state.is_copied {
                continue;
            }
            let chunks = chunks(&mut session, &table, part, state).await?;
            count += chunks.len();
            left.of_part
                .insert((table.layout.oid, part.oid), chunks.len());
            if chunks.is_empty() {
                let done = Copied::Chunk {
                    table: table.layout.oid,
                    part: part.oid,
                    chunk: None,
                };
                let _gone = out.send(done).await;
            }
            left.queue.extend(chunks);
        }
        left.of_table.insert(table.layout.oid, count);
        if count == 0 {
            let _gone = out.send(Copied::Table(Arc::clone(&table.layout))).await;
        }
    }
    drop(session);
    let workers = copies.max(1).min(left.queue.len());
    let left = Arc::new(Mutex::new(left));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(
            config.clone(),
            Arc::clone(&snapshot),
            Arc::clone(&left),
            out.clone(),
        ));
    }
    drop(out);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(ended) => ended?,
            Err(panic) => return Err(pipeline::Fault::fatal(panic).into()),
        }
    }
    Ok(())
}

/// The chunks of a part that are not copied yet. Before version 14 a server reads all of a table to find
/// the rows of some pages, so there the part is one chunk.
async fn chunks(
    session: &mut Connection,
    table: &Arc<CopyTable>,
    part: &Part,
    state: &PartState,
) -> Result<Vec<Chunk>, SourceError> {
    let chunk = |number, pages| Chunk {
        table: Arc::clone(table),
        part: part.clone(),
        pages,
        number,
    };
    if session.version() < 140_000 {
        return Ok(vec![chunk(0, None)]);
    }
    let count = pages_of(session, part).await?.div_ceil(CHUNK_PAGES).max(1);
    let all = (0..count).filter(|number| !state.chunks.contains(number));
    let of = |number: u32| {
        let from = number * CHUNK_PAGES;
        // What was added since the snapshot lies behind, and is not in it.
        let upto = (number + 1 < count).then(|| from + CHUNK_PAGES);
        chunk(number, Some((from, upto)))
    };
    Ok(all.map(of).collect())
}

/// How many pages a part's file has.
pub(crate) async fn pages_of(session: &mut Connection, part: &Part) -> Result<u32, Error> {
    let sql = format!(
        "SELECT pg_relation_size({}) / current_setting('block_size')::bigint",
        part.oid
    );
    let rows = session.query(&sql).await?;
    Ok(rows.first().map_or(0, |row| row.number(0)))
}

async fn work(
    config: Config,
    snapshot: Arc<Snapshot>,
    left: Arc<Mutex<Left>>,
    out: mpsc::Sender<Copied>,
) -> Result<(), SourceError> {
    let lock = || left.lock().unwrap_or_else(PoisonError::into_inner);
    let mut session = Connection::open(&config).await?;
    loop {
        let Some(chunk) = lock().queue.pop_front() else {
            return Ok(());
        };
        let layout = &chunk.table.layout;
        copy_chunk(&mut session, &snapshot, &chunk, &out)
            .await
            .map_err(|error| changed_since(error, layout))?;
        let (table, part) = (layout.oid, chunk.part.oid);
        // The last one to finish says so, after all others have sent theirs.
        let done = Copied::Chunk {
            table,
            part,
            chunk: Some(chunk.number),
        };
        if out.send(done).await.is_err() {
            return Ok(());
        }
        let (of_part, of_table) = {
            let mut left = lock();
            let count = |left: Option<&mut usize>| {
                left.map_or(usize::MAX, |left| {
                    *left -= 1;
                    *left
                })
            };
            let of_part = count(left.of_part.get_mut(&(table, part)));
            (of_part, count(left.of_table.get_mut(&table)))
        };
        if of_part == 0 {
            let done = Copied::Chunk {
                table,
                part,
                chunk: None,
            };
            let _gone = out.send(done).await;
        }
        if of_table == 0 {
            let _gone = out.send(Copied::Table(Arc::clone(layout))).await;
        }
    }
}

fn changed_since(error: SourceError, layout: &Layout) -> SourceError {
    match error.is_one_of(&CHANGED_SINCE) {
        true => SourceError::Rewritten(layout.table.clone()),
        false => error,
    }
}

async fn copy_chunk(
    session: &mut Connection,
    snapshot: &Snapshot,
    chunk: &Chunk,
    out: &mpsc::Sender<Copied>,
) -> Result<(), SourceError> {
    let (layout, part) = (&chunk.table.layout, &chunk.part);
    begin(session, &snapshot.name).await?;
    // A table that was written anew looks empty to older snapshots: that must not pass for its content.
    let sql = format!(
        "LOCK TABLE ONLY {} IN ACCESS SHARE MODE; SELECT pg_relation_filenode({})",
        part.name, part.oid
    );
    let rows = session.query(&sql).await?;
    if rows.first().map(|row| row.number::<u32>(0)) != Some(part.filenode) {
        session.query("ROLLBACK").await?;
        return Err(SourceError::Rewritten(layout.table.clone()));
    }
    let sql = format!("COPY ({}) TO STDOUT", select(layout, chunk));
    let mut rows = session.copy_out(&sql).await?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(line) = rows.next().await? {
        let change = row(&line, |values| {
            layout.change(Operation::Index, values, chunk.table.version)
        });
        bytes += change.size();
        changes.push(change);
        if bytes >= BATCH_BYTES || changes.len() >= BATCH_ROWS {
            bytes = 0;
            let changes = std::mem::take(&mut changes);
            let layout = Arc::clone(layout);
            if out.send(Copied::Rows { layout, changes }).await.is_err() {
                return Ok(());
            }
        }
    }
    if !changes.is_empty() {
        let layout = Arc::clone(layout);
        let _gone = out.send(Copied::Rows { layout, changes }).await;
    }
    session.query("COMMIT").await?;
    Ok(())
}

/// Takes the values of a row, from a line of a COPY.
pub(crate) fn row<T>(line: &[u8], take: impl FnOnce(&Values<'_>) -> T) -> T {
    let values: Vec<_> = copy::row(line).collect();
    let texts = values.iter().map(|value| {
        let value = value.as_deref()?;
        std::str::from_utf8(value).ok()
    });
    take(&texts.collect::<Vec<Option<&str>>>())
}

fn select(layout: &Layout, chunk: &Chunk) -> String {
    format!(
        "SELECT {} FROM ONLY {}{}",
        layout.select_list(),
        chunk.part.name,
        conditions(layout, chunk.pages)
    )
}

/// Which rows of a table are read: those of some pages, and those that are published.
pub(crate) fn conditions(layout: &Layout, pages: Option<(u32, Option<u32>)>) -> String {
    let mut conditions = Vec::new();
    if let Some((from, upto)) = pages {
        conditions.push(format!("ctid >= '({from},0)'::tid"));
        conditions.extend(upto.map(|upto| format!("ctid < '({upto},0)'::tid")));
    }
    conditions.extend(layout.filter.iter().map(|filter| format!("({filter})")));
    match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    }
}
