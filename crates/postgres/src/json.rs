//! Values as JSON. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use crate::{
    Type,
    literal::{self, Element, Range},
};

/// A number with more characters than this is written as text: parsers of search engines refuse longer
/// ones, and nothing is lost with it, for a double has no more than 309 digits before the point.
const LONGEST_NUMBER: usize = 300;
/// How deep JSON of the type `json` is looked into for a key that occurs twice.
const DEEPEST: usize = 100;

impl Type {
    /// Appends a value, given as the server's text, as JSON.
    pub fn write(&self, out: &mut Vec<u8>, text: &str) {
        match self {
            Type::Bool => out.extend_from_slice(match text {
                "t" => b"true",
                "f" => b"false",
                _ => b"null",
            }),
            Type::Integer(_) | Type::Float(_) | Type::Numeric => number(out, text),
            Type::Text | Type::Keyword | Type::Inet | Type::Cidr => string(out, text),
            Type::Date => string(out, &date(text)),
            Type::Timestamp => string(out, &timestamp(text)),
            Type::Json => object(out, text, |out, text| without_duplicates(out, text, 0)),
            Type::Jsonb => object(out, text, plain),
            Type::Object | Type::Opaque => match json_text(text) {
                true => without_duplicates(out, text, 0),
                false => string(out, text),
            },
            Type::Bytes => bytes(out, text),
            Type::Skipped => out.extend_from_slice(b"null"),
            Type::Point => match point(text) {
                Some((x, y)) => {
                    out.extend_from_slice(format!("{{\"lat\":{y},\"lon\":{x}}}").as_bytes())
                }
                None => string(out, text),
            },
            Type::Range(of) => match literal::range(text) {
                Some(found) => range(out, of, &found),
                None => string(out, text),
            },
            Type::MultiRange(of) => match literal::multirange(text) {
                Some(found) => list(out, &found, |out, found| range(out, of, found)),
                None => string(out, text),
            },
            Type::Array(of, delimiter) => match literal::array(text, *delimiter) {
                Some(found) => array(out, of, &found),
                None => string(out, text),
            },
            Type::Composite(fields) => match literal::composite(text) {
                Some(found) if found.len() == fields.len() => {
                    let pairs = fields.iter().zip(found);
                    let pairs = pairs.filter(|((_, of), _)| **of != Type::Skipped);
                    members(out, pairs, |out, ((name, of), value)| {
                        string(out, name);
                        out.push(b':');
                        optional(out, value.as_deref(), |out, text| of.write(out, text));
                    });
                }
                _ => string(out, text),
            },
            Type::Hstore => match literal::hstore(text) {
                Some(found) => members(out, found, |out, (key, value)| {
                    string(out, &key);
                    out.push(b':');
                    optional(out, value.as_deref(), string);
                }),
                None => string(out, text),
            },
        }
    }
}

/// Appends a JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text to memory cannot fail");
}

fn plain(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn optional(out: &mut Vec<u8>, value: Option<&str>, write: impl Fn(&mut Vec<u8>, &str)) {
    match value {
        Some(text) => write(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn members<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    out.push(b'{');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b'}');
}

/// As it is where it is one for JSON too; `NaN` and `Infinity` are not.
fn number(out: &mut Vec<u8>, text: &str) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_one = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match is_one && text.len() <= LONGEST_NUMBER {
        true => plain(out, text),
        false => string(out, text),
    }
}

/// `0044-03-15 BC` is the year -43 in ISO 8601, which has a year 0 and gives years above 9999 a sign.
fn date(text: &str) -> String {
    let (text, is_before) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let Some((year, rest)) = text.split_once('-') else {
        return text.to_owned(); // infinity
    };
    match (year.parse::<i64>(), is_before) {
        (Ok(1), true) => format!("0000-{rest}"),
        (Ok(year), true) => format!("-{:04}-{rest}", year - 1),
        (Ok(year), false) if year > 9999 => format!("+{year}-{rest}"),
        _ => text.to_owned(),
    }
}

/// `2024-01-31 12:00:00.5+00` is `2024-01-31T12:00:00.5Z`.
fn timestamp(text: &str) -> String {
    let (text, is_before) = match text.strip_suffix(" BC") {
        Some(text) => (text, " BC"),
        None => (text, ""),
    };
    let Some((day, time)) = text.split_once(' ') else {
        return text.to_owned(); // infinity
    };
    let day = date(&format!("{day}{is_before}"));
    match time.strip_suffix("+00") {
        Some(time) => format!("{day}T{time}Z"),
        None => format!("{day}T{time}"),
    }
}

/// A value that is no object stands in one: an index cannot map it otherwise.
fn object(out: &mut Vec<u8>, text: &str, write: impl Fn(&mut Vec<u8>, &str)) {
    if text.trim_start().starts_with('{') {
        return write(out, text);
    }
    out.extend_from_slice(b"{\"value\":");
    write(out, text);
    out.push(b'}');
}

fn json_text(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// The type `json` keeps what was written; search engines refuse an object with a key twice. The last one
/// counts, as everywhere in PostgreSQL.
fn without_duplicates(out: &mut Vec<u8>, text: &str, depth: usize) {
    use std::collections::BTreeMap;
    let text = text.trim();
    match text.as_bytes().first() {
        Some(b'{') if depth < DEEPEST => {
            match serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
                Ok(found) => members(out, found, |out, (key, value)| {
                    string(out, &key);
                    out.push(b':');
                    without_duplicates(out, value.get(), depth + 1);
                }),
                Err(_) => string(out, text),
            }
        }
        Some(b'[') if depth < DEEPEST => match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(found) => list(out, &found, |out, value| {
                without_duplicates(out, value.get(), depth + 1);
            }),
            Err(_) => string(out, text),
        },
        _ => plain(out, text),
    }
}

/// `\xDEADBEEF` as base64.
fn bytes(out: &mut Vec<u8>, text: &str) {
    let digit = |digit: u8| (digit as char).to_digit(16);
    let decoded: Option<Vec<u8>> = text.strip_prefix("\\x").and_then(|hex| {
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| match pair {
                [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
                _ => None,
            })
            .collect()
    });
    match decoded {
        Some(decoded) => string(out, &STANDARD.encode(decoded)),
        None => string(out, text),
    }
}

fn point(text: &str) -> Option<(f64, f64)> {
    let (x, y) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite());
    Some((number(x)?, number(y)?))
}

/// An empty range holds nothing, and a search engine has no such thing.
fn range(out: &mut Vec<u8>, of: &Type, found: &Range) {
    let Range::Between {
        lower,
        upper,
        includes_lower,
        includes_upper,
    } = found
    else {
        return out.extend_from_slice(b"null");
    };
    let lower_name = if *includes_lower { "gte" } else { "gt" };
    let upper_name = if *includes_upper { "lte" } else { "lt" };
    let bounds = [(lower_name, lower), (upper_name, upper)];
    // Infinity is what no bound means, too.
    let bounds = bounds.into_iter().filter_map(|(name, bound)| {
        let bound = bound.as_deref()?;
        (!bound
            .trim_start_matches('-')
            .eq_ignore_ascii_case("infinity"))
        .then_some((name, bound))
    });
    members(out, bounds, |out, (name, bound)| {
        string(out, name);
        out.push(b':');
        of.write(out, bound);
    });
}

fn array(out: &mut Vec<u8>, of: &Type, elements: &[Element]) {
    list(out, elements, |out, element| match element {
        Element::Null => out.extend_from_slice(b"null"),
        Element::Text(text) => of.write(out, text),
        Element::Array(inner) => array(out, of, inner),
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn json(of: &Type, text: &str) -> String {
        let mut out = Vec::new();
        of.write(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_type_has_its_json() {
        let time = Arc::new(Type::Timestamp);
        let ints = Arc::new(Type::Integer("integer"));
        for (of, text, expected) in [
            (Type::Bool, "t", "true"),
            (
                Type::Integer("long"),
                "-9223372036854775808",
                "-9223372036854775808",
            ),
            (Type::Float("double"), "1e-07", "1e-07"),
            (Type::Float("double"), "NaN", "\"NaN\""),
            (
                Type::Numeric,
                "12345678901234567890.12345678901234567",
                "12345678901234567890.12345678901234567",
            ),
            (Type::Numeric, "-Infinity", "\"-Infinity\""),
            (Type::Text, "a\"b\n\u{1F600}", "\"a\\\"b\\n\u{1F600}\""),
            (Type::Date, "2024-02-29", "\"2024-02-29\""),
            (Type::Date, "infinity", "\"infinity\""),
            (Type::Date, "0044-03-15 BC", "\"-0043-03-15\""),
            (Type::Date, "0001-03-15 BC", "\"0000-03-15\""),
            (Type::Date, "12024-03-15", "\"+12024-03-15\""),
            (
                Type::Timestamp,
                "2024-01-31 12:00:00.123456+00",
                "\"2024-01-31T12:00:00.123456Z\"",
            ),
            (
                Type::Timestamp,
                "2024-01-31 12:00:00",
                "\"2024-01-31T12:00:00\"",
            ),
            (
                Type::Timestamp,
                "0044-03-15 00:00:00+00 BC",
                "\"-0043-03-15T00:00:00Z\"",
            ),
            (Type::Timestamp, "-infinity", "\"-infinity\""),
            (Type::Jsonb, "{\"a\": 1}", "{\"a\": 1}"),
            (Type::Jsonb, "[1, 2]", "{\"value\":[1, 2]}"),
            (
                Type::Json,
                "{\"a\":1,\"b\":{\"c\":1,\"c\":[{\"d\":1,\"d\":2}]},\"a\":2}",
                "{\"a\":2,\"b\":{\"c\":[{\"d\":2}]}}",
            ),
            (Type::Json, " 5 ", "{\"value\":5}"),
            (Type::Bytes, "\\x00ff", "\"AP8=\""),
            (Type::Point, "(1.5,-2)", "{\"lat\":-2,\"lon\":1.5}"),
            (
                Type::Range(Arc::clone(&ints)),
                "[1,5)",
                "{\"gte\":1,\"lt\":5}",
            ),
            (Type::Range(Arc::clone(&ints)), "empty", "null"),
            (
                Type::Range(Arc::clone(&time)),
                "[\"2024-01-01 00:00:00\",infinity)",
                "{\"gte\":\"2024-01-01T00:00:00\"}",
            ),
            (
                Type::MultiRange(Arc::clone(&ints)),
                "{[1,2),(,0)}",
                "[{\"gte\":1,\"lt\":2},{\"lt\":0}]",
            ),
            (
                Type::Array(Arc::clone(&ints), b','),
                "[0:1]={1,NULL}",
                "[1,null]",
            ),
            (Type::Array(ints, b','), "{{1},{2}}", "[[1],[2]]"),
            (
                Type::Hstore,
                "\"a\"=>\"1\", \"b\"=>NULL",
                "{\"a\":\"1\",\"b\":null}",
            ),
        ] {
            assert_eq!(json(&of, text), expected, "{of:?} {text}");
        }
        let fields = [
            ("n".to_owned(), Arc::new(Type::Integer("long"))),
            ("s".to_owned(), Arc::new(Type::Text)),
        ];
        let composite = Type::Composite(fields.into());
        assert_eq!(json(&composite, "(1,\"a b\")"), "{\"n\":1,\"s\":\"a b\"}");
        assert_eq!(json(&composite, "(,)"), "{\"n\":null,\"s\":null}");
        let long = "9".repeat(400);
        assert_eq!(json(&Type::Numeric, &long), format!("\"{long}\""));
    }

    proptest! {
        /// Whatever a server sends, and even what no server would, is one JSON value.
        #[test]
        fn every_value_is_json(text in "\\PC{0,20}|[-0-9.eE+]{0,9}|[\\[({\"',})\\]a1]{0,12}") {
            let text = text.as_str();
            let inner = Arc::new(Type::Numeric);
            for of in [
                Type::Bool, Type::Text, Type::Date, Type::Timestamp, Type::Bytes, Type::Point, Type::Hstore,
                Type::Opaque, Type::Range(inner.clone()), Type::MultiRange(inner.clone()),
                Type::Array(inner.clone(), b','),
                Type::Composite([("a".to_owned(), inner.clone()), ("b".to_owned(), inner)].into()),
            ] {
                let json = json(&of, text);
                prop_assert!(serde_json::from_str::<&RawValue>(&json).is_ok(), "{of:?} {json}");
            }
        }
    }
}
