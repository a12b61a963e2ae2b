//! What of a rule set JetStream itself can decide, as subject filters: what they leave out never crosses
//! the network.
//!
//! JetStream knows whole tokens and nothing like "all but". So filters come of the indices that are named in
//! full and of the operations; a glob is decided here. A filter may let through more than the rules do, never
//! less.

use model::{Operation, token};

use crate::{RuleSet, Selection};

/// The most filters of one reader; with more, the server's work on each message is worth more than what is
/// saved.
pub const MOST_SUBJECTS: usize = 64;

impl RuleSet {
    /// The subject filters of a reader of what sources publish; none where it needs everything.
    pub fn subjects(selection: &Selection) -> Vec<String> {
        let names = selection.include_indices.as_ref().and_then(|patterns| {
            let names: Vec<&str> = patterns.names().collect();
            (names.len() == patterns.included().count()).then_some(names)
        });
        let operations = selection.include_operations.as_deref();
        if names.is_none() && operations.is_none() {
            return Vec::new();
        }
        let indices: Vec<String> = match names {
            None => vec!["*".to_owned()],
            Some(names) => {
                let excluded = selection.exclude_patterns.as_ref();
                let mut wanted: Vec<String> = names
                    .into_iter()
                    .filter(|name| excluded.is_none_or(|patterns| !patterns.matches(name, false)))
                    .map(|name| token::encode(name).into_owned())
                    .collect();
                wanted.sort();
                wanted.dedup();
                wanted
            }
        };
        let mut kinds: Vec<&str> = match operations {
            None => vec![">"],
            // What an index looks like comes before its first change.
            Some(operations) => {
                let named = Operation::ALL
                    .into_iter()
                    .filter(|one| operations.contains(one));
                named.map(Operation::as_str).chain(["definition"]).collect()
            }
        };
        if indices.len() * kinds.len() > MOST_SUBJECTS {
            kinds = vec![">"];
        }
        if indices.is_empty() || indices.len() > MOST_SUBJECTS {
            return Vec::new();
        }
        let mut subjects = Vec::new();
        for index in &indices {
            subjects.extend(kinds.iter().map(|kind| format!("es.*.{index}.{kind}")));
        }
        subjects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(
        include: Option<&str>,
        exclude: Option<&str>,
        operations: Option<&[Operation]>,
    ) -> Vec<String> {
        RuleSet::subjects(&Selection {
            include_indices: include.map(|text| text.parse().unwrap()),
            exclude_patterns: exclude.map(|text| text.parse().unwrap()),
            include_operations: operations.map(<[Operation]>::to_vec),
        })
    }

    #[test]
    fn names_and_operations_become_subject_filters_and_globs_do_not() {
        assert_eq!(
            subjects(Some("metadata,assets.v1"), Some("temp_*,logs"), None),
            ["es.*.assets%2Ev1.>", "es.*.metadata.>"]
        );
        assert_eq!(
            subjects(None, None, Some(&[Operation::Delete, Operation::Index])),
            ["es.*.*.index", "es.*.*.delete", "es.*.*.definition"]
        );
        assert!(subjects(Some("assets,media-*"), None, None).is_empty());
        assert!(subjects(None, Some("logs"), None).is_empty());
        assert_eq!(
            subjects(Some("assets,logs"), Some("logs"), None),
            ["es.*.assets.>"]
        );
        let many: Vec<String> = (0..40).map(|n| format!("i{n}")).collect();
        let both = subjects(Some(&many.join(",")), None, Some(&[Operation::Index]));
        assert_eq!(both.len(), 40, "{both:?}");
        let too_many: Vec<String> = (0..100).map(|n| format!("i{n}")).collect();
        assert!(subjects(Some(&too_many.join(",")), None, None).is_empty());
    }
}
