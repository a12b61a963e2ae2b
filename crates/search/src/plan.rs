//! What has to be done at a target so that an index looks like the source's. Pure.
//!
//! What the target lacks is added: the index, fields, aliases. What we have set ourselves follows the
//! source: aliases, and settings that can change while an index is open. What is there and differs is
//! never changed, because somebody may have wanted it so: it is *drift*, and told.

mod fields;
mod settings;

use std::collections::BTreeMap;

use model::IndexDefinition;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{LeftOut, Mark, Product, Reason, ServerVersion, portable_settings};

use fields::{Dynamic, Fields};

/// Below these, a setting changes what a document means; others are the operator's matter.
const MEANINGFUL: [&str; 5] = [
    "index.analysis.",
    "index.similarity.",
    "index.sort.",
    "index.mapping.coerce",
    "index.routing_partition_size",
];

/// What a target has.
#[derive(Debug, Clone)]
pub struct Existing {
    /// The index as it is.
    pub definition: IndexDefinition,
    /// What we have written down there.
    pub mark: Mark,
}

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Whether the index has to be created.
    pub creates: bool,
    /// The source's settings that a new index does not get.
    pub left_out: Vec<LeftOut>,
    /// Fields that get another type, because the target calls it so.
    pub translated: Vec<Translation>,
    /// Fields that are added to the mapping.
    pub added: Vec<String>,
    /// Aliases that are set, with their filter, routing and so on.
    pub aliases: BTreeMap<String, Value>,
    /// Aliases of ours that the source has no more.
    pub dropped: Vec<String>,
    /// Settings that are changed; null where the source has it no more.
    pub settings: BTreeMap<String, Value>,
    /// What differs and stays so.
    pub drift: Vec<Drift>,
    /// The settings that are then as we have set them.
    #[serde(skip)]
    pub given: BTreeMap<String, Value>,
    /// The types of the source's columns, where it has said so.
    #[serde(skip)]
    pub columns: BTreeMap<String, String>,
    /// What is put into the mapping.
    #[serde(skip)]
    pub mapping: Map<String, Value>,
}

/// A field type that the target has under another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// The field's path.
    pub field: String,
    /// What the source calls its type.
    pub from: String,
    /// What the target calls it.
    pub to: String,
}

/// Something that is not as it is in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Such as `field a.b`.
    pub what: String,
    /// How it is in the source.
    pub source: String,
    /// How it is in the target.
    pub target: String,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is {} in the source and {} in the target",
            self.what, self.source, self.target
        )
    }
}

impl Plan {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        !self.creates
            && self.mapping.is_empty()
            && self.aliases.is_empty()
            && self.dropped.is_empty()
            && self.settings.is_empty()
    }
}

/// What somebody may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices {
    /// Whether the number of replicas follows the source, too.
    pub replicas: bool,
}

/// A target cluster, as far as plans depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The product.
    pub product: Product,
    /// Its version.
    pub version: ServerVersion,
}

/// Plans an index like `source` for a target that has `existing`, or nothing.
///
/// # Errors
/// When a definition is no JSON object.
pub fn plan(
    source: &IndexDefinition,
    existing: Option<&Existing>,
    target: Dialect,
    choices: Choices,
) -> Result<Plan, serde_json::Error> {
    let mut plan = Plan {
        columns: crate::mark::columns_of(source)?,
        ..Plan::default()
    };
    let settings: Map<String, Value> = serde_json::from_str(source.settings.get())?;
    let (settings, left_out) = portable_settings(&settings, target.product);
    let mapping = mapping_for(source, target, &mut plan.translated)?;
    let aliases = aliases_of(source)?;
    let Some(existing) = existing else {
        plan.creates = true;
        plan.left_out = left_out;
        // What every index of its kind has says nothing to anybody.
        plan.left_out.retain(|left| {
            left.reason != Reason::Identity && !left.key.ends_with("._tier_preference")
        });
        plan.given = settings::followed(&settings);
        plan.aliases = aliases;
        return Ok(plan);
    };
    let theirs: Map<String, Value> = serde_json::from_str(existing.definition.mappings.get())?;
    let mut fields = Fields::default();
    fields.compare("", &mapping, &theirs, Dynamic::of(&theirs, Dynamic::Adds));
    plan.added = fields.added;
    plan.drift = fields.drift;
    if !fields.additions.is_empty() {
        plan.mapping
            .insert("properties".into(), fields.additions.into());
    }
    for key in [
        "dynamic",
        "dynamic_templates",
        "_routing",
        "_source",
        "date_detection",
        "numeric_detection",
    ] {
        plan.drift.extend(drift(
            &format!("mapping.{key}"),
            mapping.get(key),
            theirs.get(key),
        ));
    }
    let known: Map<String, Value> = serde_json::from_str(existing.definition.settings.get())?;
    let (known, _) = portable_settings(&known, target.product);
    for (key, value) in &settings {
        if MEANINGFUL.iter().any(|prefix| key.starts_with(prefix)) {
            plan.drift.extend(drift(
                &format!("setting {key}"),
                Some(value),
                known.get(key),
            ));
        }
    }
    settings::compare(
        &mut plan,
        &settings,
        &known,
        &existing.mark.settings,
        choices,
    );
    let there = aliases_of(&existing.definition)?;
    plan.dropped = existing
        .mark
        .aliases
        .iter()
        .filter(|name| !aliases.contains_key(*name))
        .cloned()
        .collect();
    plan.dropped.retain(|name| there.contains_key(name));
    plan.aliases = aliases;
    plan.aliases
        .retain(|name, alias| there.get(name) != Some(alias));
    Ok(plan)
}

/// A definition's mapping as a target takes it, without what we have written there.
pub(crate) fn mapping_for(
    definition: &IndexDefinition,
    target: Dialect,
    translated: &mut Vec<Translation>,
) -> Result<Map<String, Value>, serde_json::Error> {
    let mut mapping: Map<String, Value> = serde_json::from_str(definition.mappings.get())?;
    if let Some(Value::Object(meta)) = mapping.get_mut("_meta") {
        meta.retain(|key, _| !key.starts_with(crate::mark::MARK));
        if meta.is_empty() {
            mapping.remove("_meta");
        }
    }
    translate("", &mut mapping, target, translated);
    Ok(mapping)
}

/// The aliases of a definition; none where it says nothing of them.
pub(crate) fn aliases_of(
    definition: &IndexDefinition,
) -> Result<BTreeMap<String, Value>, serde_json::Error> {
    let aliases = definition.aliases.as_ref();
    aliases.map_or(Ok(BTreeMap::new()), |aliases| {
        serde_json::from_str(aliases.get())
    })
}

/// Gives types the names that the target has for them.
pub(crate) fn translate(
    path: &str,
    mapping: &mut Map<String, Value>,
    target: Dialect,
    translated: &mut Vec<Translation>,
) {
    for children in ["properties", "fields"] {
        let Some(Value::Object(fields)) = mapping.get_mut(children) else {
            continue;
        };
        for (name, field) in fields {
            let path = join(path, name);
            let Value::Object(field) = field else {
                continue;
            };
            let from = field
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if let Some((to, keeps)) = other_name(&from, target) {
                field.retain(|key, _| key == "type" || keeps.contains(&key.as_str()));
                field.insert("type".into(), to.into());
                translated.push(Translation {
                    field: path.clone(),
                    from,
                    to: to.to_owned(),
                });
            }
            translate(&path, field, target, translated);
        }
    }
}

/// What another product calls a type that both have, and which of its parameters it knows too.
fn other_name(name: &str, target: Dialect) -> Option<(&'static str, &'static [&'static str])> {
    match (name, target.product) {
        ("flattened", Product::OpenSearch) if target.version.at_least(2, 7) => {
            Some(("flat_object", &[]))
        }
        ("flat_object", Product::Elasticsearch) => Some(("flattened", &[])),
        _ => None,
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// A field in a word.
fn kind(field: &Value) -> String {
    field["type"].as_str().unwrap_or("object").to_owned()
}

fn drift(what: &str, source: Option<&Value>, target: Option<&Value>) -> Option<Drift> {
    let text = |value: Option<&Value>| match value {
        None => "absent".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    // Settings are text, whatever was written.
    let (source, target) = (text(source), text(target));
    (source != target).then(|| Drift {
        what: what.to_owned(),
        source,
        target,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::RawValue};

    use super::*;

    fn definition(mappings: Value, settings: Value, aliases: Value) -> IndexDefinition {
        let raw = |value: Value| RawValue::from_string(value.to_string()).unwrap();
        IndexDefinition {
            product: "elasticsearch 8.19.0".into(),
            settings: raw(settings),
            mappings: raw(mappings),
            aliases: Some(raw(aliases)),
            lineage: None,
        }
    }

    fn planned(source: Value, target: Value) -> Plan {
        let existing = Existing {
            definition: definition(target, json!({}), json!({})),
            mark: Mark::default(),
        };
        plan(
            &definition(source, json!({}), json!({})),
            Some(&existing),
            OPEN_SEARCH,
            Choices::default(),
        )
        .unwrap()
    }

    const OPEN_SEARCH: Dialect = Dialect {
        product: Product::OpenSearch,
        version: ServerVersion {
            major: 2,
            minor: 19,
            patch: 0,
        },
    };

    #[test]
    fn what_is_missing_is_added_at_every_depth_and_nothing_else_is_touched() {
        let plan = planned(
            json!({ "properties": {
                "same": { "type": "long" },
                "new": { "type": "keyword" },
                "text": { "type": "text", "analyzer": "own", "fields": { "raw": { "type": "keyword" }, "more": { "type": "text" } } },
                "part": { "type": "nested", "properties": { "a": { "type": "long" }, "b": { "type": "date" } } },
                "plain": { "properties": { "x": { "properties": { "y": { "type": "ip" } } } } },
            } }),
            json!({ "properties": {
                "same": { "type": "long" },
                "text": { "type": "text", "analyzer": "own", "fields": { "raw": { "type": "keyword" } } },
                "part": { "type": "nested", "properties": { "a": { "type": "long" } } },
                "plain": { "properties": { "x": { "type": "object" } } },
                "own": { "type": "long" },
            } }),
        );
        assert_eq!(plan.drift, []);
        assert_eq!(plan.added, ["new", "part.b", "plain.x.y", "text.more"]);
        assert_eq!(
            Value::from(plan.mapping),
            json!({ "properties": {
                "new": { "type": "keyword" },
                "text": { "type": "text", "analyzer": "own", "fields": { "more": { "type": "text" } } },
                "part": { "type": "nested", "properties": { "b": { "type": "date" } } },
                "plain": { "properties": { "x": { "properties": { "y": { "type": "ip" } } } } },
            } })
        );
    }

    #[test]
    fn what_differs_is_told_and_stays() {
        let plan = planned(
            json!({ "dynamic": "true", "properties": { "a": { "type": "keyword" }, "b": { "type": "long" }, "c": { "type": "ip" } } }),
            json!({ "dynamic": "strict", "properties": { "a": { "type": "text" }, "b": { "type": "long" } } }),
        );
        assert!(plan.is_empty(), "{plan:?}");
        let told: Vec<&str> = plan.drift.iter().map(|drift| drift.what.as_str()).collect();
        assert_eq!(told, ["field a", "field c", "mapping.dynamic"]);
        assert!(plan.drift[1].target.contains("strict"));
    }

    #[test]
    fn a_type_gets_the_name_that_the_target_has_for_it() {
        let source = json!({ "_meta": { "syncline": {} }, "properties": { "labels": { "type": "flattened", "depth_limit": 9 } } });
        let plan = plan(
            &definition(source.clone(), json!({}), json!({})),
            None,
            OPEN_SEARCH,
            Choices::default(),
        )
        .unwrap();
        assert!(plan.creates);
        assert_eq!(
            (
                plan.translated[0].field.as_str(),
                plan.translated[0].to.as_str()
            ),
            ("labels", "flat_object")
        );
        let mapping = mapping_for(
            &definition(source, json!({}), json!({})),
            OPEN_SEARCH,
            &mut Vec::new(),
        );
        assert_eq!(
            Value::from(mapping.unwrap()),
            json!({ "properties": { "labels": { "type": "flat_object" } } })
        );
    }

    #[test]
    fn aliases_follow_and_only_ours_go() {
        let source = definition(
            json!({}),
            json!({}),
            json!({ "a": {}, "b": { "is_write_index": true } }),
        );
        let existing = Existing {
            definition: definition(
                json!({}),
                json!({}),
                json!({ "a": {}, "b": {}, "old": {}, "hand": {} }),
            ),
            mark: Mark {
                aliases: ["old".to_owned(), "a".to_owned()].into(),
                ..Mark::default()
            },
        };
        let plan = plan(&source, Some(&existing), OPEN_SEARCH, Choices::default()).unwrap();
        assert_eq!(plan.aliases.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(plan.dropped, ["old"]);
    }

    #[test]
    fn settings_that_change_meaning_are_told_and_others_are_not() {
        let of = |replicas: &str, filter: &str| {
            definition(
                json!({}),
                json!({ "number_of_replicas": replicas, "analysis": { "analyzer": { "own": { "filter": [filter] } } } }),
                json!({}),
            )
        };
        let existing = Existing {
            definition: of("0", "lowercase"),
            mark: Mark::default(),
        };
        let source = of("1", "uppercase");
        let plan = plan(&source, Some(&existing), OPEN_SEARCH, Choices::default()).unwrap();
        let told: Vec<&str> = plan.drift.iter().map(|drift| drift.what.as_str()).collect();
        assert_eq!(told, ["setting index.analysis.analyzer.own.filter"]);
    }
}
