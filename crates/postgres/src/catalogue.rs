//! What tables a database has.

use std::collections::HashMap;

use crate::{Connection, Error};

/// The tables of a database as they were when it was asked.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Ordinary tables, roots of partitioned ones, and their partitions; by OID.
    pub tables: HashMap<u32, Table>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it only stands for its partitions.
    pub is_partitioned: bool,
    /// The table that it is a partition of.
    pub parent: Option<u32>,
    /// Its replica identity: `d`, `n`, `f` or `i`.
    pub identity: char,
    /// The file with its rows: another one means that they were written anew, or are gone.
    pub filenode: u32,
    /// Its columns.
    pub columns: Vec<Column>,
    /// The numbers of the primary key's columns, in its order; empty without one.
    pub primary_key: Vec<i16>,
    /// The numbers of the columns of the index that is the replica identity.
    pub identity_key: Vec<i16>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its number, which stays when others are dropped.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// The OID of its type.
    pub type_oid: u32,
    /// Its type as SQL has it, such as `numeric(10,2)`.
    pub type_name: String,
    /// The type's modifier; -1 without one.
    pub modifier: i32,
    /// Whether it is computed from others.
    pub is_generated: bool,
}

/// A table that has rows of its own: an ordinary one, or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its OID.
    pub oid: u32,
    /// `"schema"."name"`.
    pub name: String,
    /// The file with its rows.
    pub filenode: u32,
}

impl Table {
    /// `"schema"."name"`.
    pub fn qualified(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// `schema.name`, for people.
    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The numbers of the columns by which a row is known when it is changed or deleted; empty where all
    /// of the row is needed, or nothing is known.
    pub fn key(&self) -> &[i16] {
        match self.identity {
            'i' => &self.identity_key,
            'n' => &[],
            _ => &self.primary_key,
        }
    }

    /// Whether updates and deletes work when a publication has the table. Where not, the application's
    /// fail.
    pub fn has_identity(&self) -> bool {
        self.identity == 'f' || !self.key().is_empty()
    }
}

impl Catalogue {
    /// Reads all tables that can be published, with what the session's snapshot shows.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn read(connection: &mut Connection) -> Result<Catalogue, Error> {
        const TABLES: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' \
            AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
        let mut catalogue = Catalogue::default();
        let sql = format!(
            "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relfilenode, \
             (SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid AND c.relispartition LIMIT 1) {TABLES}"
        );
        for row in connection.query(&sql).await? {
            let table = Table {
                oid: row.number(0),
                schema: row.text(1).to_owned(),
                name: row.text(2).to_owned(),
                is_partitioned: row.text(3) == "p",
                identity: row.text(4).chars().next().unwrap_or('d'),
                filenode: row.number(5),
                parent: row.get(6).and_then(|oid| oid.parse().ok()),
                columns: Vec::new(),
                primary_key: Vec::new(),
                identity_key: Vec::new(),
            };
            catalogue.tables.insert(table.oid, table);
        }
        let sql = format!(
            "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated <> '', format_type(a.atttypid, a.atttypmod) \
             FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (SELECT c.oid {TABLES}) \
             ORDER BY a.attrelid, a.attnum"
        );
        for row in connection.query(&sql).await? {
            if let Some(table) = catalogue.tables.get_mut(&row.number(0)) {
                table.columns.push(Column {
                    number: row.number(1),
                    name: row.text(2).to_owned(),
                    type_oid: row.number(3),
                    type_name: row.text(6).to_owned(),
                    modifier: row.number(4),
                    is_generated: row.is_true(5),
                });
            }
        }
        let sql = format!(
            "SELECT indrelid, indkey, indisprimary, indisreplident, indnkeyatts FROM pg_index \
             WHERE (indisprimary OR indisreplident) AND indrelid IN (SELECT c.oid {TABLES})"
        );
        for row in connection.query(&sql).await? {
            let Some(table) = catalogue.tables.get_mut(&row.number(0)) else {
                continue;
            };
            let columns = row.text(1).split(' ').filter_map(|n| n.parse().ok());
            let columns: Vec<i16> = columns.take(row.number(4)).collect();
            if row.is_true(2) {
                table.primary_key = columns.clone();
            }
            if row.is_true(3) {
                table.identity_key = columns;
            }
        }
        Ok(catalogue)
    }

    /// The table that a partition belongs to in the end; any other table is its own.
    pub fn root(&self, oid: u32) -> u32 {
        let mut root = oid;
        while let Some(parent) = self.tables.get(&root).and_then(|table| table.parent) {
            root = parent;
        }
        root
    }

    /// The tables that hold a table's rows: itself, or its partitions to the last level, by OID.
    pub fn parts(&self, table: &Table) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut open = vec![table.oid];
        while let Some(oid) = open.pop() {
            let Some(found) = self.tables.get(&oid) else {
                continue;
            };
            match found.is_partitioned {
                false => parts.push(Part {
                    oid,
                    name: found.qualified(),
                    filenode: found.filenode,
                }),
                true => {
                    let children = self.tables.values().filter(|t| t.parent == Some(oid));
                    open.extend(children.map(|child| child.oid));
                }
            }
        }
        parts.sort_by_key(|part| part.oid);
        parts
    }
}

/// A name as an SQL identifier.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal, whatever `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!(" E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}
