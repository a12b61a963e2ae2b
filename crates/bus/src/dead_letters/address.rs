//! The subject of a letter: whose it is, and about what.

use std::{fmt, str::FromStr};

use model::token;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The first token of every letter's subject.
const ROOT: &str = "dlq";
/// What stands before the number of an entry that could not be read.
const ENTRY: &str = "entry-";

/// `dlq.{tenant}.{index}.{stream}.{reader}.{about}`: all letters of one reader about one document
/// share a subject, and are removed together.
///
/// The reader is part of it because two readers of a stream write into two targets, of which one may
/// take what the other refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whose changes.
    pub tenant: String,
    /// Of which index, or the subject where even that could not be read.
    pub index: String,
    /// From which stream.
    pub stream: String,
    /// Which of its readers.
    pub reader: String,
    /// About what.
    pub about: About,
}

/// What a letter is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// A document: a digest of its id and routing, because an id can be longer than a token should be.
    Document(u128),
    /// An entry of the stream that could not be read.
    Entry(u64),
}

impl About {
    /// The document of that id and routing.
    pub fn document(id: &str, routing: Option<&str>) -> About {
        let Some(routing) = routing else {
            return About::Document(xxh3_128(id.as_bytes()));
        };
        let mut digest = Xxh3::new();
        digest.update(id.as_bytes());
        digest.update(&[0xff]); // occurs in no text, so nothing else reads the same
        digest.update(routing.as_bytes());
        About::Document(digest.digest128())
    }
}

impl Address {
    /// Matches the letters of all readers about a document.
    pub fn filter_about(index: &str, id: &str, routing: Option<&str>) -> String {
        let about = About::document(id, routing);
        format!("{ROOT}.*.{}.*.*.{about}", token::encode(index))
    }

    /// Matches the letters of a reader; of all readers and streams where none is named.
    pub fn filter(stream: Option<&str>, reader: Option<&str>) -> String {
        let token = |name: Option<&str>| name.map_or("*".to_owned(), |n| token::encode(n).into());
        match (stream, reader) {
            (None, None) => format!("{ROOT}.>"),
            _ => format!("{ROOT}.*.*.{}.{}.*", token(stream), token(reader)),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Document(digest) => write!(f, "{digest:032x}"),
            About::Entry(sequence) => write!(f, "{ENTRY}{sequence}"),
        }
    }
}

impl FromStr for About {
    type Err = NoLetter;

    fn from_str(text: &str) -> Result<About, NoLetter> {
        let about = match text.strip_prefix(ENTRY) {
            Some(sequence) => sequence.parse().ok().map(About::Entry),
            None if text.len() == 32 => u128::from_str_radix(text, 16).ok().map(About::Document),
            None => None,
        };
        about.ok_or(NoLetter)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tenant, index, stream, reader] =
            [&self.tenant, &self.index, &self.stream, &self.reader].map(|name| token::encode(name));
        write!(
            f,
            "{ROOT}.{tenant}.{index}.{stream}.{reader}.{}",
            self.about
        )
    }
}

impl FromStr for Address {
    type Err = NoLetter;

    fn from_str(subject: &str) -> Result<Address, NoLetter> {
        let tokens: Vec<&str> = subject.split('.').collect();
        let [ROOT, tenant, index, stream, reader, about] = tokens[..] else {
            return Err(NoLetter);
        };
        let decode = |name| token::decode(name).ok_or(NoLetter);
        Ok(Address {
            tenant: decode(tenant)?,
            index: decode(index)?,
            stream: decode(stream)?,
            reader: decode(reader)?,
            about: about.parse()?,
        })
    }
}

/// A subject that is no letter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subject is not one of a dead letter")]
pub struct NoLetter;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn about() -> impl Strategy<Value = About> {
        prop_oneof![
            any::<u128>().prop_map(About::Document),
            any::<u64>().prop_map(About::Entry),
        ]
    }

    proptest! {
        #[test]
        fn any_address_reads_back_as_itself(
            tenant in ".+", index in ".+", stream in "[A-Z_]+", reader in ".+", about in about(),
        ) {
            let address = Address { tenant, index, stream, reader, about };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _parsed = text.parse::<Address>();
        }
    }

    #[test]
    fn a_document_is_told_by_id_and_routing_and_nothing_runs_together() {
        let all = [
            About::document("ab", None),
            About::document("ab", Some("")),
            About::document("a", Some("b")),
            About::document("b", Some("a")),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{all:?}");
        }
        assert_eq!(About::document("é", None), About::document("é", None));
    }

    #[test]
    fn the_subject_of_a_letter_stays_what_it_is() {
        let address = Address {
            tenant: "iconik".into(),
            index: ".kibana".into(),
            stream: "ES_CHANGES".into(),
            reader: "es-writer".into(),
            about: About::document("1", None),
        };
        assert_eq!(
            address.to_string(),
            "dlq.iconik.%2Ekibana.ES_CHANGES.es-writer.df3ce784d856334d65cd25028f98f158"
        );
    }
}
