//! Looking rows up by the ids of their documents.

use std::collections::{HashMap, HashSet};

use model::{Document, DocumentId};
use postgres::{Connection, Lsn};

use super::{TableRows, columns, cut};
use crate::{
    SourceError,
    copying::{Snapshot, row},
    layout::{Layout, is_digest},
    reread,
};

/// The documents that were found.
type Documents = HashMap<DocumentId, Document>;

impl TableRows {
    /// What there is under each of these ids now.
    ///
    /// # Errors
    /// When the table cannot be read, or is another than before.
    pub async fn find(&self, ids: &[&DocumentId]) -> Result<Vec<Option<Document>>, SourceError> {
        let mut session = self.session().await?;
        session.query("BEGIN READ ONLY").await?;
        let found = self.look(&mut session, ids).await;
        let found = found.map_err(|error| self.told(error))?;
        session.query("COMMIT").await?;
        self.give_back(session);
        Ok(found)
    }

    /// What there is under each of these ids at a position of the log: what was committed before is in it,
    /// and what is committed later has a position that is not below.
    ///
    /// # Errors
    /// Also when no slot can be made for a snapshot.
    pub async fn find_at(
        &self,
        ids: &[&DocumentId],
    ) -> Result<(Lsn, Vec<Option<Document>>), SourceError> {
        let snapshot = Snapshot::take(&self.config).await?;
        let mut session = snapshot.session(&self.config).await?;
        self.check_files(&mut session).await?;
        let found = self.look(&mut session, ids).await;
        let found = found.map_err(|error| self.told(error))?;
        Ok((snapshot.lsn, found))
    }

    /// Makes sure that no file is another than in the snapshot: a table that was written anew since looks
    /// empty to it.
    async fn check_files(&self, session: &mut Connection) -> Result<(), SourceError> {
        for part in &self.parts {
            let sql = format!(
                "LOCK TABLE ONLY {} IN ACCESS SHARE MODE; \
                 SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = {}",
                part.name, part.oid
            );
            let rows = session.query(&sql).await;
            let rows = rows.map_err(|error| self.told(error.into()))?;
            if !rows.first().is_some_and(|row| row.is_true(0)) {
                return Err(SourceError::Rewritten(self.layout.table.clone()));
            }
        }
        Ok(())
    }

    async fn look(
        &self,
        session: &mut Connection,
        ids: &[&DocumentId],
    ) -> Result<Vec<Option<Document>>, SourceError> {
        if columns(session, self.layout.oid).await? != self.columns {
            return Err(SourceError::Altered(self.layout.table.clone()));
        }
        let mut found = Documents::new();
        let layout = &self.layout;
        by_key(session, layout, ids, &mut found).await?;
        // The others are known by a digest of their key or of the whole row.
        let rest = ids.iter().filter(|id| !found.contains_key(**id));
        let rest: HashSet<&DocumentId> = rest.filter(|id| is_digest(id)).copied().collect();
        if !rest.is_empty() {
            self.by_reading(session, &rest, &mut found).await?;
        }
        Ok(ids.iter().map(|id| found.get(*id).cloned()).collect())
    }

    /// Reads all rows for some.
    async fn by_reading(
        &self,
        session: &mut Connection,
        wanted: &HashSet<&DocumentId>,
        found: &mut Documents,
    ) -> Result<(), SourceError> {
        for part in &self.parts {
            let mut rows = session.copy_out(&cut::whole(&self.layout, part)).await?;
            while let Some(line) = rows.next().await? {
                row(&line, |values| {
                    let id = self.layout.id(values);
                    if wanted.contains(&id) {
                        found.insert(id, self.layout.document(values));
                    }
                });
            }
        }
        Ok(())
    }
}

/// Asks for the rows whose keys the ids are. An id that can be no key, such as a word where keys are numbers,
/// makes the server refuse the whole question: it is asked in halves then.
async fn by_key(
    session: &mut Connection,
    layout: &Layout,
    ids: &[&DocumentId],
    found: &mut Documents,
) -> Result<(), SourceError> {
    let keys = ids.iter().filter_map(|id| layout.key_of(id));
    let keys: Vec<Vec<String>> = keys.collect();
    let mut open = vec![keys.as_slice()];
    while let Some(some) = open.pop() {
        if some.is_empty() {
            continue;
        }
        session.query("SAVEPOINT looked").await?;
        let rows = match reread::rows_of(session, layout, some).await {
            Ok(rows) => rows,
            Err(error) if error.code().is_some_and(|code| code.starts_with("22")) => {
                session.query("ROLLBACK TO looked").await?;
                if some.len() > 1 {
                    let (one, other) = some.split_at(some.len() / 2);
                    open.extend([one, other]);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        session.query("RELEASE looked").await?;
        for row in rows {
            let values: Vec<Option<&str>> = row.values().collect();
            // `01` is found as 1, and is not its id.
            let id = layout.id(&values);
            found.insert(id, layout.document(&values));
        }
    }
    Ok(())
}
