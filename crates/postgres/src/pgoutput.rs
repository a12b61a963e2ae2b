//! What the output plugin `pgoutput` says, protocol version 1 (PostgreSQL 10 and later): the chapter
//! "Logical Replication Message Formats" of the manual. Pure.

use bytes::{Buf, Bytes};

use crate::Lsn;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins. They come one after the other, in the order of their commits.
    Begin {
        /// Where it is committed.
        commit: Lsn,
        /// Its number, without what counts how often numbers have begun again.
        xid: u32,
        /// When it was committed, in microseconds since 2000.
        time: i64,
    },
    /// It ends.
    Commit {
        /// Where it was committed.
        commit: Lsn,
        /// What follows begins here.
        end: Lsn,
    },
    /// What a table looks like. Comes before its first row, and again when something has changed.
    Relation(Relation),
    /// A row was added.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A row was changed.
    Update {
        /// The table.
        relation: u32,
        /// How it was, where the table tells.
        old: Option<Old>,
        /// How it is.
        new: Tuple,
    },
    /// A row is gone.
    Delete {
        /// The table.
        relation: u32,
        /// How it was.
        old: Old,
    },
    /// Tables are empty.
    Truncate {
        /// Which.
        relations: Vec<u32>,
    },
    /// Something that says nothing of rows: an origin, a type, a message of an application.
    Other,
}

/// A table as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's OID.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its replica identity: `d`, `n`, `f` or `i`.
    pub identity: u8,
    /// The columns that are sent.
    pub columns: Vec<RelationColumn>,
}

/// A column as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Its name.
    pub name: String,
    /// Whether it belongs to the replica identity.
    pub is_key: bool,
    /// The OID of its type.
    pub type_oid: u32,
    /// The type's modifier; -1 without one.
    pub modifier: i32,
}

/// A row as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// Only the columns of the replica identity; the others are null.
    Key(Tuple),
    /// All of it.
    Row(Tuple),
}

impl Old {
    /// The values.
    pub fn tuple(&self) -> &Tuple {
        match self {
            Old::Key(tuple) | Old::Row(tuple) => tuple,
        }
    }
}

/// The values of a row, in the order of the relation's columns.
pub type Tuple = Vec<Datum>;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// There is none.
    Null,
    /// It is large, stored apart, and was not changed: it is not sent.
    Unchanged,
    /// The value as text.
    Text(Bytes),
}

/// A message that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It is shorter than it says.
    #[error("a message {0:?} of pgoutput ends too early")]
    Torn(char),
    /// It has a kind that protocol version 1 does not have.
    #[error("pgoutput sent a message {0:?}, which protocol version 1 does not have")]
    Unknown(char),
    /// Something in it makes no sense.
    #[error("a message {0:?} of pgoutput has {1}")]
    Odd(char, &'static str),
    /// There is nothing in it.
    #[error("an empty message of pgoutput")]
    Empty,
}

/// Reads a message. Values are slices of it.
///
/// # Errors
/// When it is not what pgoutput writes.
pub fn decode(message: Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader {
        kind: *message.first().ok_or(DecodeError::Empty)? as char,
        rest: message,
    };
    reader.rest.advance(1);
    let message = reader.message()?;
    match reader.rest.is_empty() || message == Message::Other {
        true => Ok(message),
        false => Err(reader.odd("more than it should")),
    }
}

struct Reader {
    kind: char,
    rest: Bytes,
}

impl Reader {
    fn message(&mut self) -> Result<Message, DecodeError> {
        Ok(match self.kind {
            'B' => Message::Begin {
                commit: Lsn(self.u64()?),
                time: self.u64()? as i64,
                xid: self.u32()?,
            },
            'C' => {
                self.u8()?; // flags, unused
                let (commit, end) = (Lsn(self.u64()?), Lsn(self.u64()?));
                self.u64()?; // the time again
                Message::Commit { commit, end }
            }
            'R' => Message::Relation(self.relation()?),
            'I' => {
                let relation = self.u32()?;
                self.expect(b'N')?;
                Message::Insert {
                    relation,
                    new: self.tuple()?,
                }
            }
            'U' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'N' => None,
                    mark => {
                        let old = self.old(mark)?;
                        self.expect(b'N')?;
                        Some(old)
                    }
                };
                Message::Update {
                    relation,
                    old,
                    new: self.tuple()?,
                }
            }
            'D' => {
                let relation = self.u32()?;
                let mark = self.u8()?;
                Message::Delete {
                    relation,
                    old: self.old(mark)?,
                }
            }
            'T' => {
                let count = self.u32()? as usize;
                self.u8()?; // whether it cascades: all tables are named anyhow
                if count > self.rest.len() / 4 {
                    return Err(DecodeError::Torn(self.kind));
                }
                let relations = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
                Message::Truncate { relations }
            }
            'O' | 'Y' | 'M' => Message::Other,
            other => return Err(DecodeError::Unknown(other)),
        })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let (oid, schema, name) = (self.u32()?, self.text()?, self.text()?);
        let identity = self.u8()?;
        let count = usize::from(self.u16()?);
        let mut columns = Vec::with_capacity(count.min(1600));
        for _ in 0..count {
            columns.push(RelationColumn {
                is_key: self.u8()? & 1 != 0,
                name: self.text()?,
                type_oid: self.u32()?,
                modifier: self.u32()? as i32,
            });
        }
        Ok(Relation {
            oid,
            schema,
            name,
            identity,
            columns,
        })
    }

    fn old(&mut self, mark: u8) -> Result<Old, DecodeError> {
        match mark {
            b'K' => Ok(Old::Key(self.tuple()?)),
            b'O' => Ok(Old::Row(self.tuple()?)),
            _ => Err(self.odd("neither an old nor a new row")),
        }
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let count = usize::from(self.u16()?);
        let mut values = Vec::with_capacity(count.min(1600));
        for _ in 0..count {
            values.push(match self.u8()? {
                b'n' => Datum::Null,
                b'u' => Datum::Unchanged,
                b't' => {
                    let length = self.u32()? as usize;
                    if length > self.rest.len() {
                        return Err(DecodeError::Torn(self.kind));
                    }
                    Datum::Text(self.rest.split_to(length))
                }
                _ => return Err(self.odd("a value that is no text")),
            });
        }
        Ok(values)
    }

    fn expect(&mut self, mark: u8) -> Result<(), DecodeError> {
        match self.u8()? == mark {
            true => Ok(()),
            false => Err(self.odd("no new row")),
        }
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let end = memchr::memchr(0, &self.rest).ok_or(DecodeError::Torn(self.kind))?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.odd("a name that is not UTF-8")),
        }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.rest
            .try_get_u8()
            .map_err(|_| DecodeError::Torn(self.kind))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.rest
            .try_get_u16()
            .map_err(|_| DecodeError::Torn(self.kind))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest
            .try_get_u32()
            .map_err(|_| DecodeError::Torn(self.kind))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.rest
            .try_get_u64()
            .map_err(|_| DecodeError::Torn(self.kind))
    }

    fn odd(&self, what: &'static str) -> DecodeError {
        DecodeError::Odd(self.kind, what)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Writes a message as the server does.
    fn encode(message: &Message) -> Bytes {
        let mut out = BytesMut::new();
        match message {
            Message::Begin { commit, xid, time } => {
                out.put_u8(b'B');
                out.put_u64(commit.0);
                out.put_i64(*time);
                out.put_u32(*xid);
            }
            Message::Commit { commit, end } => {
                out.put_u8(b'C');
                out.put_u8(0);
                out.put_u64(commit.0);
                out.put_u64(end.0);
                out.put_i64(7);
            }
            Message::Relation(relation) => {
                out.put_u8(b'R');
                out.put_u32(relation.oid);
                put_text(&mut out, &relation.schema);
                put_text(&mut out, &relation.name);
                out.put_u8(relation.identity);
                out.put_u16(relation.columns.len() as u16);
                for column in &relation.columns {
                    out.put_u8(column.is_key.into());
                    put_text(&mut out, &column.name);
                    out.put_u32(column.type_oid);
                    out.put_i32(column.modifier);
                }
            }
            Message::Insert { relation, new } => {
                out.put_u8(b'I');
                out.put_u32(*relation);
                out.put_u8(b'N');
                put_tuple(&mut out, new);
            }
            Message::Update { relation, old, new } => {
                out.put_u8(b'U');
                out.put_u32(*relation);
                old.iter().for_each(|old| put_old(&mut out, old));
                out.put_u8(b'N');
                put_tuple(&mut out, new);
            }
            Message::Delete { relation, old } => {
                out.put_u8(b'D');
                out.put_u32(*relation);
                put_old(&mut out, old);
            }
            Message::Truncate { relations } => {
                out.put_u8(b'T');
                out.put_u32(relations.len() as u32);
                out.put_u8(1);
                relations.iter().for_each(|oid| out.put_u32(*oid));
            }
            Message::Other => out.put_slice(b"Oxyz"),
        }
        out.freeze()
    }

    fn put_text(out: &mut BytesMut, text: &str) {
        out.put_slice(text.as_bytes());
        out.put_u8(0);
    }

    fn put_old(out: &mut BytesMut, old: &Old) {
        out.put_u8(match old {
            Old::Key(_) => b'K',
            Old::Row(_) => b'O',
        });
        put_tuple(out, old.tuple());
    }

    fn put_tuple(out: &mut BytesMut, tuple: &Tuple) {
        out.put_u16(tuple.len() as u16);
        for datum in tuple {
            match datum {
                Datum::Null => out.put_u8(b'n'),
                Datum::Unchanged => out.put_u8(b'u'),
                Datum::Text(text) => {
                    out.put_u8(b't');
                    out.put_u32(text.len() as u32);
                    out.put_slice(text);
                }
            }
        }
    }

    fn tuple() -> impl Strategy<Value = Tuple> {
        let text = vec(any::<u8>(), 0..20).prop_map(|text| Datum::Text(text.into()));
        vec(
            prop_oneof![Just(Datum::Null), Just(Datum::Unchanged), text],
            0..6,
        )
    }

    fn old() -> impl Strategy<Value = Old> {
        (any::<bool>(), tuple()).prop_map(|(key, tuple)| match key {
            true => Old::Key(tuple),
            false => Old::Row(tuple),
        })
    }

    fn relation() -> impl Strategy<Value = Relation> {
        let column = ("[^\0]{1,9}", any::<bool>(), any::<u32>(), any::<i32>()).prop_map(
            |(name, is_key, type_oid, modifier)| RelationColumn {
                name,
                is_key,
                type_oid,
                modifier,
            },
        );
        (
            any::<u32>(),
            "[^\0]{0,9}",
            "[^\0]{1,9}",
            any::<u8>(),
            vec(column, 0..5),
        )
            .prop_map(|(oid, schema, name, identity, columns)| Relation {
                oid,
                schema,
                name,
                identity,
                columns,
            })
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (any::<u64>(), any::<u32>(), any::<i64>()).prop_map(|(commit, xid, time)| {
                Message::Begin {
                    commit: Lsn(commit),
                    xid,
                    time,
                }
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(commit, end)| Message::Commit {
                commit: Lsn(commit),
                end: Lsn(end)
            }),
            relation().prop_map(Message::Relation),
            (any::<u32>(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
            (any::<u32>(), proptest::option::of(old()), tuple())
                .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
            (any::<u32>(), old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
            vec(any::<u32>(), 0..4).prop_map(|relations| Message::Truncate { relations }),
            Just(Message::Other),
        ]
    }

    proptest! {
        #[test]
        fn what_the_server_writes_is_read_back(message in message()) {
            prop_assert_eq!(decode(encode(&message)), Ok(message));
        }

        #[test]
        fn a_message_that_was_cut_off_is_an_error_and_no_panic(message in message(), at in 0usize..200) {
            let whole = encode(&message);
            let cut = decode(whole.slice(..at % whole.len()));
            prop_assert!(cut.is_err() || cut == Ok(Message::Other));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
            let _any = decode(bytes.into());
        }
    }
}
