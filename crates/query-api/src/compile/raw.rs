//! Queries in the cluster's own language, where that is switched on: an allow-list.
//!
//! Only kinds of query that look at nothing but the fields they name are let through, and only with
//! options that are known; the fields must be in the key's scope. A raw query is one more filter beside the forced
//! one. What is refused and why: `query_string` and `simple_query_string` name fields inside their text,
//! `terms` with a look-up and `more_like_this`, `percolate` and `geo_shape` read other documents,
//! `script` reads everything, `has_child` and `has_parent` cross to documents the filter has not seen.

use serde_json::{Map, Value};

use crate::{
    problem::{Kind, Problem},
    schema::ScopedSchema,
};

/// Kinds whose one member is a field with options.
const FIELD_QUERIES: &[(&str, &[&str])] = &[
    ("term", &["value", "boost", "case_insensitive"]),
    (
        "match",
        &[
            "query",
            "operator",
            "minimum_should_match",
            "fuzziness",
            "prefix_length",
            "boost",
            "zero_terms_query",
        ],
    ),
    (
        "match_phrase",
        &["query", "slop", "boost", "zero_terms_query"],
    ),
    (
        "match_phrase_prefix",
        &[
            "query",
            "slop",
            "max_expansions",
            "boost",
            "zero_terms_query",
        ],
    ),
    (
        "match_bool_prefix",
        &["query", "operator", "minimum_should_match", "boost"],
    ),
    (
        "range",
        &[
            "gt",
            "gte",
            "lt",
            "lte",
            "format",
            "time_zone",
            "relation",
            "boost",
        ],
    ),
    ("prefix", &["value", "case_insensitive", "boost"]),
    ("wildcard", &["value", "case_insensitive", "boost"]),
    (
        "fuzzy",
        &[
            "value",
            "fuzziness",
            "prefix_length",
            "max_expansions",
            "transpositions",
            "boost",
        ],
    ),
];

/// How deep a raw query may go.
const DEEPEST: usize = 16;

/// The query itself if all of it is allowed.
///
/// # Errors
/// The first part that is not.
pub(crate) fn checked(raw: &Value, schema: ScopedSchema<'_>) -> Result<Value, Problem> {
    check(raw, schema, "raw", DEEPEST)?;
    Ok(raw.clone())
}

/// How many queries a raw query consists of.
pub(crate) fn clauses(raw: &Value) -> usize {
    match raw {
        Value::Object(members) => 1 + members.values().map(clauses).sum::<usize>(),
        Value::Array(items) => items.len() + items.iter().map(clauses).sum::<usize>(),
        _ => 0,
    }
}

fn refuse(at: &str, detail: impl Into<String>) -> Problem {
    Problem::of(Kind::BadParameter, at, detail)
}

fn check(query: &Value, schema: ScopedSchema<'_>, at: &str, depth: usize) -> Result<(), Problem> {
    let (kind, inner) = match query
        .as_object()
        .map(|members| (members.len(), members.iter().next()))
    {
        Some((1, Some(member))) => member,
        _ => return Err(refuse(at, "it is no object of one query")),
    };
    if depth == 0 {
        return Err(Problem::of(
            Kind::TooCostly,
            at,
            format!("it goes deeper than {DEEPEST}"),
        ));
    }
    let at = format!("{at}.{kind}");
    let members = inner
        .as_object()
        .ok_or_else(|| refuse(&at, "it is no object"))?;
    if let Some((_, options)) = FIELD_QUERIES.iter().find(|(name, _)| name == kind) {
        return field_query(members, options, schema, &at);
    }
    let deeper = |query: &Value, at: &str| check(query, schema, at, depth - 1);
    match kind.as_str() {
        "match_all" | "match_none" => only(members, &["boost"], &at),
        "exists" => {
            only(members, &["field", "boost"], &at)?;
            named(members.get("field"), schema, &at)
        }
        "ids" => only(members, &["values", "boost"], &at),
        "terms" => {
            for (name, values) in members.iter().filter(|(name, _)| *name != "boost") {
                schema_field(name, schema, &at)?;
                if !values
                    .as_array()
                    .is_some_and(|values| values.iter().all(is_scalar))
                {
                    return Err(refuse(&at, "terms takes a list of values"));
                }
            }
            Ok(())
        }
        "multi_match" => {
            only(
                members,
                &[
                    "query",
                    "fields",
                    "type",
                    "operator",
                    "minimum_should_match",
                    "fuzziness",
                    "prefix_length",
                    "tie_breaker",
                    "slop",
                    "boost",
                ],
                &at,
            )?;
            let fields = members.get("fields").and_then(Value::as_array);
            let fields = fields.filter(|fields| !fields.is_empty());
            let fields = fields.ok_or_else(|| refuse(&at, "multi_match has to name its fields"))?;
            fields.iter().try_for_each(|field| {
                let name = field.as_str().unwrap_or_default();
                let name = name.split_once('^').map_or(name, |(name, _)| name);
                schema_field(name, schema, &at)
            })
        }
        "bool" => {
            only(
                members,
                &[
                    "must",
                    "filter",
                    "should",
                    "must_not",
                    "minimum_should_match",
                    "boost",
                ],
                &at,
            )?;
            for part in ["must", "filter", "should", "must_not"] {
                match members.get(part) {
                    None => {}
                    Some(Value::Array(queries)) => {
                        queries.iter().try_for_each(|query| deeper(query, &at))?;
                    }
                    Some(query) => deeper(query, &at)?,
                }
            }
            Ok(())
        }
        "constant_score" => {
            only(members, &["filter", "boost"], &at)?;
            deeper(members.get("filter").unwrap_or(&Value::Null), &at)
        }
        "dis_max" => {
            only(members, &["queries", "tie_breaker", "boost"], &at)?;
            let queries = members.get("queries").and_then(Value::as_array);
            queries
                .into_iter()
                .flatten()
                .try_for_each(|query| deeper(query, &at))
        }
        _ => Err(refuse(
            &at,
            format!("a raw query of the kind {kind:?} is not allowed"),
        )),
    }
}

fn field_query(
    members: &Map<String, Value>,
    options: &[&str],
    schema: ScopedSchema<'_>,
    at: &str,
) -> Result<(), Problem> {
    let (1, Some((field, inner))) = (members.len(), members.iter().next()) else {
        return Err(refuse(at, "it has to name one field"));
    };
    schema_field(field, schema, at)?;
    match inner {
        Value::Object(inner) => {
            only(inner, options, at)?;
            match inner.values().all(is_scalar) {
                true => Ok(()),
                false => Err(refuse(at, "its options are values")),
            }
        }
        inner if is_scalar(inner) => Ok(()),
        _ => Err(refuse(at, "it is no value")),
    }
}

fn only(members: &Map<String, Value>, known: &[&str], at: &str) -> Result<(), Problem> {
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(refuse(at, format!("the option {name:?} is not allowed"))),
        None => Ok(()),
    }
}

fn named(name: Option<&Value>, schema: ScopedSchema<'_>, at: &str) -> Result<(), Problem> {
    schema_field(name.and_then(Value::as_str).unwrap_or_default(), schema, at)
}

/// A field by the name callers use, or the whole-value sub-field of a text.
fn schema_field(name: &str, schema: ScopedSchema<'_>, at: &str) -> Result<(), Problem> {
    let is_exact = schema
        .fields()
        .any(|(_, field)| field.exact.as_deref() == Some(name));
    if is_exact {
        Ok(())
    } else {
        schema.field(name, at).map(drop)
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}
