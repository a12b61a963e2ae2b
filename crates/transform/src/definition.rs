//! What an index looks like at the target when its documents are changed on the way.
//!
//! A field that gets another name takes its mapping along, one that is masked or hashed becomes a keyword, and
//! one that is removed leaves no mapping behind. What a jq expression makes of documents cannot be known: the
//! target maps it as it comes, or as somebody has mapped it there before.

use model::IndexDefinition;
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    json::Path,
    rules::Step,
    step::{Action, DateForm},
};

/// Types that take any text.
const TEXTS: [&str; 5] = [
    "text",
    "keyword",
    "wildcard",
    "match_only_text",
    "search_as_you_type",
];

/// The definition as the steps leave it.
pub(crate) fn adapt<'a>(
    definition: &IndexDefinition,
    steps: impl Iterator<Item = &'a Step>,
) -> IndexDefinition {
    let mut adapted = definition.clone();
    let Ok(mut mappings) = serde_json::from_str::<Value>(definition.mappings.get()) else {
        return adapted;
    };
    let Some(Value::Object(properties)) = mappings.get_mut("properties") else {
        return adapted;
    };
    let before = properties.clone();
    for step in steps {
        change(properties, &step.action, step.on.document.is_some());
    }
    if *properties != before
        && let Ok(raw) = to_raw_value(&mappings)
    {
        adapted.mappings = raw;
    }
    adapted
}

/// Changes the properties like the documents. Where that is done to some documents only, the old field stays.
fn change(properties: &mut Map<String, Value>, action: &Action, only_some: bool) {
    match action {
        Action::Rename { from, to } | Action::Move { from, to } => {
            let mapping = match only_some {
                true => find(properties, from.names()).cloned(),
                false => take(properties, from.names()),
            };
            if let Some(mapping) = mapping {
                put(properties, to.names(), mapping);
            }
        }
        Action::Copy { from, to } => {
            if let Some(mapping) = find(properties, from.names()).cloned() {
                put(properties, to.names(), mapping);
            }
        }
        Action::Remove(fields) if !only_some => {
            for field in fields {
                take(properties, field.names());
            }
        }
        Action::Mask { fields, .. } | Action::Hash { fields, .. } => {
            each(properties, fields, &mut |mapping| {
                let kind = mapping.get("type").and_then(Value::as_str);
                if !kind.is_some_and(|kind| TEXTS.contains(&kind)) {
                    *mapping = json!({ "type": "keyword" });
                }
            });
        }
        Action::Date { fields, date } => each(properties, fields, &mut |mapping| {
            *mapping = match &date.to {
                DateForm::Rfc3339 => json!({ "type": "date" }),
                DateForm::EpochSeconds => json!({ "type": "date", "format": "epoch_second" }),
                DateForm::EpochMillis => json!({ "type": "date", "format": "epoch_millis" }),
                DateForm::Pattern(_) => json!({ "type": "keyword" }),
            };
        }),
        Action::Flatten { field, separator } => flatten(properties, field.as_ref(), separator),
        Action::Remove(_) | Action::Set { .. } | Action::Jq(_) | Action::Drop(_) => {}
    }
}

/// The properties within a mapping.
fn inner(mapping: &mut Value) -> Option<&mut Map<String, Value>> {
    mapping.get_mut("properties")?.as_object_mut()
}

fn find<'a>(properties: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mapping = properties.get(first)?;
    match rest.is_empty() {
        true => Some(mapping),
        false => find(mapping.get("properties")?.as_object()?, rest),
    }
}

fn take(properties: &mut Map<String, Value>, path: &[String]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    match rest.is_empty() {
        true => properties.remove(first),
        false => take(inner(properties.get_mut(first)?)?, rest),
    }
}

fn put(properties: &mut Map<String, Value>, path: &[String], mapping: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        properties.insert(first.clone(), mapping);
        return;
    }
    let around = properties
        .entry(first.clone())
        .or_insert_with(|| json!({ "properties": {} }));
    if let Some(within) = inner(around) {
        put(within, rest, mapping);
    }
}

/// Calls `change` with the mappings of the single values that fields hold.
fn each(properties: &mut Map<String, Value>, fields: &[Path], change: &mut dyn FnMut(&mut Value)) {
    for field in fields {
        if let Some(mut mapping) = take(properties, field.names()) {
            leaves(&mut mapping, change);
            put(properties, field.names(), mapping);
        }
    }
}

fn leaves(mapping: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    match inner(mapping) {
        Some(properties) => properties
            .values_mut()
            .for_each(|inner| leaves(inner, change)),
        None => change(mapping),
    }
}

fn flatten(properties: &mut Map<String, Value>, field: Option<&Path>, separator: &str) {
    if let Some(path) = field
        && let [parents @ .., _] = path.names()
        && !parents.is_empty()
    {
        // Only what stands at the top is lifted in mappings; below it the target maps as it comes.
        return;
    }
    for (name, mapping) in std::mem::take(properties) {
        let meant = field.is_none_or(|field| field.last() == name);
        // Arrays of objects stay as they are, and so does what is mapped as such.
        let is_nested = mapping.get("type").is_some_and(|kind| kind == "nested");
        match meant && !is_nested && mapping.get("properties").is_some() {
            true => spill(properties, &name, mapping, separator),
            false => drop(properties.insert(name, mapping)),
        }
    }
}

fn spill(into: &mut Map<String, Value>, name: &str, mut mapping: Value, separator: &str) {
    match inner(&mut mapping) {
        Some(properties) => {
            for (key, inner) in std::mem::take(properties) {
                spill(into, &format!("{name}{separator}{key}"), inner, separator);
            }
        }
        None => drop(into.insert(name.to_owned(), mapping)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::{RuleSet, Selection};

    fn adapted(rules: &str, properties: &Value) -> Value {
        let rules = RuleSet::read(&Selection::default(), Some(("rules", rules)), &|_| {
            Ok(b"a key of sixteen bytes".to_vec())
        })
        .unwrap();
        let raw = |value: Value| RawValue::from_string(value.to_string()).unwrap();
        let definition = IndexDefinition {
            product: "elasticsearch 8".to_owned(),
            settings: raw(json!({})),
            mappings: raw(json!({ "dynamic": "strict", "properties": properties })),
            aliases: None,
            lineage: None,
        };
        let at = crate::At {
            tenant: "t".parse().unwrap(),
            index: "users".parse().unwrap(),
            operation: model::Operation::Index,
        };
        let (_, adapted) = rules.define(&at, &definition).unwrap().remove(0);
        let mut mappings: Value = serde_json::from_str(adapted.mappings.get()).unwrap();
        assert_eq!(mappings["dynamic"], "strict");
        mappings["properties"].take()
    }

    #[test]
    fn mappings_follow_what_is_done_to_fields() {
        let rules = r#"
transforms:
  - rename: { from: name.first, to: name.given }
  - move: { from: secret, to: hidden.secret }
  - remove: [phone]
  - hash: { field: [ip, title], key_env: K }
  - date: { field: born, from: "%d.%m.%Y" }
  - flatten: { field: address }
"#;
        let properties = json!({
            "name": { "properties": { "first": { "type": "text" }, "last": { "type": "keyword" } } },
            "secret": { "type": "long" },
            "phone": { "type": "keyword" },
            "ip": { "type": "ip" },
            "title": { "type": "text", "analyzer": "english" },
            "born": { "type": "keyword" },
            "address": { "properties": { "city": { "type": "keyword" }, "geo": { "properties": { "at": { "type": "geo_point" } } } } },
        });
        assert_eq!(
            adapted(rules, &properties),
            json!({
                "name": { "properties": { "given": { "type": "text" }, "last": { "type": "keyword" } } },
                "hidden": { "properties": { "secret": { "type": "long" } } },
                "ip": { "type": "keyword" },
                "title": { "type": "text", "analyzer": "english" },
                "born": { "type": "date" },
                "address_city": { "type": "keyword" },
                "address_geo_at": { "type": "geo_point" },
            })
        );
    }

    #[test]
    fn what_is_done_to_some_documents_leaves_the_old_mapping_too() {
        let rules = "transforms: [{ on: { document: { field: a, exists: true } }, rename: { from: a, to: b } }]";
        assert_eq!(
            adapted(rules, &json!({ "a": { "type": "long" } })),
            json!({ "a": { "type": "long" }, "b": { "type": "long" } })
        );
    }
}
