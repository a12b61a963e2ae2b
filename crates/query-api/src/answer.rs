//! From the cluster's answer to ours. Pure.
//!
//! Documents are passed on as the bytes they are, so a number stays as its source wrote it, however many
//! digits it has. Where only some fields go out, the document is cut, not parsed and written again.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    compile::{CompiledFacet, Shown},
    problem::{Kind as ProblemKind, Problem},
    schema::Kind,
};

/// What a cluster answers to a search.
#[derive(Debug, Deserialize)]
pub(crate) struct Found<'a> {
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards", default)]
    shards: Shards,
    #[serde(borrow, default)]
    hits: Hits<'a>,
    #[serde(default)]
    aggregations: Map<String, Value>,
    /// The snapshot's name, which can change from search to search.
    pub(crate) pit_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Shards {
    #[serde(default)]
    failed: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Hits<'a> {
    total: Option<Total>,
    #[serde(borrow, default)]
    hits: Vec<Hit<'a>>,
}

#[derive(Debug, Deserialize)]
struct Total {
    value: u64,
    relation: String,
}

/// A document that was found.
#[derive(Debug, Deserialize)]
pub(crate) struct Hit<'a> {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(rename = "_score")]
    score: Option<f64>,
    #[serde(rename = "_source", borrow)]
    source: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) sort: Vec<Value>,
    #[serde(default)]
    highlight: Map<String, Value>,
}

/// Our answer to a search.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) hits: Vec<AnswerHit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<AnswerTotal>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) facets: Map<String, Value>,
    /// Where the list goes on; absent at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// A document in our answer.
#[derive(Debug, Serialize)]
pub(crate) struct AnswerHit {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f64>,
    pub(crate) document: Box<RawValue>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) highlight: Map<String, Value>,
}

/// How many documents match.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct AnswerTotal {
    pub(crate) count: u64,
    /// Else there are at least so many.
    pub(crate) exact: bool,
}

impl<'a> Found<'a> {
    /// Reads an answer of which nothing is missing.
    ///
    /// # Errors
    /// When a shard did not take part or time was over: then it is not an answer to the question.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Found<'a>, Problem> {
        let found: Found<'a> = serde_json::from_slice(bytes).map_err(|error| {
            tracing::error!(%error, "the search cluster's answer cannot be read");
            Problem::new(
                ProblemKind::Unavailable,
                "the search cluster's answer cannot be read",
            )
        })?;
        found.complete()
    }

    pub(crate) fn complete(self) -> Result<Found<'a>, Problem> {
        if self.timed_out {
            let detail = "the search was not done in time; ask for less at once";
            return Err(Problem::new(ProblemKind::Timeout, detail));
        }
        if self.shards.failed > 0 {
            let detail = "a part of the index cannot be searched now";
            return Err(Problem::new(ProblemKind::Unavailable, detail).retry_after(1));
        }
        Ok(self)
    }

    pub(crate) fn hits(&self) -> &[Hit<'a>] {
        &self.hits.hits
    }

    /// How many documents match, if it was counted.
    pub(crate) fn total(&self) -> Option<AnswerTotal> {
        let total = self.hits.total.as_ref()?;
        Some(AnswerTotal {
            count: total.value,
            exact: total.relation == "eq",
        })
    }

    /// The counts in the order they were asked for.
    pub(crate) fn facets(&self, facets: &[CompiledFacet]) -> Map<String, Value> {
        let answers = facets.iter().enumerate().map(|(number, facet)| {
            let aggregation = &self.aggregations.get(&format!("f{number}"));
            let answer = aggregation.map_or(Value::Null, |given| self::facet(facet, given));
            (facet.name.clone(), answer)
        });
        answers.collect()
    }

    /// The values of the one aggregation of a suggestion, most frequent first.
    pub(crate) fn suggestions(&self) -> Vec<Value> {
        let values = self
            .aggregations
            .get("values")
            .and_then(|values| values["buckets"].as_array());
        let values = values.into_iter().flatten();
        values
            .map(|bucket| json!({ "value": bucket["key"], "count": bucket["doc_count"] }))
            .collect()
    }
}

fn facet(facet: &CompiledFacet, given: &Value) -> Value {
    if !facet.counts {
        let moment = facet.kind.is_moment();
        let value = |name: &str| match moment {
            true => given[format!("{name}_as_string")].clone(),
            false => given[name].clone(),
        };
        let mut range =
            json!({ "min": value("min"), "max": value("max"), "count": given["count"] });
        if !moment {
            range["avg"] = given["avg"].clone();
            range["sum"] = given["sum"].clone();
        }
        return range;
    }
    let buckets = given["buckets"].as_array().into_iter().flatten();
    let values: Vec<Value> = buckets
        .map(|bucket| {
            let value = match facet.kind {
                Kind::Boolean => json!(bucket["key_as_string"] == "true"),
                _ => bucket["key"].clone(),
            };
            json!({ "value": value, "count": bucket["doc_count"] })
        })
        .collect();
    let mut answer = json!({ "values": values, "others": given["sum_other_doc_count"] });
    // Shards tell their most frequent values only, so a count can be too low by so many.
    if given["doc_count_error_upper_bound"].as_i64().unwrap_or(0) != 0 {
        answer["error"] = given["doc_count_error_upper_bound"].clone();
    }
    answer
}

impl Hit<'_> {
    pub(crate) fn answer(&self, shown: &Shown, with_score: bool) -> Result<AnswerHit, Problem> {
        let highlight = self
            .highlight
            .iter()
            .filter(|(path, _)| shown.scope.allows(path));
        Ok(AnswerHit {
            id: self.id.clone(),
            score: self.score.filter(|_| with_score),
            document: self.document(shown)?,
            highlight: highlight
                .map(|(path, marks)| (path.clone(), marks.clone()))
                .collect(),
        })
    }

    /// The document as far as it is shown.
    pub(crate) fn document(&self, shown: &Shown) -> Result<Box<RawValue>, Problem> {
        let broken = |error: serde_json::Error| {
            tracing::error!(%error, "a document is not the JSON it should be");
            Problem::new(ProblemKind::Internal, "a document cannot be read")
        };
        let Some(source) = self.source else {
            return RawValue::from_string("{}".to_owned()).map_err(broken);
        };
        if shown.is_all() {
            return Ok(source.to_owned());
        }
        let mut text = String::with_capacity(source.get().len());
        cut(source.get(), "", shown, &mut text).map_err(broken)?;
        RawValue::from_string(text).map_err(broken)
    }
}

/// Writes what is shown of an object. Returns whether that is anything.
fn cut(object: &str, prefix: &str, shown: &Shown, out: &mut String) -> serde_json::Result<bool> {
    let members: Members<'_> = serde_json::from_str(object)?;
    let mut any = false;
    out.push('{');
    for (name, value) in &members.0 {
        let path = format!("{prefix}{name}");
        let start = out.len();
        if any {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(name)?);
        out.push(':');
        if value_at(value.get(), &path, shown, out)? {
            any = true;
        } else {
            out.truncate(start);
        }
    }
    out.push('}');
    Ok(any)
}

fn value_at(value: &str, path: &str, shown: &Shown, out: &mut String) -> serde_json::Result<bool> {
    match value.as_bytes().first() {
        Some(b'{') => {
            let any = cut(value, &format!("{path}."), shown, out)?;
            Ok(any || (shown.shows(path) && value.len() <= 2))
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(value)?;
            let mut any = false;
            out.push('[');
            for item in &items {
                let start = out.len();
                if any {
                    out.push(',');
                }
                if value_at(item.get(), path, shown, out)? {
                    any = true;
                } else {
                    out.truncate(start);
                }
            }
            out.push(']');
            Ok(any || (items.is_empty() && shown.shows(path)))
        }
        _ => {
            out.push_str(value);
            Ok(shown.shows(path))
        }
    }
}

/// An object's members in their order, each value as it is written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    members.push((Cow::Owned(name), map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::FieldScope;

    fn shown(scope: &[&str], wanted: Option<&[&str]>) -> Shown {
        Shown {
            scope: FieldScope::of(scope),
            wanted: wanted.map(FieldScope::of),
        }
    }

    fn cut_to(source: &str, shown: &Shown) -> String {
        let hit = json!({ "_id": "1" }).to_string();
        let raw = RawValue::from_string(source.to_owned()).unwrap();
        let mut hit: Hit<'_> = serde_json::from_str(&hit).unwrap();
        hit.source = Some(&raw);
        hit.document(shown).unwrap().get().to_owned()
    }

    #[test]
    fn numbers_go_out_as_they_came_in_even_from_a_document_that_is_cut() {
        let source =
            r#"{"a":12345678901234567890123456789.10,"b":{"c":1e400,"d":2},"e":9007199254740993}"#;
        assert_eq!(cut_to(source, &shown(&["*"], None)), source);
        let cut = cut_to(source, &shown(&["*"], Some(&["a", "b.c", "e"])));
        assert_eq!(cut, source.replace(",\"d\":2", ""));
    }

    #[test]
    fn what_is_not_shown_is_cut_out_wherever_it_is() {
        let source = r#"{"a":{"x":1,"secret":2},"list":[{"x":1,"secret":2},{"secret":3}],"secret":4,"a.secret":5,"e":{}}"#;
        let cut = cut_to(
            source,
            &shown(&["*", "-secret", "-a.secret", "-list.secret"], None),
        );
        assert_eq!(cut, r#"{"a":{"x":1},"list":[{"x":1}],"e":{}}"#);
        assert_eq!(cut_to(source, &shown(&["nothing"], None)), "{}");
        let narrow = shown(&["a", "-a.secret"], Some(&["a", "secret"]));
        assert_eq!(cut_to(source, &narrow), r#"{"a":{"x":1}}"#);
    }

    #[test]
    fn an_answer_with_a_part_missing_is_no_answer() {
        for (answer, kind) in [
            (json!({ "timed_out": true }), ProblemKind::Timeout),
            (
                json!({ "timed_out": false, "_shards": { "failed": 1 } }),
                ProblemKind::Unavailable,
            ),
            (json!([]), ProblemKind::Unavailable),
        ] {
            let bytes = answer.to_string();
            assert_eq!(Found::read(bytes.as_bytes()).unwrap_err().kind, kind);
        }
    }
}
