//! What has to be done so that a target has the templates of a source. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Kind, TemplateName, Templates, is_system};
use crate::{
    Dialect, IndexPatterns, Product, Reason, Translation,
    plan::translate,
    portable::{flatten, reason_against},
};

/// What becomes of one template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemplatePlan {
    /// Which one.
    pub template: TemplateName,
    /// How the target stands to it.
    pub state: State,
    /// Parts of it that the target does not get.
    pub left_out: Vec<Left>,
    /// Fields that get another type, because the target calls it so.
    pub translated: Vec<Translation>,
    /// As the target gets it.
    #[serde(skip)]
    pub body: Map<String, Value>,
    /// The settings and mappings of an index that would be made of it, to be tried before anything is
    /// written.
    #[serde(skip)]
    pub trial: Value,
}

/// How a target stands to a template of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has it as it should be.
    Same,
    /// It lacks it.
    Missing,
    /// It has another of that name; these parts are different.
    Differs(Vec<String>),
    /// It cannot have it, for this reason.
    Impossible(String),
}

/// Something of a template that a target does not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Such as `setting index.lifecycle.name (hot)`.
    pub what: String,
    /// Why.
    pub why: &'static str,
}

/// Plans all templates of `source` that the patterns mean; never one of the product itself, of either
/// side. What only the target has is not looked at.
pub fn plan_templates(
    source: &Templates,
    target: &Templates,
    meant: &IndexPatterns,
    dialect: Dialect,
) -> Vec<TemplatePlan> {
    let mut plans = Vec::new();
    // Of what index templates are composed, as the target will have it.
    let mut components: BTreeMap<String, Map<String, Value>> = target
        .iter()
        .filter(|(name, _)| name.kind == Kind::Component)
        .map(|(name, body)| (name.name.clone(), body.clone()))
        .collect();
    for (name, body) in source {
        if is_system(&name.name, body) || !meant.matches(&name.name, false) {
            continue;
        }
        let mut plan = carried(name, body, dialect);
        let there = target.get(name);
        if name.kind == Kind::Component && there.is_none() {
            components.insert(name.name.clone(), plan.body.clone());
        }
        plan.state = match there {
            Some(there) if is_system(&name.name, there) => State::Impossible(
                "the target's product has one of this name, which is not touched".to_owned(),
            ),
            Some(there) => compare(&plan.body, &carried(name, there, dialect).body),
            None => State::Missing,
        };
        plan.trial = trial(&plan.body, name.kind, &components);
        let lacking = lacking(&plan.body, &components);
        if !lacking.is_empty() && plan.state != State::Same {
            plan.state = State::Impossible(format!(
                "the target has no component template {}, and it is not carried: create it there, or take it out of \
                 `composed_of`",
                lacking.join(", ")
            ));
        }
        plans.push(plan);
    }
    plans
}

/// A template as a target takes it.
fn carried(name: &TemplateName, body: &Map<String, Value>, target: Dialect) -> TemplatePlan {
    let mut plan = TemplatePlan {
        template: name.clone(),
        state: State::Missing,
        left_out: Vec::new(),
        translated: Vec::new(),
        body: Map::new(),
        trial: Value::Null,
    };
    let opened = target.product == Product::OpenSearch;
    for (key, value) in body {
        let kept = match (key.as_str(), value) {
            ("template", Value::Object(parts)) => {
                let mut carried = Map::new();
                for (part, value) in parts {
                    plan.part(part, value, &mut carried, target);
                }
                Some(carried.into())
            }
            // The legacy kind has its parts on the outside.
            ("settings" | "mappings" | "aliases", value) => {
                let mut carried = Map::new();
                plan.part(key, value, &mut carried, target);
                plan.body.extend(carried);
                None
            }
            ("data_stream", Value::Object(stream)) => Some(data_stream(stream, opened)),
            ("index_patterns" | "composed_of" | "priority" | "version" | "order" | "_meta", _) => {
                Some(value.clone())
            }
            ("allow_auto_create" | "ignore_missing_component_templates", _)
                if !opened && target.version.at_least(8, 7) =>
            {
                Some(value.clone())
            }
            // Said by the server about itself, or empty.
            (
                "deprecated"
                | "created_date"
                | "created_date_millis"
                | "modified_date"
                | "modified_date_millis",
                _,
            ) => None,
            _ if is_empty(value) => None,
            _ => {
                plan.leave(key.clone(), Reason::NotPortable.as_str());
                None
            }
        };
        if let Some(kept) = kept {
            plan.body.insert(key.clone(), kept);
        }
    }
    plan
}

impl TemplatePlan {
    fn leave(&mut self, what: String, why: &'static str) {
        self.left_out.push(Left { what, why });
    }

    /// One of the parts that an index gets.
    fn part(
        &mut self,
        part: &str,
        value: &Value,
        carried: &mut Map<String, Value>,
        target: Dialect,
    ) {
        match (part, value) {
            ("settings", Value::Object(settings)) => {
                let mut kept = Map::new();
                for (key, value) in flatten(settings) {
                    let key = key.strip_prefix("index.").unwrap_or(&key).to_owned();
                    match reason_against(&key, &value, target.product) {
                        None => drop(kept.insert(format!("index.{key}"), value)),
                        Some(Reason::Identity) => {}
                        Some(reason) => {
                            let why = match reason {
                                // What will be written there has passed none.
                                Reason::Pipeline => "it names a pipeline of the source's cluster",
                                reason => reason.as_str(),
                            };
                            let value = text(&value);
                            self.leave(format!("setting index.{key} ({value})"), why);
                        }
                    }
                }
                carried.insert("settings".to_owned(), kept.into());
            }
            ("mappings", Value::Object(mappings)) => {
                let mut mappings = match mappings.get("_doc") {
                    Some(Value::Object(inner)) if mappings.len() == 1 => inner.clone(),
                    _ => mappings.clone(),
                };
                translate("", &mut mappings, target, &mut self.translated);
                carried.insert("mappings".to_owned(), mappings.into());
            }
            ("aliases", aliases) => {
                carried.insert("aliases".to_owned(), aliases.clone());
            }
            ("lifecycle", _) => {
                self.leave("lifecycle".to_owned(), Reason::Lifecycle.as_str());
            }
            (_, value) if is_empty(value) => {}
            (part, _) => self.leave(part.to_owned(), Reason::NotPortable.as_str()),
        }
    }
}

/// That indices of a template belong to a data stream, in the target's words.
fn data_stream(stream: &Map<String, Value>, opened: bool) -> Value {
    let known: &[&str] = match opened {
        true => &["timestamp_field"],
        false => &["hidden", "allow_custom_routing"],
    };
    let mut kept = stream.clone();
    kept.retain(|key, value| {
        let usual = value == false || *value == json!({ "name": "@timestamp" });
        known.contains(&key.as_str()) && !usual
    });
    kept.into()
}

/// Which of the components that a template needs there will not be.
fn lacking(
    body: &Map<String, Value>,
    components: &BTreeMap<String, Map<String, Value>>,
) -> Vec<String> {
    let ignored = names(body, "ignore_missing_component_templates");
    let needed = names(body, "composed_of").into_iter();
    needed
        .filter(|name| !components.contains_key(*name) && !ignored.contains(name))
        .map(str::to_owned)
        .collect()
}

fn names<'a>(body: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    let names = body.get(key).and_then(Value::as_array);
    names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What an index of this template would be made of: its components first, then itself.
fn trial(
    body: &Map<String, Value>,
    kind: Kind,
    components: &BTreeMap<String, Map<String, Value>>,
) -> Value {
    let parts = |body: &Map<String, Value>| match kind {
        Kind::Legacy => Value::from(body.clone()),
        Kind::Component | Kind::Index => body.get("template").cloned().unwrap_or_default(),
    };
    let composed = names(body, "composed_of").into_iter();
    let mut whole = json!({ "settings": {}, "mappings": {} });
    let all = composed.filter_map(|name| components.get(name)).map(parts);
    for part in all.chain([parts(body)]) {
        for key in ["settings", "mappings"] {
            merge(&mut whole[key], &part[key]);
        }
    }
    whole
}

fn merge(into: &mut Value, other: &Value) {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            for (key, value) in other {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, other) => *into = other.clone(),
    }
}

/// Whether two templates say the same.
fn compare(wanted: &Map<String, Value>, there: &Map<String, Value>) -> State {
    let parts = |body: &Map<String, Value>| {
        let mut parts = BTreeMap::new();
        for (key, value) in body {
            match (key.as_str(), value) {
                ("template", Value::Object(inner)) => parts.extend(inner.clone()),
                _ => drop(parts.insert(key.clone(), value.clone())),
            }
        }
        parts.retain(|_, value| !is_empty(value));
        parts
    };
    let (wanted, there) = (parts(wanted), parts(there));
    let keys: BTreeSet<&String> = wanted.keys().chain(there.keys()).collect();
    let same = |key: &&String| {
        let of = |parts: &BTreeMap<String, Value>| parts.get(*key).map(plain);
        // Of patterns the order says nothing; of components it does.
        match (of(&wanted), of(&there)) {
            (Some(Value::Array(mut one)), Some(Value::Array(mut other)))
                if *key == "index_patterns" =>
            {
                one.sort_by_key(Value::to_string);
                other.sort_by_key(Value::to_string);
                one == other
            }
            (one, other) => one == other,
        }
    };
    let differing: Vec<String> = keys.into_iter().filter(|key| !same(key)).cloned().collect();
    match differing.is_empty() {
        true => State::Same,
        false => State::Differs(differing),
    }
}

/// A value as it is compared: servers give back text for numbers and booleans, and leave out what goes
/// without saying.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let implied = |key: &str, value: &Value| {
                key == "type" && value == "object" && object.contains_key("properties")
            };
            let kept = object.iter().filter(|(key, value)| !implied(key, value));
            kept.map(|(key, value)| (key.clone(), plain(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().into(),
        Value::Number(_) | Value::Bool(_) => value.to_string().into(),
        value => value.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerVersion;

    fn dialect(product: Product) -> Dialect {
        let version = ServerVersion {
            major: 2,
            minor: 19,
            patch: 0,
        };
        Dialect { product, version }
    }

    fn templates<const N: usize>(bodies: [(Kind, &str, Value); N]) -> Templates {
        let of = |(kind, name, body): (Kind, &str, Value)| {
            let name = name.to_owned();
            (
                TemplateName { kind, name },
                body.as_object().unwrap().clone(),
            )
        };
        bodies.into_iter().map(of).collect()
    }

    fn planned(source: &Templates, target: &Templates) -> Vec<TemplatePlan> {
        plan_templates(
            source,
            target,
            &IndexPatterns::all(),
            dialect(Product::OpenSearch),
        )
    }

    fn logs(refresh: &str) -> Value {
        json!({ "index_patterns": ["logs-*", "more-*"], "priority": 5, "template": { "settings": { "index": { "refresh_interval": refresh } } } })
    }

    #[test]
    fn a_template_is_missing_the_same_or_differs_in_named_parts() {
        let source = templates([(Kind::Index, "logs", logs("5s"))]);
        assert_eq!(planned(&source, &Templates::new())[0].state, State::Missing);
        // As another server puts it.
        let same = json!({ "index_patterns": ["more-*", "logs-*"], "priority": "5", "composed_of": [],
            "template": { "settings": { "index.refresh_interval": "5s" }, "mappings": {} } });
        let there = templates([
            (Kind::Index, "logs", same),
            (Kind::Index, "own", logs("1s")),
        ]);
        let plans = planned(&source, &there);
        assert_eq!((plans.len(), &plans[0].state), (1, &State::Same));
        let there = templates([(Kind::Index, "logs", logs("1s"))]);
        assert_eq!(
            planned(&source, &there)[0].state,
            State::Differs(vec!["settings".to_owned()])
        );
    }

    #[test]
    fn what_belongs_to_a_product_is_touched_on_neither_side() {
        let managed = json!({ "_meta": { "managed": true }, "index_patterns": ["metrics-*-*"] });
        let source = templates([
            (Kind::Index, "metrics", managed.clone()),
            (Kind::Legacy, ".own", json!({ "index_patterns": ["a"] })),
            (Kind::Index, "logs", logs("5s")),
        ]);
        let there = templates([(Kind::Index, "logs", managed)]);
        let plans = planned(&source, &there);
        assert_eq!(plans.len(), 1);
        assert!(matches!(&plans[0].state, State::Impossible(why) if why.contains("not touched")));
    }

    #[test]
    fn policies_are_told_types_are_translated_and_components_have_to_be_there() {
        let own = json!({ "template": { "settings": { "index.lifecycle.name": "hot", "number_of_shards": 2 } } });
        let index = |parts: Value| {
            json!({ "index_patterns": ["a-*"], "composed_of": parts, "data_stream": { "hidden": false },
                "template": { "mappings": { "properties": { "l": { "type": "flattened" } } } } })
        };
        let source = templates([
            (Kind::Component, "own", own),
            (Kind::Index, "a", index(json!(["own"]))),
            (Kind::Index, "b", index(json!(["own", "theirs"]))),
        ]);
        let plans = planned(&source, &Templates::new());
        assert_eq!(
            plans[0].left_out[0].what,
            "setting index.lifecycle.name (hot)"
        );
        assert_eq!(
            plans[0].body["template"],
            json!({ "settings": { "index.number_of_shards": 2 } })
        );
        assert_eq!(plans[1].translated[0].to, "flat_object");
        assert_eq!(plans[1].body["data_stream"], json!({}));
        assert_eq!(
            plans[1].trial["settings"],
            json!({ "index.number_of_shards": 2 })
        );
        assert_eq!(plans[1].state, State::Missing);
        assert!(matches!(&plans[2].state, State::Impossible(why) if why.contains("theirs")));
    }
}
