//! How a table's rows become documents. Pure.

use std::sync::Arc;

use bytes::Bytes;
use model::{
    Action, Change, Document, DocumentId, IndexDefinition, IndexName, Lineage, Operation, Version,
};
use postgres::{Table, Type, Types, pgoutput::Relation};
use serde_json::{Map, Value, json, value::RawValue};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::Columns;

/// What search engines keep for themselves: a column with such a name gets a `_` behind it.
const RESERVED: [&str; 12] = [
    "_id",
    "_index",
    "_type",
    "_source",
    "_routing",
    "_field_names",
    "_ignored",
    "_meta",
    "_nested_path",
    "_seq_no",
    "_version",
    "_primary_term",
];

/// The values of a row as text, in the order of the layout's columns.
pub(crate) type Values<'a> = [Option<&'a str>];

/// A table as an index.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) oid: u32,
    pub(crate) index: IndexName,
    /// `schema.name`, for people.
    pub(crate) table: String,
    /// `"schema"."name"`.
    pub(crate) qualified: String,
    pub(crate) is_partitioned: bool,
    pub(crate) columns: Vec<LayoutColumn>,
    /// Which columns are the id; all of the row where there are none.
    pub(crate) key: Vec<usize>,
    /// Which rows are published, where that is not all.
    pub(crate) filter: Option<String>,
}

#[derive(Debug)]
pub(crate) struct LayoutColumn {
    pub(crate) name: String,
    /// `"name":`, as it stands in the document.
    member: Vec<u8>,
    pub(crate) type_oid: u32,
    pub(crate) of: Arc<Type>,
    pub(crate) is_generated: bool,
}

/// What of a table is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The columns; all without.
    pub(crate) columns: Option<Vec<String>>,
    /// A condition on the rows.
    pub(crate) filter: Option<String>,
}

impl Layout {
    pub(crate) fn of(
        table: &Table,
        index: IndexName,
        scope: &Scope,
        types: &Types,
        overrides: &Columns,
    ) -> Layout {
        let in_scope = |name: &String| {
            scope
                .columns
                .as_ref()
                .is_none_or(|some| some.contains(name))
        };
        let mut columns = Vec::new();
        let mut numbers = Vec::new();
        // Where all of a row is its id, it has to be told by what the stream sends.
        let takes = |column: &&postgres::Column| {
            in_scope(&column.name) && !(table.key().is_empty() && column.is_generated)
        };
        for column in table.columns.iter().filter(takes) {
            let of = overrides.of(&table.schema, &table.name, &column.name);
            let of = of.map_or_else(|| types.get(column.type_oid), |of| Arc::new(of.apply()));
            columns.push(LayoutColumn::new(
                &column.name,
                column.type_oid,
                of,
                column.is_generated,
            ));
            numbers.push(column.number);
        }
        let key = table.key().iter();
        Layout {
            oid: table.oid,
            index,
            table: table.display(),
            qualified: table.qualified(),
            is_partitioned: table.is_partitioned,
            key: key
                .filter_map(|number| numbers.iter().position(|n| n == number))
                .collect(),
            columns,
            filter: scope.filter.clone(),
        }
    }

    /// The layout of a table as the stream describes it, where that is not what the catalogue says any
    /// more: its rows are of an earlier time.
    pub(crate) fn of_relation(
        relation: &Relation,
        known: &Layout,
        types: &Types,
        overrides: &Columns,
    ) -> Layout {
        let columns: Vec<LayoutColumn> = relation
            .columns
            .iter()
            .map(|column| {
                let of = overrides.of(&relation.schema, &relation.name, &column.name);
                let of = of.map_or_else(|| types.get(column.type_oid), |of| Arc::new(of.apply()));
                LayoutColumn::new(&column.name, column.type_oid, of, false)
            })
            .collect();
        let named = known.key.iter().map(|at| known.columns[*at].name.as_str());
        let named: Option<Vec<usize>> = named
            .map(|name| columns.iter().position(|column| column.name == name))
            .collect();
        let flagged = relation.columns.iter().enumerate();
        let flagged = flagged.filter(|(_, column)| column.is_key && relation.identity != b'f');
        Layout {
            oid: known.oid,
            index: known.index.clone(),
            table: known.table.clone(),
            qualified: known.qualified.clone(),
            is_partitioned: known.is_partitioned,
            key: named.unwrap_or_else(|| flagged.map(|(at, _)| at).collect()),
            columns,
            filter: known.filter.clone(),
        }
    }

    /// Whether the stream describes the table as it is here.
    pub(crate) fn fits(&self, relation: &Relation) -> bool {
        let sent = |column: &LayoutColumn| {
            relation
                .columns
                .iter()
                .any(|sent| sent.name == column.name && sent.type_oid == column.type_oid)
        };
        let known = |name: &String| self.columns.iter().any(|column| column.name == *name);
        self.columns
            .iter()
            .all(|column| column.is_generated || sent(column))
            && relation.columns.iter().all(|column| known(&column.name))
    }

    /// A number that changes when documents would.
    pub(crate) fn fingerprint(&self) -> u64 {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|column| (&column.name, column.type_oid, &column.of))
            .collect();
        xxh3_64(
            format!(
                "{columns:?} {:?} {:?} {}",
                self.key, self.filter, self.index
            )
            .as_bytes(),
        )
    }

    /// The columns as a list for SELECT.
    pub(crate) fn select_list(&self) -> String {
        let names = self.columns.iter();
        let names = names.map(|column| postgres::quote_ident(&column.name));
        names.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn definition(&self, version: u32, lineage: Option<Lineage>) -> IndexDefinition {
        let mut properties = Map::new();
        for column in &self.columns {
            if let Some(mapping) = column.of.mapping() {
                properties.insert(json_name(&column.name), mapping);
            }
        }
        let raw = |value: Value| {
            serde_json::value::to_raw_value(&value).expect("a JSON value always serialises")
        };
        let fields = (properties.len() * 3 + 100).max(1000);
        let settings: Box<RawValue> =
            raw(json!({ "mapping": { "total_fields": { "limit": fields.to_string() } } }));
        IndexDefinition {
            product: format!("postgresql {}.{}", version / 10_000, version % 10_000),
            settings,
            mappings: raw(json!({ "dynamic": false, "properties": properties })),
            aliases: None,
            lineage,
        }
    }

    /// The id of a row: its key, or, without one, a digest of all of it.
    pub(crate) fn id(&self, values: &Values<'_>) -> DocumentId {
        let id = match self.key.as_slice() {
            [] => whole_row(values),
            [only] => escape(values.get(*only).copied().flatten()),
            several => {
                let parts = several
                    .iter()
                    .map(|at| escape(values.get(*at).copied().flatten()));
                parts.collect::<Vec<_>>().join("|")
            }
        };
        match DocumentId::try_from(id.as_str()) {
            Ok(id) => id,
            Err(_) => {
                DocumentId::try_from(format!("xxh3:{:032x}", xxh3_128(id.as_bytes())).as_str())
                    .expect("a digest is short and not empty")
            }
        }
    }

    /// The key that a row with this id has; nothing for an id that is made of a digest, or of no key of
    /// this table at all. More than one id can lead to a key, but only one is that of its row.
    pub(crate) fn key_of(&self, id: &DocumentId) -> Option<Vec<String>> {
        let parts = unescape(id.as_str())?;
        // No text of a server has a zero in it.
        let is_key = parts.len() == self.key.len() && !id.as_str().contains('\0');
        is_key.then_some(parts)
    }

    pub(crate) fn document(&self, values: &Values<'_>) -> Document {
        let size: usize = values.iter().flatten().map(|text| text.len()).sum();
        let mut out = Vec::with_capacity(size + self.columns.len() * 16 + 2);
        out.push(b'{');
        for (column, value) in self.columns.iter().zip(values) {
            if *column.of == Type::Skipped {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&column.member);
            match value {
                Some(text) => column.of.write(&mut out, text),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        Document::from_json(Bytes::from(out))
    }

    pub(crate) fn change(
        &self,
        operation: Operation,
        values: &Values<'_>,
        version: Version,
    ) -> Change {
        let action = match operation {
            Operation::Index => Action::Index(self.document(values)),
            Operation::Update => Action::Update(self.document(values)),
            Operation::Delete => Action::Delete,
        };
        Change {
            id: self.id(values),
            routing: None,
            version,
            over: operation != Operation::Delete,
            action,
        }
    }
}

impl LayoutColumn {
    fn new(name: &str, type_oid: u32, of: Arc<Type>, is_generated: bool) -> LayoutColumn {
        let mut member =
            serde_json::to_vec(&json_name(name)).expect("writing text to memory cannot fail");
        member.push(b':');
        LayoutColumn {
            name: name.to_owned(),
            member,
            type_oid,
            of,
            is_generated,
        }
    }
}

fn json_name(name: &str) -> String {
    match RESERVED.contains(&name) {
        true => format!("{name}_"),
        false => name.to_owned(),
    }
}

/// A part of an id. `|` stands between the parts, and an id cannot be empty.
fn escape(value: Option<&str>) -> String {
    match value {
        None => "\\N".to_owned(),
        Some("") => "\\e".to_owned(),
        Some(text) if text.contains(['\\', '|']) => text.replace('\\', "\\\\").replace('|', "\\|"),
        Some(text) => text.to_owned(),
    }
}

/// The parts of an id, if none of them is a null: a key has none.
fn unescape(id: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut characters = id.chars();
    while let Some(character) = characters.next() {
        let last = parts.last_mut()?;
        match character {
            '|' => parts.push(String::new()),
            '\\' => match characters.next()? {
                'e' => {}
                escaped @ ('\\' | '|') => last.push(escaped),
                _ => return None,
            },
            plain => last.push(plain),
        }
    }
    Some(parts)
}

/// Whether an id may be a digest, of which nobody can tell the row.
pub(crate) fn is_digest(id: &DocumentId) -> bool {
    let digest = ["row:", "xxh3:"].map(|kind| id.as_str().strip_prefix(kind));
    let mut digests = digest.into_iter().flatten();
    digests.any(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn whole_row(values: &Values<'_>) -> String {
    let mut bytes = Vec::new();
    for value in values {
        match value {
            None => bytes.extend_from_slice(&u64::MAX.to_le_bytes()),
            Some(text) => {
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
    format!("row:{:032x}", xxh3_128(&bytes))
}

#[cfg(test)]
mod tests {
    use postgres::Column;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn table(key: &[i16]) -> Table {
        let column = |number: i16, name: &str| Column {
            number,
            name: name.to_owned(),
            type_oid: 25,
            modifier: -1,
            is_generated: false,
        };
        Table {
            oid: 1,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            is_partitioned: false,
            parent: None,
            identity: 'd',
            filenode: 1,
            columns: vec![column(1, "a"), column(3, "b"), column(4, "_id")],
            primary_key: key.to_vec(),
            identity_key: Vec::new(),
        }
    }

    fn layout(key: &[i16]) -> Layout {
        let index = IndexName::try_from("i").unwrap();
        Layout::of(
            &table(key),
            index,
            &Scope::default(),
            &Types::default(),
            &Columns::default(),
        )
    }

    #[test]
    fn a_row_becomes_a_document_under_its_key() {
        let values = [Some("x"), None, Some("y")];
        let found = layout(&[3, 1]);
        assert_eq!(found.id(&values).as_str(), "\\N|x");
        assert_eq!(
            found.document(&values).as_bytes(),
            br#"{"a":"x","b":null,"_id_":"y"}"#
        );
        assert_eq!(layout(&[1]).id(&values).as_str(), "x");
        assert!(layout(&[]).id(&values).as_str().starts_with("row:"));
        let long = "x".repeat(600);
        let id = layout(&[1]).id(&[Some(&long), None, None]);
        assert!(id.as_str().starts_with("xxh3:"));
    }

    proptest! {
        #[test]
        fn a_row_is_found_again_by_its_id(
            values in vec("[|\\\\Ne]{0,4}|\\PC{0,9}", 3), is_long: bool,
        ) {
            let long = "x".repeat(600);
            let mut texts: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
            if is_long {
                texts[0] = Some(&long);
            }
            for key in [vec![1], vec![3, 1]] {
                let layout = layout(&key);
                let id = layout.id(&texts);
                let wanted = layout.key.iter().map(|at| texts[*at].unwrap().to_owned()).collect();
                match is_digest(&id) {
                    true => prop_assert!(is_long),
                    false => prop_assert_eq!(layout.key_of(&id), Some(wanted)),
                }
            }
            prop_assert!(is_digest(&layout(&[]).id(&texts)));
        }

        #[test]
        fn different_keys_have_different_ids(
            one in vec(option::of("[|\\\\Na]{0,3}"), 3),
            other in vec(option::of("[|\\\\Na]{0,3}"), 3),
        ) {
            for key in [vec![1, 3], vec![]] {
                let layout = layout(&key);
                let texts = |values: &[Option<String>]| {
                    let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
                    layout.id(&values)
                };
                let same = match key.is_empty() {
                    true => one == other,
                    false => one[..2] == other[..2],
                };
                prop_assert_eq!(texts(&one) == texts(&other), same);
            }
        }
    }
}
