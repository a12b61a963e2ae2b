//! What a table holds, by the server's own word.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::{Http, PostgresServer, wait_until};

use crate::support::equal::{Contents, contents, difference};

/// A table of a database with a server, and the index it becomes.
pub(crate) struct Table<'a> {
    pub(crate) server: &'a PostgresServer,
    pub(crate) database: &'a str,
    /// `schema.table`.
    pub(crate) name: &'a str,
    /// An SQL expression of `t` that gives the id.
    pub(crate) id: &'a str,
}

impl Table<'_> {
    pub(crate) fn index(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }

    /// Every row as the document it should be.
    pub(crate) async fn rows(&self) -> Result<Contents> {
        let script = format!(
            "SET timezone = 'UTC'; SELECT json_build_array(({})::text, to_jsonb(t)) FROM {} t;",
            self.id, self.name
        );
        let answer = self.server.psql(self.database, &script).await?;
        let mut rows = Contents::new();
        for line in answer.lines() {
            let pair: (String, Value) = serde_json::from_str(line).context(line.to_owned())?;
            rows.insert((pair.0, None), pair.1);
        }
        Ok(rows)
    }

    /// What differs between table and index.
    pub(crate) async fn difference(&self, target: &Http) -> Result<Option<String>> {
        let rows = self.rows().await?;
        Ok(difference(&rows, &contents(target, &self.index()).await?))
    }

    /// Waits until the index is what the table is; returns how many rows that is.
    pub(crate) async fn until_equal(&self, target: &Http, within: Duration) -> Result<usize> {
        let waited = wait_until("table and index are equal", within, async || {
            matches!(self.difference(target).await, Ok(None))
        });
        match (waited.await, self.difference(target).await?) {
            (_, None) => Ok(self.rows().await?.len()),
            (Err(late), Some(difference)) => Err(late.context(difference)),
            (Ok(()), Some(difference)) => {
                anyhow::bail!("it was equal and is not any more: {difference}")
            }
        }
    }
}
