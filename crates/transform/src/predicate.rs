//! Conditions on a document's fields.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

use crate::json::{Node, Path, plain};

/// A condition. A field that holds an array meets it when one of its elements does.
#[derive(Debug, Clone)]
pub(crate) enum Predicate {
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
    Not(Box<Predicate>),
    Field(Path, Test),
}

/// What a field has to be.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    /// There, and not null; or the contrary.
    Exists(bool),
    /// One of these values: `equals` is a list of one.
    In(Vec<Value>),
    /// Within these bounds, as a number or as a text.
    Range(Vec<Bound>),
    Prefix(String),
    Regex(Regex),
}

/// One end of a range.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) value: Value,
    /// How what is in it compares with the value.
    pub(crate) side: Ordering,
    pub(crate) inclusive: bool,
}

impl Predicate {
    pub(crate) fn holds(&self, document: &mut Node<'_>) -> bool {
        match self {
            Predicate::All(all) => all.iter().all(|one| one.holds(document)),
            Predicate::Any(any) => any.iter().any(|one| one.holds(document)),
            Predicate::Not(one) => !one.holds(document),
            Predicate::Field(path, Test::Exists(wanted)) => {
                document.any(path, &mut |json| json != "null") == *wanted
            }
            Predicate::Field(path, test) => document.any(path, &mut |json| test.holds(json)),
        }
    }
}

impl Test {
    fn holds(&self, json: &str) -> bool {
        let is_text = json.starts_with('"');
        match self {
            Test::Exists(_) => json != "null",
            Test::In(values) => values
                .iter()
                .any(|value| compare(json, value) == Some(Ordering::Equal)),
            Test::Range(bounds) => bounds.iter().all(|bound| {
                compare(json, &bound.value).is_some_and(|ordering| {
                    ordering == bound.side || bound.inclusive && ordering == Ordering::Equal
                })
            }),
            Test::Prefix(prefix) => is_text && plain(json).starts_with(prefix.as_str()),
            Test::Regex(regex) => is_text && regex.is_match(&plain(json)),
        }
    }
}

/// Compares a value of a document with one of a rule; `None` where they are of different kinds.
fn compare(json: &str, value: &Value) -> Option<Ordering> {
    match value {
        Value::String(text) if json.starts_with('"') => Some(plain(json).as_ref().cmp(text)),
        Value::Number(number) => numbers(json, &number.to_string()),
        Value::Bool(bool) if json == "true" || json == "false" => Some((json == "true").cmp(bool)),
        Value::Null if json == "null" => Some(Ordering::Equal),
        _ => None,
    }
}

/// Whole numbers exactly, others as 64-bit floats.
fn numbers(one: &str, other: &str) -> Option<Ordering> {
    if !one.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    match (one.parse::<i128>(), other.parse::<i128>()) {
        (Ok(one), Ok(other)) => Some(one.cmp(&other)),
        _ => one
            .parse::<f64>()
            .ok()?
            .partial_cmp(&other.parse::<f64>().ok()?),
    }
}
