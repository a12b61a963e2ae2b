//! Comparing the fields of two mappings, at every depth.

use serde_json::{Map, Value};

use super::{Drift, drift, join, kind};

/// What a mapping does with a field that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dynamic {
    Adds,
    /// Ignores or refuses it, because somebody wants it so.
    Does(&'static str),
}

impl Dynamic {
    pub(super) fn of(mapping: &Map<String, Value>, inherited: Dynamic) -> Dynamic {
        match mapping
            .get("dynamic")
            .map(|value| value.to_string().replace('"', ""))
            .as_deref()
        {
            None => inherited,
            Some("strict") => Dynamic::Does("strict"),
            Some("false") => Dynamic::Does("not dynamic"),
            Some(_) => Dynamic::Adds,
        }
    }
}

/// Compares fields.
#[derive(Default)]
pub(super) struct Fields {
    /// As it is put into the mapping.
    pub(super) additions: Map<String, Value>,
    pub(super) added: Vec<String>,
    pub(super) drift: Vec<Drift>,
}

impl Fields {
    /// `theirs_is` says what theirs does with a field it lacks. Additions are relative to this level.
    pub(super) fn compare(
        &mut self,
        path: &str,
        ours: &Map<String, Value>,
        theirs: &Map<String, Value>,
        theirs_is: Dynamic,
    ) {
        let of = |mapping: &Map<String, Value>| {
            mapping
                .get("properties")
                .and_then(Value::as_object)
                .cloned()
        };
        let (Some(ours_fields), theirs_fields) = (of(ours), of(theirs).unwrap_or_default()) else {
            return;
        };
        let same = Dynamic::of(ours, Dynamic::Adds) == theirs_is;
        for (name, field) in &ours_fields {
            let path = join(path, name);
            let there = theirs_fields.get(name);
            match (field.as_object(), there.and_then(Value::as_object)) {
                (Some(_), None) => match theirs_is {
                    Dynamic::Does(how) if !same => self.drift.push(Drift {
                        what: format!("field {path}"),
                        source: kind(field),
                        target: format!("missing, and the mapping is {how}"),
                    }),
                    _ => {
                        self.added.push(path);
                        self.additions.insert(name.clone(), field.clone());
                    }
                },
                (Some(field), Some(there)) => self.same_field(&path, name, field, there, theirs_is),
                _ => {}
            }
        }
    }

    fn same_field(
        &mut self,
        path: &str,
        name: &str,
        field: &Map<String, Value>,
        there: &Map<String, Value>,
        theirs_is: Dynamic,
    ) {
        let own = |field: &Map<String, Value>| {
            let mut own = field.clone();
            own.retain(|key, _| !matches!(key.as_str(), "properties" | "fields" | "dynamic"));
            // What a field with properties is unless it says otherwise.
            if field.contains_key("properties") {
                own.entry("type").or_insert("object".into());
            }
            Value::Object(own)
        };
        let (ours, theirs) = (own(field), own(there));
        if ours != theirs {
            self.drift
                .extend(drift(&format!("field {path}"), Some(&ours), Some(&theirs)));
            return;
        }
        let mut inner = Fields::default();
        inner.compare(path, field, there, Dynamic::of(there, theirs_is));
        let mut addition = Map::new();
        if !inner.additions.is_empty() {
            addition.insert("properties".into(), inner.additions.into());
        }
        let known = there.get("fields").and_then(Value::as_object);
        let mut more = field
            .get("fields")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        more.retain(
            |name, of_field| match known.and_then(|known| known.get(name)) {
                None => {
                    inner.added.push(join(path, name));
                    true
                }
                Some(there) => {
                    inner.drift.extend(drift(
                        &format!("field {path}.{name}"),
                        Some(of_field),
                        Some(there),
                    ));
                    false
                }
            },
        );
        if !more.is_empty() {
            addition.insert("fields".into(), more.into());
        }
        if !addition.is_empty() {
            // What is there has to be repeated, or it would be taken for a change.
            if let Value::Object(own) = ours {
                addition.extend(
                    own.into_iter()
                        .filter(|(key, value)| key != "type" || value != "object"),
                );
            }
            self.additions.insert(name.to_owned(), addition.into());
        }
        self.added.extend(inner.added);
        self.drift.extend(inner.drift);
    }
}
