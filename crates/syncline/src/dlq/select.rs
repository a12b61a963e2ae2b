//! Which letters are meant.

use std::fmt;

use bus::{Letter, dead_letters::Address};
use config::Millis;
use search::IndexPatterns;

/// Filters: a letter is meant when all that are given take it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Selection {
    /// Index patterns (comma-separated); -NAME excludes. All indices when not given.
    #[arg(long, value_name = "PATTERN,...", allow_hyphen_values = true)]
    index: Option<IndexPatterns>,
    /// The document's id.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// The document's routing.
    #[arg(long, value_name = "ROUTING", allow_hyphen_values = true)]
    routing: Option<String>,
    /// A part of the reason, in any case.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The reader whose target refuses the document: the --consumer of its es-writer.
    #[arg(long, value_name = "NAME")]
    reader: Option<String>,
    /// The stream the change came from.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only what was refused last longer ago than this.
    #[arg(long, value_name = "DURATION")]
    older_than: Option<Millis>,
}

impl Selection {
    /// The subjects on which they stand; what it cannot express, [`Selection::means`] decides.
    pub(crate) fn filter(&self) -> String {
        Address::filter(self.stream.as_deref(), self.reader.as_deref())
    }

    /// Whether a letter is meant, at a time in milliseconds since 1970.
    pub(crate) fn means(&self, letter: &Letter, now: u64) -> bool {
        let takes = |wanted: &Option<String>, found: Option<&str>| match wanted {
            None => true,
            Some(wanted) => found == Some(wanted),
        };
        let index = self.index.as_ref();
        let id = self.id.as_deref().is_none_or(|id| {
            letter.id.as_deref() == Some(id) || letter.is_about(id, self.routing.as_deref())
        });
        let reason = self.reason.as_deref().is_none_or(|reason| {
            letter
                .reason
                .to_lowercase()
                .contains(&reason.to_lowercase())
        });
        let age = now.saturating_sub(letter.parked);
        id && reason
            && index.is_none_or(|index| index.matches(letter.index(), false))
            && takes(&self.routing, letter.routing.as_deref())
            && takes(&self.reader, letter.reader())
            && takes(&self.stream, Some(&letter.stream))
            && self.older_than.is_none_or(|least| age > least.as_millis())
    }
}

impl fmt::Display for Selection {
    /// As it stands on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [
            ("index", self.index.as_ref().map(ToString::to_string)),
            ("id", self.id.clone()),
            ("routing", self.routing.clone()),
            ("reason", self.reason.clone()),
            ("reader", self.reader.clone()),
            ("stream", self.stream.clone()),
            (
                "older-than",
                self.older_than.as_ref().map(ToString::to_string),
            ),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let words: Vec<String> = given
            .map(|(name, value)| format!("--{name} {value:?}"))
            .collect();
        match words.is_empty() {
            true => f.write_str("no filter"),
            false => f.write_str(&words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            subject: "dlq.t.movies.ES_CHANGES.w.00000000000000000000000000000007".to_owned(),
            address: "dlq.t.movies.ES_CHANGES.w.00000000000000000000000000000007"
                .parse()
                .ok(),
            id: Some("7".to_owned()),
            reason: "mapper_parsing_exception: failed to parse field [Year]".to_owned(),
            parked: 1000,
            stream: "ES_CHANGES".to_owned(),
            ..Letter::default()
        }
    }

    fn select(change: impl FnOnce(&mut Selection)) -> bool {
        let mut selection = Selection::default();
        change(&mut selection);
        selection.means(&letter(), 11_000)
    }

    #[test]
    fn a_letter_is_meant_when_every_filter_takes_it() {
        assert!(select(|_| {}));
        assert!(select(|s| s.index = "mov*".parse().ok()));
        assert!(!select(|s| s.index = "*,-movies".parse().ok()));
        assert!(select(|s| s.id = Some("7".into())));
        assert!(!select(|s| s.id = Some("8".into())));
        assert!(!select(|s| {
            s.id = Some("7".into());
            s.routing = Some("de".into());
        }));
        assert!(select(|s| s.reason = Some("FIELD [year]".into())));
        assert!(!select(|s| s.reason = Some("too large".into())));
        assert!(select(|s| s.reader = Some("w".into())));
        assert!(!select(|s| s.reader = Some("other".into())));
        assert!(!select(|s| s.stream = Some("ES_GATEWAY".into())));
        assert!(select(|s| s.older_than = "9s".parse().ok()));
        assert!(!select(|s| s.older_than = "10s".parse().ok()));
    }

    #[test]
    fn what_is_meant_is_said_as_it_was_typed() {
        let selection = Selection {
            id: Some("a b".to_owned()),
            older_than: "60s".parse().ok(),
            ..Selection::default()
        };
        assert_eq!(selection.to_string(), "--id \"a b\" --older-than \"1m\"");
        assert_eq!(Selection::default().to_string(), "no filter");
    }
}
