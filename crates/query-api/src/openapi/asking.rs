//! What can be asked of an index, as parameters of a URL and as a body.
//!
//! A pattern takes what the service takes, so that nobody who checks requests by the description refuses a good
//! one. Where a language of brackets in brackets has no pattern, it takes more.

use serde_json::{Value, json};

use super::{Index, fields, reference};
use crate::{
    limits::{CRITERIA, NAMES, WORDS},
    query::{Count, Mode, url},
    schema::Field,
};

/// What may stand behind a name in a list.
const WEIGHT: &str = "(\\^[0-9]{1,3}(\\.[0-9]{1,6})?)?";
const FACET_SIZE: &str = "(\\([0-9]{1,4}\\))?";
const DIRECTION: &str = "(\\.(asc|desc))?(\\.(nullsfirst|nullslast))?";

impl Index<'_> {
    pub(super) fn parameters(&self, is_search: bool) -> Vec<Value> {
        let mut all = Vec::new();
        let searchable = self.searchable();
        if !searchable.is_empty() {
            all.extend([
                parameter("q", "Words to look for", text(WORDS)),
                parameter(
                    "query_by",
                    &among("Where to look for q; field^3 gives weight", &searchable),
                    list(&searchable, WEIGHT, NAMES),
                ),
                parameter("match", "How the words of q are matched", words(&Mode::ALL)),
            ]);
        }
        if is_search {
            all.extend(self.about_the_answer());
        }
        all.extend(self.positions());
        all.extend(self.conditions(url::PARAMETERS));
        all
    }

    pub(super) fn suggest_parameters(&self) -> Vec<Value> {
        let names = self.names(|field| field.is_searchable() && field.is_countable());
        let field = json!({ "type": "string", "enum": names });
        let prefix = json!({ "type": "string", "minLength": 1, "maxLength": 100 });
        let limit = json!({ "type": "integer", "minimum": 1, "maximum": self.limits.facet_values, "default": 10 });
        let mut all = vec![
            parameter("field", "The field whose values are wanted", field),
            parameter("prefix", "What has been typed", prefix),
            parameter("limit", "Values in the answer", limit),
        ];
        for required in &mut all[..2] {
            required["required"] = true.into();
        }
        all.extend(self.conditions(&["field", "prefix", "limit"]));
        all
    }

    pub(super) fn document_parameters(&self) -> Vec<Value> {
        let mut all = vec![json!({
            "name": "id", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1, "maxLength": 512 },
        })];
        all.push(self.shown());
        all.extend(self.positions());
        all
    }

    /// The same as a body.
    pub(super) fn body(&self, is_search: bool) -> Value {
        let each = |names: &[&str], suffix: &str, most: usize| json!({ "type": "array", "maxItems": most, "items": list_item(names, suffix) });
        let mut members = json!({
            "q": text(WORDS),
            "query_by": each(&self.searchable(), WEIGHT, NAMES),
            "match": words(&Mode::ALL),
            "filter": reference(&format!("{}_filter", self.name)),
        });
        if let Some((name, _, position)) = self.position() {
            members[name] = position;
        }
        if is_search {
            let countable = self.names(Field::is_countable);
            members["facet_by"] = each(&countable, FACET_SIZE, self.limits.facets);
            members["sort"] = each(&self.sortable(), DIRECTION, CRITERIA);
            members["fields"] = each(&self.showable(), "", NAMES);
            members["highlight"] = each(&self.searchable(), "", CRITERIA);
            members["limit"] = self.limit();
            members["cursor"] = cursor();
            members["count"] = words(&Count::ALL);
            members["snapshot"] = json!({ "type": "boolean" });
        }
        if self.limits.has_raw {
            members["raw"] = json!({ "type": "object" });
        }
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": members,
            "dependentRequired": { "query_by": ["q"], "match": ["q"], "highlight": ["q"] },
        })
    }

    /// What comes back of the matches, and in which order.
    fn about_the_answer(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut listed = |name: &str, about: &str, names: &[&str], suffix: &str, most: usize| {
            if !names.is_empty() {
                all.push(parameter(
                    name,
                    &among(about, names),
                    list(names, suffix, most),
                ));
            }
        };
        listed(
            "facet_by",
            "Fields whose values are counted; field(20) for so many",
            &self.names(Field::is_countable),
            FACET_SIZE,
            self.limits.facets,
        );
        listed(
            "sort",
            "Criteria, each a field, maybe with .desc and .nullslast",
            &self.sortable(),
            DIRECTION,
            CRITERIA,
        );
        listed(
            "highlight",
            "Fields in which the words of q are marked",
            &self.searchable(),
            "",
            CRITERIA,
        );
        let snapshot = "Whether the pages show the index as it is now";
        let next = "The next page's, from the last answer";
        all.extend([
            self.shown(),
            parameter("limit", "Documents in the answer", self.limit()),
            parameter("cursor", next, cursor()),
            parameter(
                "count",
                "How exactly matches are counted",
                words(&Count::ALL),
            ),
            parameter("snapshot", snapshot, json!({ "type": "boolean" })),
        ]);
        all
    }

    /// Filters by field and in brackets, but for fields that are called like another parameter.
    fn conditions(&self, taken: &[&str]) -> Vec<Value> {
        let fields = self.schema.fields();
        let asked =
            fields.filter(|(name, field)| !taken.contains(name) && !field.operators().is_empty());
        let mut all: Vec<Value> = asked
            .map(|(name, field)| parameter(name, &fields::about(field), fields::condition(field)))
            .collect();
        let brackets = json!({ "type": "string", "pattern": "^(\\([\\s\\S]+\\))$" });
        all.push(parameter(
            "and",
            "All of these conditions: (a.eq.1,b.gt.2)",
            brackets.clone(),
        ));
        all.push(parameter(
            "or",
            "One of these conditions: (a.eq.1,not.and(b.gt.2,c.is.null))",
            brackets,
        ));
        all
    }

    /// The positions that the index's source has, if it has any.
    fn position(&self) -> Option<(&'static str, &'static str, Value)> {
        let schema = self.schema.schema;
        if schema.is_from_postgres {
            let about = "Wait until the index has what PostgreSQL had written there";
            return Some(("min_lsn", about, lsn()));
        }
        let about = "Wait until the index has the change that was answered with SEQ_NO, of ID";
        schema.epoch.map(|_| ("min_position", about, position()))
    }

    fn positions(&self) -> Option<Value> {
        self.position()
            .map(|(name, about, schema)| parameter(name, about, schema))
    }

    fn shown(&self) -> Value {
        let names = self.showable();
        let about = among("Fields of the answer", &names);
        parameter("fields", &about, list(&names, "", NAMES))
    }

    fn limit(&self) -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": self.limits.documents, "default": self.limits.default_documents })
    }

    fn searchable(&self) -> Vec<&str> {
        self.names(Field::is_searchable)
    }

    fn sortable(&self) -> Vec<&str> {
        let mut names = self.names(Field::is_sortable);
        if !self.searchable().is_empty() {
            names.push("_score");
        }
        names
    }

    /// Fields, and objects as a whole.
    fn showable(&self) -> Vec<&str> {
        let mut names = self.names(|_| true);
        for name in names.clone() {
            names.extend(name.match_indices('.').map(|(at, _)| &name[..at]));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn parameter(name: &str, about: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": about, "schema": schema })
}

fn among(about: &str, names: &[&str]) -> String {
    format!("{about}, separated by commas: {}", names.join(", "))
}

fn text(most: usize) -> Value {
    json!({ "type": "string", "maxLength": most })
}

fn words<T>(choices: &[(&'static str, T)]) -> Value {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    json!({ "type": "string", "enum": words })
}

fn lsn() -> Value {
    json!({ "type": "string", "pattern": "^([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})$" })
}

fn position() -> Value {
    json!({ "type": "string", "pattern": "^([0-9]{1,19}(@[^/]*)?/[\\s\\S]{1,512})$" })
}

fn cursor() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+$" })
}

/// Names in one text; none of them, too.
fn list(names: &[&str], suffix: &str, most: usize) -> Value {
    let item = format!("{}{suffix}", one_of(names));
    let pattern = format!("^({item}(,{item}){{0,{}}})?$", most.saturating_sub(1));
    json!({ "type": "string", "pattern": pattern })
}

fn list_item(names: &[&str], suffix: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^{}{suffix}$", one_of(names)) })
}

fn one_of(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| fields::literal(name)).collect();
    format!("({})", names.join("|"))
}
