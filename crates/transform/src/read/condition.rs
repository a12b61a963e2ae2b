//! Conditions: which changes are meant, and which documents.

use std::cmp::Ordering;

use config::tree::{Node, Place, Table};
use model::{IndexPatterns, Operation, expand_filter};
use regex::RegexBuilder;

use super::{owned, wrong};
use crate::{
    filter::Condition,
    json::Path,
    predicate::{Bound, Predicate, Test},
    scope::Scope,
};

/// The most a compiled regular expression may take, in bytes.
const REGEX_LIMIT: usize = 1 << 20;
/// Predicates may stand in each other, but not endlessly.
const MOST_NESTED: usize = 20;

pub(super) fn scope(place: Place<'_>) -> Option<Scope> {
    place.table(scope_entries)
}

pub(super) fn condition(place: Place<'_>) -> Option<Condition> {
    place.table(|table| Condition {
        scope: scope_entries(table),
        document: table.get("document", |place| predicate(place, 0)),
    })
}

fn scope_entries(table: &Table<'_>) -> Scope {
    Scope {
        indices: table.get("index", |place| {
            let patterns = place.texts()?.join(",");
            match patterns.parse::<IndexPatterns>() {
                Ok(patterns) => Some(patterns),
                Err(error) => wrong(place, error.to_string()),
            }
        }),
        operations: table.get("operation", |place| {
            let parsed = place.texts()?.into_iter().map(str::parse::<Operation>);
            match parsed.collect() {
                Ok(operations) => Some(operations),
                Err(error) => wrong(place, error.to_string()),
            }
        }),
        tenants: table.get("tenant", |place| place.texts().map(owned)),
        subjects: table.get("subject", |place| {
            let expanded = place.texts()?.into_iter().map(expand_filter);
            match expanded.collect() {
                Ok(subjects) => Some(subjects),
                Err(error) => wrong(place, error.to_string()),
            }
        }),
    }
}

pub(super) fn predicate(place: Place<'_>, depth: usize) -> Option<Predicate> {
    if depth > MOST_NESTED {
        return wrong(
            place,
            format!("conditions stand in each other more than {MOST_NESTED} deep"),
        );
    }
    let several = |place: Place<'_>| {
        let mut parts = Vec::new();
        place.each(|item| parts.extend(predicate(item, depth + 1)));
        match parts.is_empty() {
            true => wrong(place, "a list of conditions is wanted here"),
            false => Some(parts),
        }
    };
    // A list of conditions has to hold as a whole.
    if place.node.items().is_some() {
        return several(place).map(Predicate::All);
    }
    place.table(|table| {
        let combined = [
            table.get("all", |place| several(place).map(Predicate::All)),
            table.get("any", |place| several(place).map(Predicate::Any)),
            table.get("not", |place| {
                predicate(place, depth + 1).map(|inner| Predicate::Not(Box::new(inner)))
            }),
        ];
        let field = table.get("field", |place| place.parse::<Path>());
        let test = test(table);
        let mut combined = combined.into_iter().flatten();
        match (combined.next(), combined.next(), field, test) {
            (Some(predicate), None, None, None) => Some(predicate),
            (None, None, Some(field), Some(test)) => Some(Predicate::Field(field, test)),
            _ => wrong(place, "a condition is one of all, any and not, or a `field` with one of exists, equals, in, range, prefix and regex"),
        }
    })?
}

fn test(table: &Table<'_>) -> Option<Test> {
    let tests = [
        table.get("exists", |place| place.parse().map(Test::Exists)),
        table.get("equals", |place| match place.node.to_json() {
            value if value.is_object() || value.is_array() => {
                wrong(place, "a single value is wanted here")
            }
            value => Some(Test::In(vec![value])),
        }),
        table.get("in", |place| match place.node.items() {
            Some(items) => Some(Test::In(items.iter().map(Node::to_json).collect())),
            None => wrong(place, "a list of values is wanted here"),
        }),
        table.get("range", |place| {
            let bounds = place.table(|table| {
                let ends = [
                    ("gt", Ordering::Greater, false),
                    ("gte", Ordering::Greater, true),
                    ("lt", Ordering::Less, false),
                    ("lte", Ordering::Less, true),
                ];
                let bound = |(key, side, inclusive)| {
                    let value = table.get(key, |place| Some(place.node.to_json()))?;
                    Some(Bound {
                        value,
                        side,
                        inclusive,
                    })
                };
                ends.into_iter().filter_map(bound).collect::<Vec<_>>()
            })?;
            match bounds.is_empty() {
                true => wrong(place, "a range has one or two of gt, gte, lt and lte"),
                false => Some(Test::Range(bounds)),
            }
        }),
        table.get("prefix", |place| {
            place.text().map(|text| Test::Prefix(text.to_owned()))
        }),
        table.get("regex", |place| {
            let regex = RegexBuilder::new(place.text()?)
                .size_limit(REGEX_LIMIT)
                .build();
            match regex {
                Ok(regex) => Some(Test::Regex(regex)),
                Err(error) => wrong(place, error.to_string()),
            }
        }),
    ];
    let mut tests = tests.into_iter().flatten();
    let first = tests.next();
    if tests.next().is_some() {
        table
            .place()
            .wrong("a condition on a field has one test; several are joined by `all`");
    }
    first
}
