//! A search as it was asked for, whichever way it came: one form for URL and body. Pure, and knows no
//! schema: names and values are still text.

pub(crate) mod body;
pub(crate) mod filter;
mod list;
pub(crate) mod url;

use serde_json::Value;

use crate::problem::{Kind, Problem};

pub(crate) use self::filter::{Filter, Test};

/// What a caller wants to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Query {
    pub(crate) text: Option<Text>,
    /// All of them hold.
    pub(crate) filter: Vec<Filter>,
    pub(crate) facets: Vec<Facet>,
    pub(crate) sort: Vec<Sort>,
    /// The fields of the answer; all that may be seen if not given.
    pub(crate) fields: Option<Vec<String>>,
    pub(crate) highlight: Vec<String>,
    pub(crate) limit: Option<u64>,
    pub(crate) cursor: Option<String>,
    pub(crate) count: Count,
    pub(crate) is_snapshot: bool,
    /// A query in the cluster's own language.
    pub(crate) raw: Option<Value>,
    pub(crate) position: Option<String>,
}

/// Words to look for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    pub(crate) words: String,
    /// Where, each with its weight; everywhere if empty.
    pub(crate) by: Vec<(String, f64)>,
    pub(crate) mode: Mode,
}

/// How words are matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every word is in some field.
    #[default]
    All,
    /// One word is enough.
    Any,
    /// The words in this order.
    Phrase,
    /// As All, and the last word may be unfinished.
    Prefix,
    /// As Any, and words may be misspelt.
    Fuzzy,
}

impl Mode {
    pub(crate) const ALL: [(&'static str, Mode); 5] = [
        ("all", Mode::All),
        ("any", Mode::Any),
        ("phrase", Mode::Phrase),
        ("prefix", Mode::Prefix),
        ("fuzzy", Mode::Fuzzy),
    ];
}

/// The counts of a field's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facet {
    pub(crate) field: String,
    /// How many values.
    pub(crate) size: Option<u64>,
}

/// One criterion of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sort {
    /// A field, or `_score`.
    pub(crate) field: String,
    pub(crate) is_descending: bool,
    /// Where documents without a value go; as in PostgreSQL first when descending, if not given.
    pub(crate) nulls_first: Option<bool>,
}

/// How exactly the matches are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Count {
    /// Up to 10,000.
    #[default]
    Estimated,
    Exact,
    None,
}

impl Count {
    pub(crate) const ALL: [(&'static str, Count); 3] = [
        ("estimated", Count::Estimated),
        ("exact", Count::Exact),
        ("none", Count::None),
    ];
}

/// One of several words.
pub(crate) fn choice<T: Copy>(
    parameter: &str,
    text: &str,
    choices: &[(&'static str, T)],
) -> Result<T, Problem> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let detail = format!("{text:?} is none of {}", names.join(", "));
        Problem::of(Kind::BadParameter, parameter, detail)
    })
}

/// `field`, `field.desc`, `field.asc.nullsfirst`.
pub(crate) fn sort(parameter: &str, text: &str) -> Result<Sort, Problem> {
    let mut field = text;
    let mut is_descending = None;
    let mut nulls_first = None;
    while let Some((rest, word)) = field.rsplit_once('.') {
        match word {
            "nullsfirst" if nulls_first.is_none() && is_descending.is_none() => {
                nulls_first = Some(true);
            }
            "nullslast" if nulls_first.is_none() && is_descending.is_none() => {
                nulls_first = Some(false);
            }
            "asc" if is_descending.is_none() => is_descending = Some(false),
            "desc" if is_descending.is_none() => is_descending = Some(true),
            _ => break,
        }
        field = rest;
    }
    if field.is_empty() {
        let detail = format!("{text:?} names no field; write field.desc or field.asc.nullsfirst");
        return Err(Problem::of(Kind::BadParameter, parameter, detail));
    }
    Ok(Sort {
        field: field.to_owned(),
        is_descending: is_descending.unwrap_or(false),
        nulls_first,
    })
}

/// `field` or `field(20)`.
pub(crate) fn facet(parameter: &str, text: &str) -> Result<Facet, Problem> {
    let plain = Facet {
        field: text.to_owned(),
        size: None,
    };
    let Some((field, size)) = text
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once('('))
    else {
        return Ok(plain);
    };
    match size.parse() {
        Ok(size) if !field.is_empty() => Ok(Facet {
            field: field.to_owned(),
            size: Some(size),
        }),
        _ => Err(Problem::of(
            Kind::BadParameter,
            parameter,
            format!("{text:?} is no facet; write field or field(20)"),
        )),
    }
}

/// `field` or `field^3`.
pub(crate) fn weighted(parameter: &str, text: &str) -> Result<(String, f64), Problem> {
    let Some((field, weight)) = text.rsplit_once('^') else {
        return Ok((text.to_owned(), 1.0));
    };
    match weight.parse::<f64>() {
        Ok(weight) if weight > 0.0 && weight <= 1000.0 => Ok((field.to_owned(), weight)),
        _ => Err(Problem::of(
            Kind::BadParameter,
            parameter,
            format!("{weight:?} is no weight; write field^3, with a number above 0 and up to 1000"),
        )),
    }
}
