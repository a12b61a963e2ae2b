//! What can be decided about a change without its document.

use model::{IndexName, IndexPatterns, Kind, Operation, Root, Subject, Tenant};

/// Where a change is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At {
    /// Whose it is.
    pub tenant: Tenant,
    /// Of which index.
    pub index: IndexName,
    /// What it does.
    pub operation: Operation,
}

/// Which changes are meant; what is not given means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) indices: Option<IndexPatterns>,
    pub(crate) operations: Option<Vec<Operation>>,
    pub(crate) tenants: Option<Vec<String>>,
    /// Patterns of whole subjects, as JetStream has them.
    pub(crate) subjects: Option<Vec<String>>,
}

impl Scope {
    pub(crate) fn holds(&self, at: &At) -> bool {
        fn is<T>(wanted: &Option<T>, holds: impl FnOnce(&T) -> bool) -> bool {
            wanted.as_ref().is_none_or(holds)
        }
        is(&self.indices, |patterns| {
            patterns.matches(at.index.as_str(), false)
        }) && is(&self.operations, |operations| {
            operations.contains(&at.operation)
        }) && is(&self.tenants, |tenants| {
            tenants.iter().any(|t| t == at.tenant.as_str())
        }) && is(&self.subjects, |patterns| {
            let subject = at.subject().to_string();
            patterns.iter().any(|pattern| matches(pattern, &subject))
        })
    }
}

/// Changes of one operation of which more may be known, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) tenant: Option<Tenant>,
    pub(crate) index: Option<IndexName>,
    pub(crate) operation: Operation,
}

impl Part {
    /// Whether a scope means all of these changes, or none of them; `None` where it means some of them or where
    /// that is not known.
    pub(crate) fn within(&self, scope: &Scope) -> Option<bool> {
        fn of<T, V>(
            wanted: &Option<T>,
            known: Option<&V>,
            holds: impl FnOnce(&T, &V) -> bool,
        ) -> Option<bool> {
            match (wanted, known) {
                (None, _) => Some(true),
                (Some(wanted), Some(known)) => Some(holds(wanted, known)),
                (Some(_), None) => None,
            }
        }
        let (tenant, index) = (self.tenant.as_ref(), self.index.as_ref());
        let at = tenant.zip(index).map(|(tenant, index)| At {
            tenant: tenant.clone(),
            index: index.clone(),
            operation: self.operation,
        });
        let answers = [
            of(&scope.indices, index, |patterns, index| {
                patterns.matches(index.as_str(), false)
            }),
            of(&scope.operations, Some(&self.operation), |named, one| {
                named.contains(one)
            }),
            of(&scope.tenants, tenant, |named, one| {
                named.iter().any(|name| name == one.as_str())
            }),
            of(&scope.subjects, at.as_ref(), |patterns, at| {
                let subject = at.subject().to_string();
                patterns.iter().any(|pattern| matches(pattern, &subject))
            }),
        ];
        match answers.contains(&Some(false)) {
            true => Some(false),
            false => answers
                .into_iter()
                .try_fold(true, |all, answer| Some(all && answer?)),
        }
    }
}

impl At {
    /// Its subject in the log that sources fill.
    pub fn subject(&self) -> Subject {
        Subject {
            root: Root::Changes,
            tenant: self.tenant.clone(),
            index: self.index.clone(),
            kind: Kind::Operation(self.operation),
        }
    }
}

/// Whether a subject is one of those a pattern of JetStream stands for.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tenant: &str, index: &str, operation: Operation) -> At {
        At {
            tenant: tenant.parse().unwrap(),
            index: index.parse().unwrap(),
            operation,
        }
    }

    #[test]
    fn a_scope_means_what_all_of_its_parts_mean() {
        let scope = Scope {
            indices: Some("logs-*,-logs-old*".parse().unwrap()),
            operations: Some(vec![Operation::Index]),
            tenants: Some(vec!["a".to_owned()]),
            subjects: Some(vec!["es.a.>".to_owned()]),
        };
        assert!(scope.holds(&at("a", "logs-1", Operation::Index)));
        assert!(!scope.holds(&at("a", "logs-old1", Operation::Index)));
        assert!(!scope.holds(&at("a", "logs-1", Operation::Delete)));
        assert!(!scope.holds(&at("b", "logs-1", Operation::Index)));
        assert!(Scope::default().holds(&at("b", ".kibana", Operation::Delete)));
    }

    #[test]
    fn subject_patterns_match_whole_tokens() {
        let dotted = at("a", "logs.1", Operation::Update).subject().to_string();
        for (pattern, holds) in [
            ("es.a.>", true),
            ("es.*.logs%2E1.update", true),
            ("es.a.logs%2E1", false),
            ("es.*.*.delete", false),
            ("es.b.>", false),
            (">", true),
        ] {
            assert_eq!(matches(pattern, &dotted), holds, "{pattern}");
        }
    }
}
