//! Which tables are published.
//!
//! A publication of ours holds the tables that are captured, and only those that have an identity: in a
//! publication without one, a table's updates and deletes fail *in the application*. That is why it is never
//! FOR ALL TABLES, which would take in every table that is created later. A publication that was named is
//! used as it is.

use std::collections::{BTreeSet, HashMap};

use model::IndexName;
use postgres::{Catalogue, Connection, Table, quote_ident, quote_literal};

use crate::{
    NoKey, SourceError,
    layout::Scope,
    source::{SourceObserver, SourceOptions},
};

/// The tables that are captured.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) tables: HashMap<u32, (IndexName, Scope)>,
}

/// Looks which tables are captured, and has the publication hold them if it is ours.
pub(crate) async fn ensure(
    session: &mut Connection,
    catalogue: &Catalogue,
    options: &SourceOptions,
    ours: &str,
    observer: &dyn SourceObserver,
) -> Result<Published, SourceError> {
    let database = session.config().database.clone();
    let selection = Selection {
        catalogue,
        options,
        database: &database,
        observer,
    };
    match &options.publication {
        Some(name) => {
            let scopes = scopes_of(session, name, &database).await?;
            selection.published(scopes)
        }
        None => {
            let via_root = session.version() >= 130_000;
            let published = selection.wanted()?;
            if options.follow {
                maintain(session, ours, catalogue, &published, via_root).await?;
            }
            Ok(published)
        }
    }
}

struct Selection<'a> {
    catalogue: &'a Catalogue,
    options: &'a SourceOptions,
    database: &'a str,
    observer: &'a dyn SourceObserver,
}

impl Selection<'_> {
    fn index(&self, table: &Table) -> IndexName {
        self.options
            .template
            .index(self.database, &table.schema, &table.name)
    }

    /// The tables that we want in a publication of ours; partitions go with the table that they belong to.
    fn wanted(&self) -> Result<Published, SourceError> {
        let tables = self.catalogue.tables.values();
        let tables = tables.filter(|table| table.parent.is_none());
        let tables = tables.map(|table| (table, Scope::default()));
        self.select(tables)
    }

    /// The tables of a publication that was named.
    fn published(&self, scopes: HashMap<u32, Scope>) -> Result<Published, SourceError> {
        let tables = scopes.into_iter().filter_map(|(oid, scope)| {
            let table = self.catalogue.tables.get(&oid)?;
            Some((table, scope))
        });
        self.select(tables)
    }

    fn select<'t>(
        &self,
        tables: impl Iterator<Item = (&'t Table, Scope)>,
    ) -> Result<Published, SourceError> {
        let mut published = Published::default();
        let mut by_index: HashMap<IndexName, &Table> = HashMap::new();
        for (table, scope) in tables {
            let index = self.index(table);
            if !self.options.indices.matches(index.as_str(), false) {
                continue;
            }
            if let Some(reason) = self.uncapturable(table) {
                let mut names = self.options.indices.names();
                let is_named = names.any(|name| name == index.as_str());
                if is_named || self.options.no_key == NoKey::Refuse {
                    return Err(SourceError::Uncapturable {
                        table: table.display(),
                        reason: reason.to_owned(),
                    });
                }
                self.observer.left_out(&table.display(), reason);
                continue;
            }
            if let Some(other) = by_index.insert(index.clone(), table) {
                return Err(SourceError::SameIndex {
                    one: other.display(),
                    other: table.display(),
                    index: index.to_string(),
                });
            }
            published.tables.insert(table.oid, (index, scope));
        }
        Ok(published)
    }

    fn uncapturable(&self, table: &Table) -> Option<&'static str> {
        if table.columns.is_empty() {
            return Some("it has no columns");
        }
        if !table.has_identity() {
            return Some(
                "it has no primary key, so its updates and deletes cannot be told (and would fail under a \
                 publication); add a primary key, or set REPLICA IDENTITY to a unique index",
            );
        }
        // The server asks the partition that a row is in.
        let parts = self.catalogue.parts(table).into_iter();
        let mut parts = parts.filter_map(|part| self.catalogue.tables.get(&part.oid));
        if !parts.all(Table::has_identity) {
            return Some(
                "a partition of it has another replica identity and no primary key, so updates and deletes in it \
                 cannot be told (and would fail under a publication); give it a primary key or REPLICA IDENTITY FULL",
            );
        }
        if table.key().is_empty() && self.options.no_key != NoKey::FullRow {
            return Some(
                "it has no primary key, only REPLICA IDENTITY FULL; add a primary key, or say that all of a row \
                 is its id with --pg-no-key full-row (equal rows are one document then)",
            );
        }
        None
    }
}

/// What a publication that was named holds.
async fn scopes_of(
    session: &mut Connection,
    name: &str,
    database: &str,
) -> Result<HashMap<u32, Scope>, SourceError> {
    let sql = format!(
        "SELECT 1 FROM pg_publication WHERE pubname = {}",
        quote_literal(name)
    );
    if session.query(&sql).await?.is_empty() {
        return Err(SourceError::Missing {
            what: "publication",
            name: name.to_owned(),
            database: database.to_owned(),
            flag: "--pg-publication",
        });
    }
    let details = match session.version() >= 150_000 {
        true => "array_to_json(p.attnames), p.rowfilter",
        false => "NULL, NULL",
    };
    let sql = format!(
        "SELECT c.oid, {details} FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = {}",
        quote_literal(name)
    );
    let rows = session.query(&sql).await?;
    let scope = |row: &postgres::Row| Scope {
        columns: row
            .get(1)
            .and_then(|names| serde_json::from_str(names).ok()),
        filter: row.get(2).map(str::to_owned),
    };
    Ok(rows.iter().map(|row| (row.number(0), scope(row))).collect())
}

/// What the server says of a table, or of its schema, that is not there any more.
pub(crate) const DROPPED_SINCE: [&str; 2] = ["42P01", "3F000"];

/// Has a publication of ours hold exactly these tables.
async fn maintain(
    session: &mut Connection,
    name: &str,
    catalogue: &Catalogue,
    published: &Published,
    via_root: bool,
) -> Result<(), SourceError> {
    let name_literal = quote_literal(name);
    let name = quote_ident(name);
    let sql = format!("SELECT oid FROM pg_publication WHERE pubname = {name_literal}");
    if session.query(&sql).await?.is_empty() {
        let with = match via_root {
            true => " WITH (publish_via_partition_root = true)",
            false => "",
        };
        session
            .query(&format!("CREATE PUBLICATION {name}{with}"))
            .await?;
    }
    let sql = format!(
        "SELECT r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = \
         {name_literal}"
    );
    let rows = session.query(&sql).await?;
    let held: BTreeSet<u32> = rows.iter().map(|row| row.number(0)).collect();
    // Before version 13 a partitioned table cannot be published; its partitions can.
    let parts = |oid: &u32| -> Vec<u32> {
        match catalogue.tables.get(oid) {
            Some(table) if !via_root => {
                let parts = catalogue.parts(table).into_iter();
                parts.map(|part| part.oid).collect()
            }
            _ => vec![*oid],
        }
    };
    let wanted: BTreeSet<u32> = published.tables.keys().flat_map(parts).collect();
    let list = |oids: Vec<&u32>| {
        let tables = oids.into_iter().filter_map(|oid| catalogue.tables.get(oid));
        let tables = tables.map(|table| match table.is_partitioned {
            true => table.qualified(),
            false => format!("ONLY {}", table.qualified()),
        });
        tables.collect::<Vec<_>>().join(", ")
    };
    for (verb, tables) in [
        ("ADD", list(wanted.difference(&held).collect())),
        ("DROP", list(held.difference(&wanted).collect())),
    ] {
        if !tables.is_empty() {
            let sql = format!("ALTER PUBLICATION {name} {verb} TABLE {tables}");
            session.query(&sql).await?;
        }
    }
    Ok(())
}
