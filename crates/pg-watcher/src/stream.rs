//! From the messages of a slot to changes: one for each row and transaction, gathered by table.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use model::{Action, Change, Document, DocumentId, Epoch, Operation, Version};
use postgres::{
    Lsn,
    pgoutput::{Datum, Old, Relation, Tuple},
};

use crate::{SourceError, layout::Layout};

/// At this size, in bytes, what is gathered leaves.
const FULL_BYTES: usize = 1 << 20;
/// So does this many changes.
const FULL_COUNT: usize = 4000;

/// A table as the stream sends it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) layout: Arc<Layout>,
    pub(crate) epoch: Epoch,
    /// For each column of the layout, where it is in a tuple; nothing for what is not sent.
    from: Vec<Option<usize>>,
    /// For each column of the layout, whether it belongs to the identity that is sent.
    is_key: Vec<bool>,
}

impl Sent {
    pub(crate) fn new(layout: Arc<Layout>, epoch: Epoch, relation: &Relation) -> Sent {
        let place = |name: &str| relation.columns.iter().position(|sent| sent.name == name);
        let from: Vec<Option<usize>> = layout.columns.iter().map(|c| place(&c.name)).collect();
        let is_key = from
            .iter()
            .map(|at| at.is_some_and(|at| relation.columns[at].is_key))
            .collect();
        Sent {
            layout,
            epoch,
            from,
            is_key,
        }
    }

    /// The values of a row, and whether some of them are missing.
    fn values<'a>(&self, new: &'a Tuple, old: Option<&'a Old>) -> (Vec<Option<&'a str>>, bool) {
        let mut is_incomplete = false;
        let columns = self.from.iter().zip(&self.is_key);
        let values = columns.map(|(from, is_key)| {
            let Some(at) = *from else {
                is_incomplete = true;
                return None;
            };
            let before = match old {
                Some(Old::Row(row)) => row.get(at),
                Some(Old::Key(row)) if *is_key => row.get(at),
                _ => None,
            };
            match (new.get(at), before) {
                (Some(Datum::Text(text)), _) => text_of(text),
                (Some(Datum::Null), _) => None,
                (Some(Datum::Unchanged), Some(Datum::Text(text))) => text_of(text),
                (Some(Datum::Unchanged), _) | (None, _) => {
                    is_incomplete = true;
                    None
                }
            }
        });
        (values.collect(), is_incomplete)
    }

    fn old_values<'a>(&self, old: &'a Old) -> Vec<Option<&'a str>> {
        let of = |at: &Option<usize>| match old.tuple().get((*at)?) {
            Some(Datum::Text(text)) => text_of(text),
            _ => None,
        };
        self.from.iter().map(of).collect()
    }
}

/// The session's encoding is UTF-8, and the server checks it.
fn text_of(text: &Bytes) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

/// A transaction that is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) commit: Lsn,
    pub(crate) xid: u32,
}

/// A row of which the stream did not send everything.
#[derive(Debug, Clone)]
pub(crate) struct Reread {
    /// The values of its key.
    pub(crate) key: Vec<Option<String>>,
    /// The transaction that has to be visible.
    pub(crate) xid: u32,
}

/// A change, or the row that has to be read for it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) change: Change,
    pub(crate) reread: Option<Reread>,
}

/// The changes of a table.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) layout: Arc<Layout>,
    pub(crate) entries: Vec<Entry>,
    by_id: HashMap<DocumentId, usize>,
}

impl Buffer {
    fn push(&mut self, entry: Entry) -> usize {
        let size = entry.change.size();
        match self.by_id.get(&entry.change.id) {
            Some(at) => {
                let held = &mut self.entries[*at];
                let was_new = held.change.operation() == Operation::Index;
                *held = entry;
                // What was created and changed in one go was created.
                if let (true, Action::Update(document)) = (was_new, &held.change.action) {
                    held.change.action = Action::Index(document.clone());
                }
            }
            None => {
                self.by_id
                    .insert(entry.change.id.clone(), self.entries.len());
                self.entries.push(entry);
            }
        }
        size
    }
}

/// Gathers changes until they leave.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    tables: HashMap<u32, Sent>,
    buffers: Vec<Buffer>,
    bytes: usize,
    count: usize,
}

impl Gathered {
    /// A table that is sent from now on.
    pub(crate) fn describe(&mut self, oid: u32, sent: Option<Sent>) {
        match sent {
            Some(sent) => self.tables.insert(oid, sent),
            None => self.tables.remove(&oid),
        };
    }

    pub(crate) fn table(&self, oid: u32) -> Option<&Sent> {
        self.tables.get(&oid)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES || self.count >= FULL_COUNT
    }

    /// Hands out what was gathered.
    pub(crate) fn take(&mut self) -> Vec<Buffer> {
        (self.bytes, self.count) = (0, 0);
        std::mem::take(&mut self.buffers)
    }

    pub(crate) fn insert(
        &mut self,
        transaction: Transaction,
        table: u32,
        new: &Tuple,
    ) -> Result<(), SourceError> {
        self.row(transaction, table, Operation::Index, new, None)
    }

    /// A row that is known by another key than before is another document.
    pub(crate) fn update(
        &mut self,
        transaction: Transaction,
        table: u32,
        old: Option<&Old>,
        new: &Tuple,
    ) -> Result<(), SourceError> {
        if let (Some(old), Some(sent)) = (old, self.tables.get(&table)) {
            let (values, _) = sent.values(new, Some(old));
            let before = sent.layout.id(&sent.old_values(old));
            if before != sent.layout.id(&values) {
                self.gone(transaction, table, old)?;
                return self.row(transaction, table, Operation::Index, new, Some(old));
            }
        }
        self.row(transaction, table, Operation::Update, new, old)
    }

    pub(crate) fn delete(
        &mut self,
        transaction: Transaction,
        table: u32,
        old: &Old,
    ) -> Result<(), SourceError> {
        self.gone(transaction, table, old)
    }

    fn gone(&mut self, transaction: Transaction, table: u32, old: &Old) -> Result<(), SourceError> {
        let Some(sent) = self.tables.get(&table) else {
            return Ok(());
        };
        let version = Version::new(sent.epoch, transaction.commit.0)?;
        let values = sent.old_values(old);
        let change = sent.layout.change(Operation::Delete, &values, version);
        self.push(
            table,
            Entry {
                change,
                reread: None,
            },
        );
        Ok(())
    }

    fn row(
        &mut self,
        transaction: Transaction,
        table: u32,
        operation: Operation,
        new: &Tuple,
        old: Option<&Old>,
    ) -> Result<(), SourceError> {
        let Some(sent) = self.tables.get(&table) else {
            return Ok(());
        };
        let version = Version::new(sent.epoch, transaction.commit.0)?;
        let (values, is_incomplete) = sent.values(new, old);
        let entry = match is_incomplete {
            false => Entry {
                change: sent.layout.change(operation, &values, version),
                reread: None,
            },
            true => {
                let key = sent.layout.key.iter().map(|at| values[*at]);
                let document = Document::from_json(Bytes::from_static(b"{}"));
                Entry {
                    change: Change {
                        id: sent.layout.id(&values),
                        routing: None,
                        version,
                        over: true,
                        action: match operation {
                            Operation::Index => Action::Index(document),
                            _ => Action::Update(document),
                        },
                    },
                    reread: Some(Reread {
                        key: key.map(|value| value.map(str::to_owned)).collect(),
                        xid: transaction.xid,
                    }),
                }
            }
        };
        self.push(table, entry);
        Ok(())
    }

    fn push(&mut self, table: u32, entry: Entry) {
        let Some(sent) = self.tables.get(&table) else {
            return;
        };
        let place = self
            .buffers
            .iter()
            .position(|buffer| Arc::ptr_eq(&buffer.layout, &sent.layout));
        let place = place.unwrap_or_else(|| {
            self.buffers.push(Buffer {
                layout: Arc::clone(&sent.layout),
                entries: Vec::new(),
                by_id: HashMap::new(),
            });
            self.buffers.len() - 1
        });
        self.bytes += self.buffers[place].push(entry);
        self.count += 1;
    }
}
