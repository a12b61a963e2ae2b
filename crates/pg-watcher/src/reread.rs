//! Reads rows again of which the stream did not send everything: values that are large and were not changed
//! (TOAST), and generated columns.
//!
//! What is read may be newer than the change it is read for. That is harmless: what made it newer comes in
//! the stream too, with a higher version. A row that is gone meanwhile is left out: its delete comes.

use std::{collections::HashMap, time::Duration};

use model::{Action, Change, DocumentId};
use postgres::{Connection, Row, quote_ident, quote_literal};
use runtime::backoff::Backoff;

use crate::{
    SourceError,
    layout::Layout,
    stream::{Buffer, Reread},
};

/// How many rows are asked for at once.
const AT_ONCE: usize = 500;
/// Answers for statements on what was altered or dropped since.
const CHANGED_SINCE: [&str; 3] = ["42703", "42P01", "3F000"];

/// The changes of a table, with everything that was missing.
pub(crate) async fn complete(
    connection: &mut Connection,
    buffer: Buffer,
) -> Result<Vec<Change>, SourceError> {
    let wanted: Vec<&Reread> = buffer
        .entries
        .iter()
        .filter_map(|entry| entry.reread.as_ref())
        .collect();
    if wanted.is_empty() {
        return Ok(buffer.entries.into_iter().map(|e| e.change).collect());
    }
    wait_until_visible(connection, &wanted).await?;
    let mut rows = HashMap::new();
    for some in wanted.chunks(AT_ONCE) {
        read(connection, &buffer.layout, some, &mut rows).await?;
    }
    let changes = buffer.entries.into_iter().filter_map(|entry| {
        let Some(_) = entry.reread else {
            return Some(entry.change);
        };
        let row = rows.get(&entry.change.id)?;
        let values: Vec<Option<&str>> = row.values().collect();
        let document = buffer.layout.document(&values);
        let action = match entry.change.action {
            Action::Index(_) => Action::Index(document),
            _ => Action::Update(document),
        };
        Some(Change {
            action,
            ..entry.change
        })
    });
    Ok(changes.collect())
}

/// A commit is in the log a moment before other sessions see it, and much longer where it waits for a
/// synchronous stand-by.
async fn wait_until_visible(
    connection: &mut Connection,
    wanted: &[&Reread],
) -> Result<(), SourceError> {
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
    loop {
        let rows = connection.query("SELECT txid_current_snapshot()").await?;
        let snapshot = rows.first().map(|row| row.text(0)).unwrap_or_default();
        if wanted.iter().all(|reread| sees(snapshot, reread.xid)) {
            return Ok(());
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether a snapshot `xmin:xmax:xip,…` sees a transaction, of whose number the low 32 bits are known.
fn sees(snapshot: &str, xid: u32) -> bool {
    let mut parts = snapshot.split(':');
    let low = |text: &str| text.parse::<u64>().map(|number| number as u32).ok();
    let (Some(_), Some(xmax), Some(running)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some(xmax) = low(xmax) else {
        return false;
    };
    let is_before = (xmax.wrapping_sub(xid) as i32) > 0;
    is_before && !running.split(',').any(|running| low(running) == Some(xid))
}

async fn read(
    connection: &mut Connection,
    layout: &Layout,
    wanted: &[&Reread],
    rows: &mut HashMap<DocumentId, Row>,
) -> Result<(), SourceError> {
    // A key of an identity index has no nulls, and neither has a primary key.
    let keys = wanted.iter().map(|reread| reread.key.iter().cloned());
    let keys: Vec<Vec<String>> = keys.filter_map(|key| key.collect()).collect();
    let found = match rows_of(connection, layout, &keys).await {
        // The table is copied again because of that, and what is there now comes with it.
        Err(error) if error.is_one_of(&CHANGED_SINCE) => return Ok(()),
        found => found?,
    };
    for row in found {
        let values: Vec<Option<&str>> = row.values().collect();
        let id = layout.id(&values);
        rows.insert(id, row);
    }
    Ok(())
}

/// The rows with these keys.
pub(crate) async fn rows_of(
    connection: &mut Connection,
    layout: &Layout,
    keys: &[Vec<String>],
) -> Result<Vec<Row>, postgres::Error> {
    let columns: Vec<String> = layout
        .key
        .iter()
        .map(|at| quote_ident(&layout.columns[*at].name))
        .collect();
    if keys.is_empty() || columns.is_empty() {
        return Ok(Vec::new());
    }
    let keys = keys.iter().map(|key| {
        let parts: Vec<String> = key.iter().map(|part| quote_literal(part)).collect();
        format!("({})", parts.join(","))
    });
    let keys: Vec<String> = keys.collect();
    let only = if layout.is_partitioned { "" } else { "ONLY " };
    let filter = layout.filter.iter();
    let filter: String = filter.map(|filter| format!(" AND ({filter})")).collect();
    let sql = format!(
        "SELECT {} FROM {only}{} WHERE ({}) IN ({}){filter}",
        layout.select_list(),
        layout.qualified,
        columns.join(","),
        keys.join(",")
    );
    connection.query(&sql).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_has_ended_before_it_across_the_wrap_around() {
        assert!(sees("10:20:10,15", 11));
        assert!(!sees("10:20:10,15", 15));
        assert!(!sees("10:20:", 20));
        let epoch = 1u64 << 32;
        assert!(sees(&format!("{}:{}:", epoch - 5, epoch + 5), u32::MAX));
        assert!(sees(&format!("{}:{}:", epoch - 5, epoch + 5), 3));
        assert!(!sees(
            &format!("{}:{}:{}", epoch - 5, epoch + 5, epoch + 3),
            3
        ));
        assert!(!sees(&format!("{}:{}:", epoch - 9, epoch - 5), 3));
    }
}
