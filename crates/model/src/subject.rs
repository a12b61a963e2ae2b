//! Where in a stream a batch belongs: `es.{tenant}.{index}.{operation}`.
//!
//! A subject is tokens with dots between them, and `*`, `>`, white space and the empty token have
//! meanings of their own in NATS. Index names such as `.kibana` or `logs-2024.01` would be torn
//! apart, so a token is percent-encoded: every byte outside printable ASCII and each of
//! `. * > %` becomes `%XX`. What [`token::encode`] writes, [`token::decode`] reads back exactly.

use std::fmt;

use crate::{IndexName, NameError, Operation, Tenant};

/// Which log a subject belongs to. The gateway's output has a root of its own, so that it can never
/// be taken for input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// What sources publish: `es`.
    Changes,
    /// What the gateway lets through: `gw.es`.
    Gateway,
}

impl Root {
    /// The first tokens of the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Root::Changes => "es",
            Root::Gateway => "gw.es",
        }
    }
}

/// What a message says: a kind of change, or what the index looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Changes of documents.
    Operation(Operation),
    /// The index's mappings and settings, under the token `definition`.
    Definition,
    /// That everything before is gone, under the token `clear`.
    Clear,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Operation(operation) => operation.as_str(),
            Kind::Definition => "definition",
            Kind::Clear => "clear",
        }
    }
}

/// The address of a message in its stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The log.
    pub root: Root,
    /// Whose changes.
    pub tenant: Tenant,
    /// Of which index.
    pub index: IndexName,
    /// Saying what.
    pub kind: Kind,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = token::encode(self.tenant.as_str());
        let index = token::encode(self.index.as_str());
        write!(
            f,
            "{}.{tenant}.{index}.{}",
            self.root.as_str(),
            self.kind.as_str()
        )
    }
}

impl std::str::FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let malformed = || SubjectError::Malformed(text.to_owned());
        let (root, rest) = match text.strip_prefix("gw.es.") {
            Some(rest) => (Root::Gateway, rest),
            None => (
                Root::Changes,
                text.strip_prefix("es.").ok_or_else(malformed)?,
            ),
        };
        let mut tokens = rest.split('.');
        let (Some(tenant), Some(index), Some(kind), None) =
            (tokens.next(), tokens.next(), tokens.next(), tokens.next())
        else {
            return Err(malformed());
        };
        let decode = |token| token::decode(token).ok_or_else(malformed);
        Ok(Subject {
            root,
            tenant: Tenant::try_from(decode(tenant)?)?,
            index: IndexName::try_from(decode(index)?)?,
            kind: match kind {
                "definition" => Kind::Definition,
                "clear" => Kind::Clear,
                operation => Kind::Operation(operation.parse().map_err(|_| malformed())?),
            },
        })
    }
}

/// Why a text is no subject.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubjectError {
    /// The tokens are not root, tenant, index, operation.
    #[error("{0:?} is no subject of the form es.TENANT.INDEX.OPERATION")]
    Malformed(String),
    /// A token stands for an impossible name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A filter that can match no change.
    #[error("the subject filter {filter:?} can match nothing: {reason}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Completes a subject filter. People write `es.iconik.assets` for all changes of an index, but a
/// filter of three tokens matches no subject of four: it becomes `es.iconik.assets.>`.
///
/// # Errors
/// When the filter cannot match any change.
pub fn expand_filter(filter: &str) -> Result<String, SubjectError> {
    let refuse = |reason| SubjectError::Filter {
        filter: filter.to_owned(),
        reason,
    };
    let under_root = filter.strip_prefix("gw.").unwrap_or(filter);
    let tokens: Vec<&str> = under_root.split('.').collect();
    if tokens
        .iter()
        .any(|t| t.is_empty() || t.contains(char::is_whitespace))
    {
        return Err(refuse("a token is empty or contains white space"));
    }
    if !matches!(tokens[0], "es" | "*" | ">") {
        return Err(refuse("subjects start with es. or gw.es."));
    }
    if tokens.iter().rev().skip(1).any(|t| *t == ">") {
        return Err(refuse("'>' may only be the last token"));
    }
    if tokens.iter().any(|t| t.len() > 1 && t.contains(['*', '>'])) {
        return Err(refuse(
            "a wildcard stands for a whole token; name indices one by one",
        ));
    }
    match (tokens.len(), tokens.last()) {
        (_, Some(&">")) | (4, _) => Ok(filter.to_owned()),
        (1..=3, _) => Ok(format!("{filter}.>")),
        _ => Err(refuse("it has more tokens than es.TENANT.INDEX.OPERATION")),
    }
}

/// Encoding of one subject token.
pub mod token {
    use std::{borrow::Cow, fmt::Write};

    fn is_plain(byte: u8) -> bool {
        byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>' | b'%')
    }

    /// A text as one valid token.
    pub fn encode(text: &str) -> Cow<'_, str> {
        if text.bytes().all(is_plain) {
            return Cow::Borrowed(text);
        }
        let mut token = String::with_capacity(text.len() + 8);
        for byte in text.bytes() {
            if is_plain(byte) {
                token.push(byte as char);
            } else {
                write!(token, "%{byte:02X}").expect("writing to a String cannot fail");
            }
        }
        Cow::Owned(token)
    }

    /// The text behind a token; `None` when [`encode`] cannot have written it.
    pub fn decode(token: &str) -> Option<String> {
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let (digits, tail) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        }
        let text = String::from_utf8(bytes).ok()?;
        (encode(&text) == token).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_survives_as_one_token(text in ".*") {
            let encoded = token::encode(&text);
            prop_assert!(!encoded.contains(['.', '*', '>', ' ']) && encoded.is_ascii());
            prop_assert_eq!(token::decode(&encoded), Some(text));
        }

        #[test]
        fn two_different_tokens_never_mean_the_same_name(a in "[a.%]{1,4}", b in "[a.%]{1,4}") {
            prop_assert_eq!(token::encode(&a) == token::encode(&b), a == b);
        }

        #[test]
        fn any_subject_reads_back_as_itself(tenant in ".+", index in ".+", kind in 0usize..4, gateway: bool) {
            let subject = Subject {
                root: if gateway { Root::Gateway } else { Root::Changes },
                tenant: Tenant::try_from(tenant).unwrap(),
                index: IndexName::try_from(index).unwrap(),
                kind: Operation::ALL.get(kind).map_or(Kind::Definition, |o| Kind::Operation(*o)),
            };
            prop_assert_eq!(subject.to_string().parse(), Ok(subject));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _parsed = text.parse::<Subject>();
            let _expanded = expand_filter(&text);
        }
    }

    #[test]
    fn an_index_name_with_dots_stays_one_token() {
        let subject = Subject {
            root: Root::Changes,
            tenant: "iconik".parse().unwrap(),
            index: ".kibana_7.17".parse().unwrap(),
            kind: Kind::Operation(Operation::Update),
        };
        assert_eq!(subject.to_string(), "es.iconik.%2Ekibana_7%2E17.update");
    }

    #[test]
    fn a_short_filter_means_everything_below_it() {
        assert_eq!(
            expand_filter("es.iconik.assets"),
            Ok("es.iconik.assets.>".into())
        );
        assert_eq!(expand_filter("es.iconik"), Ok("es.iconik.>".into()));
        assert_eq!(expand_filter("gw.es.iconik"), Ok("gw.es.iconik.>".into()));
        assert_eq!(
            expand_filter("es.*.assets.index"),
            Ok("es.*.assets.index".into())
        );
        assert_eq!(expand_filter(">"), Ok(">".into()));
    }

    #[test]
    fn a_filter_that_can_match_nothing_is_refused() {
        for filter in [
            "",
            "es..x",
            "logs.x",
            "es.>.x",
            "es.t.temp_*",
            "es.t.logs.2024.index",
        ] {
            assert!(expand_filter(filter).is_err(), "{filter:?} was taken");
        }
    }
}
