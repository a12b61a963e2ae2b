//! A search out of the query string of a URL.

use crate::{
    problem::{Kind, Problem},
    query::{Count, Filter, Mode, Query, Text, choice, facet, sort, weighted},
};

/// The parameters that are no fields. A field of such a name is reached with `and=(limit.eq.3)`.
pub(crate) const PARAMETERS: &[&str] = &[
    "q",
    "query_by",
    "match",
    "facet_by",
    "sort",
    "fields",
    "highlight",
    "limit",
    "cursor",
    "count",
    "snapshot",
    "min_position",
    "min_lsn",
];

/// Reads the pairs of a query string.
///
/// # Errors
/// The first parameter that cannot be used.
pub(crate) fn read(pairs: &[(String, String)]) -> Result<Query, Problem> {
    let mut query = Query::default();
    let (mut words, mut by, mut mode) = (None, None, None);
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in pairs {
        if PARAMETERS.contains(&name.as_str()) {
            if seen.contains(&name.as_str()) {
                return Err(Problem::of(Kind::BadParameter, name, "it is given twice"));
            }
            seen.push(name);
        }
        match name.as_str() {
            "q" => words = Some(value.clone()),
            "query_by" => by = Some(each(name, value, weighted)?),
            "match" => mode = Some(choice(name, value, &Mode::ALL)?),
            "facet_by" => query.facets = each(name, value, facet)?,
            "sort" => query.sort = each(name, value, sort)?,
            "fields" => query.fields = Some(each(name, value, |_, field| Ok(field.to_owned()))?),
            "highlight" => query.highlight = each(name, value, |_, field| Ok(field.to_owned()))?,
            "limit" => query.limit = Some(number(name, value)?),
            "cursor" => query.cursor = Some(value.clone()),
            "count" => query.count = choice(name, value, &Count::ALL)?,
            "snapshot" => {
                query.is_snapshot = choice(name, value, &[("true", true), ("false", false)])?;
            }
            "min_position" => query.position = Some(value.clone()),
            "min_lsn" => query.position = Some(lsn(value)),
            _ => query.filter.push(Filter::of_parameter(name, value)?),
        }
    }
    query.text = text(words, by, mode)?;
    Ok(query)
}

/// `query_by` and `match` say something about `q` only.
pub(crate) fn text(
    words: Option<String>,
    by: Option<Vec<(String, f64)>>,
    mode: Option<Mode>,
) -> Result<Option<Text>, Problem> {
    match words {
        Some(words) => Ok(Some(Text {
            words,
            by: by.unwrap_or_default(),
            mode: mode.unwrap_or_default(),
        })),
        None if by.is_some() => Err(Problem::of(Kind::BadParameter, "query_by", "there is no q")),
        None if mode.is_some() => Err(Problem::of(Kind::BadParameter, "match", "there is no q")),
        None => Ok(None),
    }
}

/// A PostgreSQL position among the others.
pub(crate) fn lsn(value: &str) -> String {
    format!("lsn:{value}")
}

fn each<T>(
    name: &str,
    value: &str,
    read: impl Fn(&str, &str) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    // Nothing is a list of nothing.
    let parts = (!value.is_empty()).then(|| value.split(','));
    let parts = parts.into_iter().flatten();
    parts.map(|part| read(name, part)).collect()
}

fn number(name: &str, value: &str) -> Result<u64, Problem> {
    let refused = |_| Problem::of(Kind::BadParameter, name, format!("{value:?} is no number"));
    value.parse().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Facet, Sort};

    fn read_pairs(pairs: &[(&str, &str)]) -> Result<Query, Problem> {
        let owned: Vec<_> = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        read(&owned)
    }

    #[test]
    fn every_parameter_has_its_place_and_the_rest_are_filters() {
        let query = read_pairs(&[
            ("q", "star wars"),
            ("query_by", "title^3,body"),
            ("match", "any"),
            ("facet_by", "genre(20),year"),
            ("sort", "a.b.desc.nullslast,_score"),
            ("limit", "5"),
            ("price", "gte.1"),
            ("price", "lt.9"),
            ("count", "exact"),
        ]);
        let query = query.unwrap();
        let text = query.text.unwrap();
        assert_eq!(
            text.by,
            [("title".to_owned(), 3.0), ("body".to_owned(), 1.0)]
        );
        assert_eq!(
            query.facets[0],
            Facet {
                field: "genre".into(),
                size: Some(20)
            }
        );
        let first = Sort {
            field: "a.b".into(),
            is_descending: true,
            nulls_first: Some(false),
        };
        assert_eq!(query.sort[0], first);
        assert_eq!(
            (query.filter.len(), query.limit, query.count),
            (2, Some(5), Count::Exact)
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        for (pairs, parameter) in [
            (&[("limit", "1"), ("limit", "2")][..], "limit"),
            (&[("query_by", "a")], "query_by"),
            (&[("match", "any")], "match"),
            (&[("match", "some"), ("q", "a")], "match"),
            (&[("limit", "-1")], "limit"),
            (&[("query_by", "a^x"), ("q", "a")], "query_by"),
            (&[("facet_by", "a(x)")], "facet_by"),
            (&[("sort", ".desc")], "sort"),
            (&[("sort", "a,,b")], "sort"),
        ] {
            let problem = read_pairs(pairs).unwrap_err();
            assert_eq!(problem.parameter.as_deref(), Some(parameter));
        }
    }
}
