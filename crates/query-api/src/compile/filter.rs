//! Filters as queries, with SQL's logic of three values: a comparison with an absent value is neither
//! true nor false, so neither it nor its negation finds the document.

use serde_json::{Value, json};

use crate::{
    problem::{Kind as ProblemKind, Problem},
    query::{Filter, Test},
    schema::{Field, Kind, Operator, ScopedSchema},
};

/// How the bounds of dates are written.
const MOMENT: &str = "strict_date_optional_time_nanos";

/// The documents for which the filter is true, or those for which it is false: these are not all the
/// others.
///
/// # Errors
/// When a field, an operator or a value does not fit.
pub(crate) fn truth(
    filter: &Filter,
    wanted: bool,
    schema: ScopedSchema<'_>,
) -> Result<Value, Problem> {
    match filter {
        Filter::Not(inner) => truth(inner, !wanted, schema),
        Filter::Test(test) => self::test(test, wanted, schema),
        Filter::All(inner) | Filter::Any(inner) => {
            let parts = inner.iter().map(|filter| truth(filter, wanted, schema));
            let parts: Vec<Value> = parts.collect::<Result<_, _>>()?;
            let is_conjunction = matches!(filter, Filter::All(_)) == wanted;
            Ok(match (is_conjunction, parts.is_empty()) {
                (true, true) => json!({ "match_all": {} }),
                (false, true) => json!({ "match_none": {} }),
                (true, false) => json!({ "bool": { "filter": parts } }),
                (false, false) => json!({ "bool": { "should": parts, "minimum_should_match": 1 } }),
            })
        }
    }
}

/// Whether a filter can keep tenants apart: by whole values that stay as they are.
pub(super) fn check_forced(filter: &Filter, schema: ScopedSchema<'_>) -> Result<(), Problem> {
    match filter {
        Filter::Not(inner) => check_forced(inner, schema),
        Filter::All(inner) | Filter::Any(inner) => inner
            .iter()
            .try_for_each(|filter| check_forced(filter, schema)),
        Filter::Test(test) if test.field == "_id" => Ok(()),
        Filter::Test(test) => {
            let field = schema.field(&test.field, &test.parameter)?;
            let is_exact = !field.is_normalised
                && field.nested.is_none()
                && !matches!(
                    test.operator,
                    Operator::Fts | Operator::Phfts | Operator::Ilike
                );
            if is_exact {
                return Ok(());
            }
            let detail = format!("{:?} does not compare values as they are", test.field);
            Err(Problem::of(
                ProblemKind::BadParameter,
                &test.parameter,
                detail,
            ))
        }
    }
}

fn test(test: &Test, wanted: bool, schema: ScopedSchema<'_>) -> Result<Value, Problem> {
    if test.field == "_id" {
        return ids(test, wanted);
    }
    let field = schema.field(&test.field, &test.parameter)?;
    if !field.operators().contains(&test.operator) {
        return Err(no_such_operator(test, field));
    }
    if test.operator == Operator::In && test.values.is_empty() {
        // Nothing is in an empty list, not even an absent value.
        let all = if wanted { "match_none" } else { "match_all" };
        return Ok(json!({ all: {} }));
    }
    let exists = within(field, json!({ "exists": { "field": field.path } }));
    let (holds, wanted) = match test.operator {
        Operator::Is => return is(test, field, wanted, exists),
        Operator::Neq => (comparison(test, field)?, !wanted),
        _ => (comparison(test, field)?, wanted),
    };
    let holds = within(field, holds);
    Ok(match wanted {
        true => holds,
        false => json!({ "bool": { "filter": [exists], "must_not": [holds] } }),
    })
}

/// The document's id, which is no field of it and always there.
fn ids(test: &Test, wanted: bool) -> Result<Value, Problem> {
    let is_negated = match test.operator {
        Operator::Eq | Operator::In => !wanted,
        Operator::Neq => wanted,
        _ => {
            let detail = "\"_id\" has eq, neq, in";
            return Err(Problem::of(
                ProblemKind::UnknownOperator,
                &test.parameter,
                detail,
            ));
        }
    };
    let holds = json!({ "ids": { "values": test.values } });
    Ok(if is_negated {
        json!({ "bool": { "must_not": [holds] } })
    } else {
        holds
    })
}

fn no_such_operator(test: &Test, field: &Field) -> Problem {
    let names: Vec<&str> = field
        .operators()
        .iter()
        .map(|operator| operator.name())
        .collect();
    let has = match names.as_slice() {
        [] => "nothing can be asked of it".to_owned(),
        names => format!("it has {}", names.join(", ")),
    };
    let detail = format!(
        "{:?} is {} and has no operator {}; {has}",
        test.field,
        field.kind.name(),
        test.operator.name(),
    );
    Problem::of(ProblemKind::UnknownOperator, &test.parameter, detail)
}

/// `is` is never unknown.
fn is(test: &Test, field: &Field, wanted: bool, exists: Value) -> Result<Value, Problem> {
    let value = test.values.first().map(String::as_str).unwrap_or_default();
    let (holds, wanted) = match (value, field.kind) {
        ("null", _) => (exists, !wanted),
        ("not_null", _) => (exists, wanted),
        ("true" | "false", Kind::Boolean) => (within(field, comparison(test, field)?), wanted),
        _ => {
            let detail =
                format!("{value:?} is none of null, not_null, and true and false of a boolean");
            return Err(Problem::of(ProblemKind::BadValue, &test.parameter, detail));
        }
    };
    Ok(match wanted {
        true => holds,
        false => json!({ "bool": { "must_not": [holds] } }),
    })
}

fn comparison(test: &Test, field: &Field) -> Result<Value, Problem> {
    let path = field.exact.as_deref().unwrap_or(&field.path);
    let mut values = Vec::with_capacity(test.values.len());
    for value in &test.values {
        values.push(read(test, field, value)?);
    }
    let only = || values.first().cloned().unwrap_or_default();
    Ok(match test.operator {
        Operator::Eq | Operator::Neq | Operator::Is => equal(path, field.kind, only()),
        Operator::In if field.kind.is_moment() => {
            let any = values
                .into_iter()
                .map(|value| equal(path, field.kind, value));
            json!({ "bool": { "should": any.collect::<Vec<_>>(), "minimum_should_match": 1 } })
        }
        Operator::In => json!({ "terms": { path: values } }),
        Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte => {
            range(path, field.kind, &[(test.operator.name(), only())])
        }
        // OpenSearch finds nothing by a pattern of nothing.
        Operator::Like | Operator::Ilike if test.values[0].is_empty() => {
            equal(path, field.kind, only())
        }
        Operator::Like => json!({ "wildcard": { path: { "value": pattern(&test.values[0]) } } }),
        Operator::Ilike => {
            json!({ "wildcard": { path: { "value": pattern(&test.values[0]), "case_insensitive": true } } })
        }
        Operator::Fts => {
            json!({ "match": { &field.path: { "query": only(), "operator": "and" } } })
        }
        Operator::Phfts => json!({ "match_phrase": { &field.path: { "query": only() } } }),
    })
}

fn read(test: &Test, field: &Field, text: &str) -> Result<Value, Problem> {
    let refuse = |detail| Err(Problem::of(ProblemKind::BadValue, &test.parameter, detail));
    if let Some(most) = field.ignore_above.filter(|_| test.operator.is_whole())
        && text.chars().count() > most
    {
        return refuse(format!(
            "values of {:?} that have more than {most} characters cannot be found",
            test.field
        ));
    }
    field.kind.read(text).or_else(refuse)
}

fn equal(path: &str, kind: Kind, value: Value) -> Value {
    match kind.is_moment() {
        true => range(path, kind, &[("gte", value.clone()), ("lte", value)]),
        false => json!({ "term": { path: { "value": value } } }),
    }
}

fn range(path: &str, kind: Kind, bounds: &[(&str, Value)]) -> Value {
    let mut range = serde_json::Map::new();
    for (bound, value) in bounds {
        range.insert((*bound).to_owned(), value.clone());
    }
    if kind.is_moment() {
        range.insert("format".to_owned(), MOMENT.into());
    }
    json!({ "range": { path: range } })
}

/// SQL's `%` and `_`, and `*` as PostgREST has it for URLs, as the cluster's `*` and `?`.
fn pattern(like: &str) -> String {
    let mut pattern = String::with_capacity(like.len());
    let mut characters = like.chars();
    while let Some(c) = characters.next() {
        match c {
            '%' | '*' => pattern.push('*'),
            '_' => pattern.push('?'),
            '\\' => pattern.extend(['\\', characters.next().unwrap_or('\\')]),
            '?' => pattern.push_str("\\?"),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Around what is asked of a list of objects.
fn within(field: &Field, query: Value) -> Value {
    match &field.nested {
        Some(path) => json!({ "nested": { "path": path, "query": query } }),
        None => query,
    }
}
