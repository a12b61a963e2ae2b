//! A search out of a JSON body.
//!
//! A filter is an object: `{"price": {"gte": 10}, "or": [{"a": 1}, {"b": {"is": null}}]}`. Its members
//! all hold; a bare value is `eq`, a bare `null` is `is`, a bare list is `in`.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    problem::{Kind, Problem},
    query::{
        Count, Filter, Mode, Query, Test, choice, facet, filter::negated, sort, url, weighted,
    },
    schema::Operator,
};

/// What a body may have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    q: Option<String>,
    query_by: Option<Vec<String>>,
    #[serde(rename = "match")]
    mode: Option<String>,
    filter: Option<Map<String, Value>>,
    facet_by: Vec<String>,
    sort: Vec<String>,
    fields: Option<Vec<String>>,
    highlight: Vec<String>,
    limit: Option<u64>,
    cursor: Option<String>,
    count: Option<String>,
    snapshot: bool,
    min_position: Option<String>,
    min_lsn: Option<String>,
    raw: Option<Value>,
}

/// Reads a body.
///
/// # Errors
/// What is no JSON, has a member that does not exist, or one that cannot be used.
pub(crate) fn read(bytes: &[u8]) -> Result<Query, Problem> {
    of(object(bytes)?)
}

/// The search that an object's members are. A `null` is no way to leave a member out: whoever sends one may
/// have meant a value.
pub(crate) fn of(members: Map<String, Value>) -> Result<Query, Problem> {
    if let Some((name, _)) = members.iter().find(|(_, value)| value.is_null()) {
        return Err(Problem::of(Kind::BadParameter, name, "it is null"));
    }
    query(serde_json::from_value(Value::Object(members)).map_err(refused)?)
}

/// A body that is an object; a list would be taken for its members in their order.
pub(crate) fn object<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let members: Map<String, Value> = serde_json::from_slice(bytes).map_err(refused)?;
    serde_json::from_value(Value::Object(members)).map_err(refused)
}

fn refused(error: serde_json::Error) -> Problem {
    Problem::new(Kind::BadBody, error.to_string())
}

fn query(body: Body) -> Result<Query, Problem> {
    let each = |name: &str, texts: &[String]| {
        texts
            .iter()
            .map(|text| sort(name, text))
            .collect::<Result<Vec<_>, _>>()
    };
    let by = body
        .query_by
        .map(|by| by.iter().map(|f| weighted("query_by", f)).collect());
    let mode = body.mode.map(|mode| choice("match", &mode, &Mode::ALL));
    let filter = body
        .filter
        .map(|members| all(&members, "filter"))
        .transpose()?;
    if body.min_lsn.is_some() && body.min_position.is_some() {
        let detail = "give one of min_lsn and min_position";
        return Err(Problem::of(Kind::BadParameter, "min_lsn", detail));
    }
    Ok(Query {
        text: url::text(body.q, by.transpose()?, mode.transpose()?)?,
        filter: filter.unwrap_or_default(),
        facets: body
            .facet_by
            .iter()
            .map(|f| facet("facet_by", f))
            .collect::<Result<_, _>>()?,
        sort: each("sort", &body.sort)?,
        fields: body.fields,
        highlight: body.highlight,
        limit: body.limit,
        cursor: body.cursor,
        count: body.count.map_or(Ok(Count::default()), |count| {
            choice("count", &count, &Count::ALL)
        })?,
        is_snapshot: body.snapshot,
        raw: body.raw,
        position: body.min_position.or(body.min_lsn.map(|lsn| url::lsn(&lsn))),
    })
}

/// The members of an object of conditions. The depth is that of the JSON, which its reader limits.
fn all(members: &Map<String, Value>, at: &str) -> Result<Vec<Filter>, Problem> {
    let mut filters = Vec::with_capacity(members.len());
    for (name, value) in members {
        let at = format!("{at}.{name}");
        let group = |value: &Value| -> Result<Vec<Filter>, Problem> {
            let items = value.as_array().ok_or_else(|| {
                Problem::of(Kind::BadParameter, &at, "it is no list of conditions")
            })?;
            items.iter().map(|item| conditions(item, &at)).collect()
        };
        match name.as_str() {
            "and" => filters.push(Filter::All(group(value)?)),
            "or" => filters.push(Filter::Any(group(value)?)),
            "not" => filters.push(negated(conditions(value, &at)?, true)),
            field => tests(field, value, &at, &mut filters)?,
        }
    }
    Ok(filters)
}

fn conditions(value: &Value, at: &str) -> Result<Filter, Problem> {
    match value.as_object() {
        Some(members) => Ok(Filter::All(all(members, at)?)),
        None => Err(Problem::of(
            Kind::BadParameter,
            at,
            "it is no object of conditions",
        )),
    }
}

fn tests(field: &str, value: &Value, at: &str, into: &mut Vec<Filter>) -> Result<(), Problem> {
    let Value::Object(operators) = value else {
        let operator = match value {
            Value::Null => Operator::Is,
            Value::Array(_) => Operator::In,
            _ => Operator::Eq,
        };
        into.push(test(field, operator, value, at)?);
        return Ok(());
    };
    if operators.is_empty() {
        return Err(Problem::of(Kind::BadParameter, at, "it has no operator"));
    }
    for (word, value) in operators {
        if word == "not" {
            let mut inner = Vec::new();
            tests(field, value, at, &mut inner)?;
            into.push(negated(Filter::All(inner), true));
            continue;
        }
        let operator = Operator::named(word).ok_or_else(|| {
            Problem::of(
                Kind::UnknownOperator,
                at,
                format!("{word:?} is no operator"),
            )
        })?;
        into.push(test(field, operator, value, at)?);
    }
    Ok(())
}

fn test(field: &str, operator: Operator, value: &Value, at: &str) -> Result<Filter, Problem> {
    let values = match (operator, value) {
        (Operator::In, Value::Array(items)) => items
            .iter()
            .map(|item| scalar(item, at))
            .collect::<Result<_, _>>()?,
        (Operator::In, _) => {
            return Err(Problem::of(
                Kind::BadParameter,
                at,
                "in takes a list of values",
            ));
        }
        (Operator::Is, Value::Null) => vec!["null".to_owned()],
        _ => vec![scalar(value, at)?],
    };
    Ok(Filter::Test(Test {
        field: field.to_owned(),
        operator,
        values,
        parameter: at.to_owned(),
    }))
}

fn scalar(value: &Value, at: &str) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err(Problem::of(
            Kind::BadValue,
            at,
            "it is no text, number, true or false",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_asks_the_same_as_the_url() {
        let body = json!({
            "q": "star", "query_by": ["title^2"], "facet_by": ["genre(5)"], "sort": ["year.desc"],
            "filter": { "price": { "gte": 10, "lt": 20 }, "or": [{ "a": "x" }, { "b": null }] },
            "limit": 3,
        });
        let from_body = read(body.to_string().as_bytes()).unwrap();
        let pairs = [
            ("q", "star"),
            ("query_by", "title^2"),
            ("facet_by", "genre(5)"),
            ("sort", "year.desc"),
            ("limit", "3"),
        ];
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let from_url = url::read(&pairs).unwrap();
        assert_eq!(
            Query {
                filter: Vec::new(),
                ..from_body.clone()
            },
            from_url
        );
        assert_eq!(from_body.filter.len(), 3);
    }

    #[test]
    fn a_body_that_makes_no_sense_is_refused() {
        for body in [
            json!([]),
            json!("x"),
            json!({ "unknown": 1 }),
            json!({ "filter": { "a": {} } }),
            json!({ "filter": { "a": { "eq": [1] } } }),
            json!({ "filter": { "and": {} } }),
            json!({ "filter": { "a": { "above": 1 } } }),
            json!({ "filter": { "a": { "in": 1 } } }),
            json!({ "limit": -1 }),
            json!({ "q": null }),
            json!({ "filter": null }),
            json!({ "min_lsn": "0/1", "min_position": "x" }),
        ] {
            assert!(read(body.to_string().as_bytes()).is_err(), "{body}");
        }
        assert!(read(b"{").is_err());
    }
}
