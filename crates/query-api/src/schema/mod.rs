//! What can be asked of an index: its fields, their types and operators, read from its mapping. Pure.

mod kind;
mod scope;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::{
    kind::{Kind, Operator},
    scope::{FieldScope, Glob, ScopedSchema},
};

/// An index as it is exposed.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    /// The name callers use: the index's or an alias's.
    pub(crate) name: String,
    /// The index behind it, which is what is searched.
    pub(crate) index: String,
    /// By full path, such as `customer.name`.
    pub(crate) fields: BTreeMap<String, Field>,
    /// The epoch of the newest history of the source, if it has such a thing.
    pub(crate) epoch: Option<u8>,
    /// Whether its fields are columns of PostgreSQL.
    pub(crate) is_from_postgres: bool,
    /// Changes with the index behind the name and with its mapping.
    pub(crate) fingerprint: u64,
}

/// A field that has values in documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// The path under which whole values are compared, sorted and counted: for a text its keyword
    /// sub-field, if it has one.
    pub(crate) exact: Option<String>,
    /// Values longer than this are kept but cannot be found.
    pub(crate) ignore_above: Option<usize>,
    /// Values are changed before they are compared, so two that differ may be equal here.
    pub(crate) is_normalised: bool,
    /// Whether it can be searched at all.
    pub(crate) is_indexed: bool,
    /// Whether it can be sorted by and counted.
    pub(crate) has_columns: bool,
    /// The list of objects it is in, whose members belong together.
    pub(crate) nested: Option<String>,
    /// What an alias stands for.
    pub(crate) alias_of: Option<String>,
    /// The type of the column it comes from, where the source has said so.
    pub(crate) column_type: Option<String>,
}

impl Field {
    /// The operators a filter may use, in the order of the documentation.
    pub(crate) fn operators(&self) -> Vec<Operator> {
        if !self.is_indexed {
            return Vec::new();
        }
        let has_exact = self.exact.is_some();
        Operator::ALL
            .into_iter()
            .filter(|operator| self.kind.has(*operator, has_exact))
            .collect()
    }

    /// Whether results can be ordered by it.
    pub(crate) fn is_sortable(&self) -> bool {
        self.has_columns && self.exact.is_some() && self.nested.is_none() && self.kind.is_ordered()
    }

    /// Whether its values can be counted.
    pub(crate) fn is_countable(&self) -> bool {
        self.is_sortable()
    }

    /// Whether `q` can look into it.
    pub(crate) fn is_searchable(&self) -> bool {
        self.is_indexed && self.nested.is_none() && matches!(self.kind, Kind::Text | Kind::Keyword)
    }
}

impl Schema {
    /// Reads an index's `mappings`.
    pub(crate) fn of(name: &str, index: &str, uuid: &str, mappings: &Value) -> Schema {
        let mut fields = BTreeMap::new();
        let columns = &mappings["_meta"]["syncline"]["columns"];
        if let Some(properties) = mappings["properties"].as_object() {
            collect(properties, "", None, columns, &mut fields);
        }
        resolve_aliases(&mut fields);
        // What else we keep in `_meta` changes nothing for who asks.
        let identity = format!(
            "{name}\0{index}\0{uuid}\0{}\0{columns}",
            mappings["properties"]
        );
        Schema {
            name: name.to_owned(),
            index: index.to_owned(),
            fields,
            epoch: newest_epoch(mappings),
            is_from_postgres: columns.is_object(),
            fingerprint: xxh3_64(identity.as_bytes()),
        }
    }
}

fn newest_epoch(mappings: &Value) -> Option<u8> {
    let histories = mappings["_meta"]["syncline"]["histories"].as_object()?;
    let epochs = histories
        .values()
        .filter_map(|history| history["epoch"].as_u64());
    epochs.max().and_then(|epoch| u8::try_from(epoch).ok())
}

fn collect(
    properties: &Map<String, Value>,
    prefix: &str,
    nested: Option<&str>,
    columns: &Value,
    into: &mut BTreeMap<String, Field>,
) {
    for (name, mapping) in properties {
        let path = format!("{prefix}{name}");
        let kind = mapping["type"].as_str().unwrap_or("object");
        if let Some(inner) = mapping["properties"].as_object() {
            let nested = if kind == "nested" {
                Some(path.as_str())
            } else {
                nested
            };
            collect(inner, &format!("{path}."), nested, columns, into);
            continue;
        }
        if mapping["enabled"] == false || matches!(kind, "object" | "nested") {
            continue;
        }
        let mut field = field(path.clone(), kind, mapping, nested);
        field.column_type = columns[&path].as_str().map(str::to_owned);
        into.insert(path, field);
    }
}

fn field(path: String, kind: &str, mapping: &Value, nested: Option<&str>) -> Field {
    let alias_of =
        (kind == "alias").then(|| mapping["path"].as_str().unwrap_or_default().to_owned());
    let kind = Kind::of(kind);
    let whole = match kind {
        Kind::Text => {
            keyword_of(mapping).map(|(name, keyword)| (format!("{path}.{name}"), keyword))
        }
        Kind::Other => None,
        _ => Some((path.clone(), mapping)),
    };
    let exact_mapping = whole.as_ref().map(|(_, mapping)| *mapping);
    let flag = |mapping: Option<&Value>, name: &str| {
        mapping.is_none_or(|m| m[name] != false && m[name] != "false")
    };
    Field {
        kind,
        ignore_above: exact_mapping
            .and_then(|m| m["ignore_above"].as_u64())
            .and_then(|n| usize::try_from(n).ok()),
        is_normalised: exact_mapping.is_some_and(|m| !m["normalizer"].is_null()),
        is_indexed: flag(Some(mapping), "index"),
        has_columns: exact_mapping.is_some() && flag(exact_mapping, "doc_values"),
        exact: whole.map(|(path, _)| path),
        path,
        nested: nested.map(str::to_owned),
        alias_of,
        column_type: None,
    }
}

/// The keyword among a text's sub-fields that keeps values as they are, or else any.
fn keyword_of(mapping: &Value) -> Option<(&String, &Value)> {
    let keywords = mapping["fields"].as_object()?.iter().filter(|(_, sub)| {
        sub["type"] == "keyword" && sub["index"] != false && sub["doc_values"] != false
    });
    keywords.min_by_key(|(_, sub)| !sub["normalizer"].is_null())
}

/// An alias is what it stands for, under another name.
fn resolve_aliases(fields: &mut BTreeMap<String, Field>) {
    let names: Vec<String> = fields.keys().cloned().collect();
    for name in names {
        let target = fields[&name].alias_of.clone();
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            continue;
        };
        let resolved = fields.get(&target).cloned().map(|field| Field {
            path: field.path,
            alias_of: Some(target),
            ..field
        });
        match resolved {
            Some(resolved) => fields.insert(name, resolved),
            None => fields.remove(&name),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_compared_by_its_keyword_and_not_at_all_without_one() {
        let schema = Schema::of(
            "m",
            "m",
            "u",
            &json!({ "properties": {
                "title": { "type": "text", "fields": { "raw": { "type": "keyword", "ignore_above": 256 } } },
                "body": { "type": "text" },
            }}),
        );
        let title = &schema.fields["title"];
        assert_eq!(title.exact.as_deref(), Some("title.raw"));
        assert_eq!(title.ignore_above, Some(256));
        assert!(title.operators().contains(&Operator::Eq));
        let body = &schema.fields["body"];
        assert!(!body.operators().contains(&Operator::Eq));
        assert!(body.operators().contains(&Operator::Fts) && !body.is_sortable());
    }

    #[test]
    fn objects_are_paths_and_nested_lists_are_remembered() {
        let schema = Schema::of(
            "m",
            "m",
            "u",
            &json!({ "properties": {
                "customer": { "properties": { "name": { "type": "keyword" } } },
                "lines": { "type": "nested", "properties": { "sku": { "type": "keyword" } } },
                "off": { "type": "object", "enabled": false },
            }}),
        );
        assert_eq!(schema.fields["customer.name"].nested, None);
        assert_eq!(schema.fields["lines.sku"].nested.as_deref(), Some("lines"));
        assert!(!schema.fields["lines.sku"].is_sortable());
        assert_eq!(schema.fields.len(), 2);
    }

    #[test]
    fn an_alias_to_nothing_is_no_field() {
        let schema = Schema::of(
            "m",
            "m",
            "u",
            &json!({ "properties": {
                "a": { "type": "long" },
                "b": { "type": "alias", "path": "a" },
                "c": { "type": "alias", "path": "gone" },
            }}),
        );
        assert_eq!(schema.fields["b"].path, "a");
        assert_eq!(schema.fields["b"].alias_of.as_deref(), Some("a"));
        assert!(!schema.fields.contains_key("c"));
    }

    #[test]
    fn another_index_behind_a_name_has_another_fingerprint() {
        let mappings = json!({ "properties": { "a": { "type": "long" } } });
        let one = Schema::of("m", "m-1", "u1", &mappings).fingerprint;
        assert_eq!(one, Schema::of("m", "m-1", "u1", &mappings).fingerprint);
        assert_ne!(one, Schema::of("m", "m-1", "u2", &mappings).fingerprint);
        assert_ne!(one, Schema::of("m", "m-1", "u1", &json!({})).fingerprint);
    }
}
