//! The line of metadata in front of a document.

use std::borrow::Cow;

use serde::Deserialize;

/// What the line says; its key is what becomes of the document.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) enum MetadataLine<'a> {
    #[serde(rename = "index", borrow)]
    Index(Metadata<'a>),
    #[serde(rename = "delete", borrow)]
    Delete(Metadata<'a>),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Metadata<'a> {
    #[serde(borrow, rename = "_id")]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) routing: Option<Cow<'a, str>>,
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) version_type: Option<Cow<'a, str>>,
}

/// Reads a line.
pub(super) fn read(line: &[u8]) -> serde_json::Result<MetadataLine<'_>> {
    // A JSON library takes four times as long, and most lines are just as `write_change` leaves them.
    as_written(line).map_or_else(|| serde_json::from_slice(line), Ok)
}

/// Reads a line whose keys have their usual order, without spaces and with nothing escaped; `None` for any other.
fn as_written(line: &[u8]) -> Option<MetadataLine<'_>> {
    let (is_delete, line) = match line.strip_prefix(b"{\"index\":{\"_id\":\"") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix(b"{\"delete\":{\"_id\":\"")?),
    };
    let (id, line) = text(line)?;
    let (routing, line) = match line.strip_prefix(b",\"routing\":\"") {
        Some(rest) => text(rest).map(|(routing, rest)| (Some(routing.into()), rest))?,
        None => (None, line),
    };
    let (version, line) = number(line.strip_prefix(b",\"version\":")?)?;
    let (version_type, line) = text(line.strip_prefix(b",\"version_type\":\"")?)?;
    let metadata = Metadata {
        id: id.into(),
        routing,
        version,
        version_type: Some(version_type.into()),
    };
    (line == b"}}").then_some(match is_delete {
        true => MetadataLine::Delete(metadata),
        false => MetadataLine::Index(metadata),
    })
}

/// The rest of a text up to its quote, and what comes behind that; `None` where something is escaped.
fn text(line: &[u8]) -> Option<(&str, &[u8])> {
    let end = line
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    let (text, rest) = line.split_at(end);
    Some((str::from_utf8(text).ok()?, rest.strip_prefix(b"\"")?))
}

/// A number without sign, fraction or exponent, and what comes behind it.
fn number(line: &[u8]) -> Option<(u64, &[u8])> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = line.split_at(digits);
    // One that begins with 0 is none in JSON, unless it is 0.
    if number.starts_with(b"0") && number.len() > 1 {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    match number.is_empty() {
        true => None,
        false => Some((number.iter().try_fold(0, add)?, rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    fn line() -> impl Strategy<Value = String> {
        let name = || prop_oneof![3 => "[a-z0-9é]{0,6}", 1 => "[a-z\"\\\\\n ]{0,6}"];
        let number = prop_oneof![
            any::<u64>().prop_map(|number| number.to_string()),
            "-?[0-9]{1,25}",
            "0[0-9]{0,3}",
            "[0-9.e]{0,4}",
        ];
        let parts = (name(), option::of(name()), number, option::of(name()));
        (parts, any::<bool>(), 0..8usize).prop_map(|(parts, is_delete, damage)| {
            let (id, routing, version, version_type) = parts;
            let json = |text: &String| serde_json::to_string(text).unwrap();
            let mut line = match is_delete {
                true => "{\"delete\":{\"_id\":".to_owned(),
                false => "{\"index\":{\"_id\":".to_owned(),
            };
            line += &json(&id);
            if let Some(routing) = &routing {
                line += &format!(",\"routing\":{}", json(routing));
            }
            line += &format!(",\"version\":{version}");
            if let Some(version_type) = &version_type {
                line += &format!(",\"version_type\":{}", json(version_type));
            }
            line += "}}";
            match damage {
                0 => line.replace(",\"", ", \""),
                1 => line.replace('}', ""),
                2 => line.replace('\\', ""),
                3 => line + "x",
                _ => line,
            }
        })
    }

    proptest! {
        /// What is read without the library, the library reads alike.
        #[test]
        fn a_line_as_it_is_written_says_what_a_json_library_reads_in_it(line in line()) {
            if let Some(read) = as_written(line.as_bytes()) {
                let by_library: MetadataLine<'_> = serde_json::from_slice(line.as_bytes()).unwrap();
                prop_assert_eq!(read, by_library);
            }
        }
    }

    #[test]
    fn what_a_writer_leaves_is_read_without_the_library() {
        for line in [
            r#"{"index":{"_id":"7","version":41,"version_type":"external"}}"#,
            r#"{"delete":{"_id":"é","routing":"r","version":0,"version_type":"external_gte"}}"#,
        ] {
            assert!(as_written(line.as_bytes()).is_some(), "{line}");
        }
    }
}
