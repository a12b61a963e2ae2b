//! Tables as the documents they become, for comparisons.
//!
//! What is read goes through the same functions as what is copied, so both agree about form. It is read in
//! short statements, each with a snapshot of its own, so that a comparison that takes hours does not keep
//! the server from cleaning up: a row that is moved by an update meanwhile is met twice, or not at all, and
//! has to be looked up by its id.

mod cut;
mod find;

use std::sync::{Arc, Mutex, PoisonError};

use model::{Document, DocumentId, IndexDefinition, IndexName};
use postgres::{Catalogue, Config, Connection, Error, Part, Types, quote_literal};
use tokio::sync::mpsc;

use crate::{
    SourceError, SourceObserver, SourceOptions,
    capture::Identity,
    copying::{BATCH_BYTES, BATCH_ROWS, row},
    layout::Layout,
    publication,
};

use self::cut::Cut;

/// The sessions that are open and do nothing.
type Sessions = Arc<Mutex<Vec<Connection>>>;

/// A row as a document.
pub type Row = (DocumentId, Document);

/// A table that is captured, or would be.
#[derive(Debug)]
pub struct TableRows {
    config: Config,
    identity: Identity,
    version: u32,
    layout: Layout,
    parts: Vec<Part>,
    cuts: Vec<Cut>,
    /// About how many rows it has.
    rows: u64,
    /// Its columns when its layout was made.
    columns: String,
    sessions: Sessions,
}

/// The tables of all databases of the options that give an index which is meant, in the order of their
/// indices; nothing is written anywhere.
///
/// # Errors
/// When a database cannot be read, or none of its tables is meant.
pub async fn tables(
    options: &SourceOptions,
    observer: &dyn SourceObserver,
) -> Result<Vec<TableRows>, SourceError> {
    let mut tables = Vec::new();
    for config in &options.databases {
        tables.extend(of_database(config, options, observer).await?);
    }
    if tables.is_empty() {
        let databases = options.databases.iter().map(|of| of.database.as_str());
        return Err(SourceError::NoTable {
            database: databases.collect::<Vec<_>>().join(", "),
            patterns: options.indices.to_string(),
            template: options.template.to_string(),
        });
    }
    tables.sort_by(|one, other| one.index().cmp(other.index()));
    Ok(tables)
}

async fn of_database(
    config: &Config,
    options: &SourceOptions,
    observer: &dyn SourceObserver,
) -> Result<Vec<TableRows>, SourceError> {
    let mut session = Connection::open(config).await?;
    if session.version() < 120_000 {
        return Err(SourceError::TooOld(session.version() / 10_000));
    }
    let identity = Identity::of_session(&mut session).await?;
    let types = Types::read(&mut session).await?;
    let catalogue = Catalogue::read(&mut session).await?;
    let look = SourceOptions {
        follow: false, // the publication stays as it is
        ..options.clone()
    };
    let published = publication::ensure(&mut session, &catalogue, &look, "", observer).await?;
    let version = session.version();
    let sessions = Sessions::default();
    let mut tables = Vec::new();
    for (oid, (index, scope)) in &published.tables {
        let Some(table) = catalogue.tables.get(oid) else {
            continue;
        };
        let layout = Layout::of(table, index.clone(), scope, &types, &options.columns);
        let parts = catalogue.parts(table);
        tables.push(TableRows {
            config: config.clone(),
            identity: identity.clone(),
            version,
            cuts: cut::cuts(&mut session, &layout, &parts).await?,
            rows: estimate(&mut session, &parts).await?,
            columns: columns(&mut session, *oid).await?,
            layout,
            parts,
            sessions: Arc::clone(&sessions),
        });
    }
    Ok(tables)
}

impl TableRows {
    /// The index that it becomes.
    pub fn index(&self) -> &IndexName {
        &self.layout.index
    }

    /// What tells it from a table that is created anew under the same name.
    pub fn identity(&self) -> String {
        let (system, database) = (&self.identity.system, &self.config.database);
        format!("{system}/{database}/{}", self.layout.oid)
    }

    /// Where its index comes from, and the history that the positions of its changes belong to.
    pub fn origin(&self) -> (String, String) {
        let source = self
            .identity
            .source(&self.config.database, &self.layout.table);
        (source, self.identity.history())
    }

    /// About how many rows it has.
    pub fn estimate(&self) -> u64 {
        self.rows
    }

    /// Into how many parts it is cut.
    pub fn parts(&self) -> usize {
        self.cuts.len()
    }

    /// What its index looks like.
    pub fn definition(&self) -> IndexDefinition {
        self.layout.definition(self.version, None)
    }

    /// Whether a row can be asked for by its id. Otherwise all rows are read to find some.
    pub fn has_key(&self) -> bool {
        !self.layout.key.is_empty()
    }

    /// Reads the rows of a part and sends them in pages of a megabyte or one row, as long as somebody takes
    /// them.
    ///
    /// # Errors
    /// When the table cannot be read, or is another than before.
    pub async fn read<T: From<Row> + Send>(
        &self,
        part: usize,
        pages: &mpsc::Sender<Vec<T>>,
    ) -> Result<(), SourceError> {
        let Some(cut) = self.cuts.get(part) else {
            return Ok(());
        };
        let mut session = self.session().await?;
        let read = self.pages(&mut session, cut, pages).await;
        // Where nobody wanted the rest of the answer, the session is of no more use.
        if read.map_err(|error| self.told(error))? {
            self.give_back(session);
        }
        Ok(())
    }

    /// Sends the rows of a part; false if nobody has taken them all.
    async fn pages<T: From<Row> + Send>(
        &self,
        session: &mut Connection,
        cut: &Cut,
        pages: &mpsc::Sender<Vec<T>>,
    ) -> Result<bool, SourceError> {
        let mut rows = session.copy_out(&cut.copy(&self.layout)).await?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        while let Some(line) = rows.next().await? {
            let read = row(&line, |values| {
                (self.layout.id(values), self.layout.document(values))
            });
            bytes += read.1.as_bytes().len();
            page.push(T::from(read));
            if bytes >= BATCH_BYTES || page.len() >= BATCH_ROWS {
                bytes = 0;
                if pages.send(std::mem::take(&mut page)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(page.is_empty() || pages.send(page).await.is_ok())
    }

    async fn session(&self) -> Result<Connection, Error> {
        let open = self
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match open {
            Some(session) => Ok(session),
            None => Connection::open(&self.config).await,
        }
    }

    fn give_back(&self, session: Connection) {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session);
    }

    /// What a refusal means: what was altered or dropped since is not what is compared.
    fn told(&self, error: SourceError) -> SourceError {
        const OTHERWISE: [&str; 5] = ["42703", "42P01", "42704", "3F000", "42846"];
        match error.is_one_of(&OTHERWISE) {
            true => SourceError::Altered(self.layout.table.clone()),
            false => error,
        }
    }
}

/// About how many rows there are.
async fn estimate(session: &mut Connection, parts: &[Part]) -> Result<u64, Error> {
    let oids: Vec<String> = parts.iter().map(|part| part.oid.to_string()).collect();
    if oids.is_empty() {
        return Ok(0);
    }
    let sql = format!(
        "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid IN ({})",
        oids.join(",")
    );
    let rows = session.query(&sql).await?;
    Ok(rows.first().map_or(0, |row| row.number(0)))
}

/// The columns of a table, with their types: documents are others when they are.
async fn columns(session: &mut Connection, oid: u32) -> Result<String, Error> {
    let sql = format!(
        "SELECT string_agg(format({}, attnum, attname, atttypid), ' ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped",
        quote_literal("%s %I %s")
    );
    let rows = session.query(&sql).await?;
    Ok(rows
        .first()
        .map_or_else(String::new, |row| row.text(0).to_owned()))
}
