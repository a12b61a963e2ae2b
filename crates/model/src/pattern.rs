//! Which indices are meant: `assets,metadata,-temp_*`.
//!
//! Names and globs (`*` stands for any text) separated by commas; a leading `-` excludes, wherever
//! it stands in the list. A list of nothing but exclusions means everything else. An index that
//! is hidden or whose name begins with a dot belongs to the system, so a glob takes it only when
//! the glob begins with a dot too; its full name always does.

use std::{fmt, str::FromStr};

/// A list of index patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexPatterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(String);

/// Why a text is no list of index patterns.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// There is no pattern in it.
    #[error("no index pattern is given; use names and globs such as assets,logs-*,-temp_*")]
    Empty,
    /// A pattern contains what no index name may.
    #[error("{0:?} is no index pattern: index names are lower case and without {1:?}")]
    Illegal(String, char),
}

impl IndexPatterns {
    /// Every index that is neither hidden nor the system's.
    pub fn all() -> IndexPatterns {
        IndexPatterns {
            include: vec![Pattern("*".to_owned())],
            exclude: Vec::new(),
        }
    }

    /// Whether an index of this name is meant.
    pub fn matches(&self, name: &str, hidden: bool) -> bool {
        let system = hidden || name.starts_with('.');
        self.include.iter().any(|p| p.takes(name, system)) && !self.excludes(name)
    }

    /// Whether an index is meant that goes by an alias, too: aliases count only in full.
    pub fn matches_alias(&self, alias: &str) -> bool {
        self.include.iter().any(|p| p.0 == alias)
    }

    /// Whether an index of this name is left out.
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|p| p.fits(name))
    }

    /// All that is included, names and globs.
    pub fn included(&self) -> impl Iterator<Item = &str> {
        self.include.iter().map(|p| p.0.as_str())
    }

    /// The included names that are no globs: each of them should exist.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.include
            .iter()
            .filter(|p| !p.is_glob())
            .map(|p| p.0.as_str())
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, PatternError> {
        let illegal =
            |c: &char| c.is_uppercase() || c.is_whitespace() || r#"\/?"<>|#:"#.contains(*c);
        match text.chars().find(illegal) {
            Some(c) => Err(PatternError::Illegal(text.to_owned(), c)),
            None => Ok(Pattern(text.to_owned())),
        }
    }

    fn is_glob(&self) -> bool {
        self.0.contains('*')
    }

    fn takes(&self, name: &str, system: bool) -> bool {
        let meant = !system || !self.is_glob() || self.0.starts_with('.');
        meant && self.fits(name)
    }

    /// Finds each part between the stars at its first place after the part before, which is right
    /// because a star takes up whatever lies between.
    fn fits(&self, name: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let Some(mut name) = name.strip_prefix(head) else {
            return false;
        };
        let mut parts = rest.split('*');
        let tail = parts.next_back().unwrap_or_default();
        for part in parts {
            match name.find(part) {
                Some(at) => name = &name[at + part.len()..],
                None => return false,
            }
        }
        name.ends_with(tail)
    }
}

impl FromStr for IndexPatterns {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut patterns = IndexPatterns {
            include: Vec::new(),
            exclude: Vec::new(),
        };
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.strip_prefix('-') {
                Some("") => return Err(PatternError::Illegal(part.to_owned(), '-')),
                Some(excluded) => patterns.exclude.push(Pattern::parse(excluded)?),
                None => patterns.include.push(Pattern::parse(part)?),
            }
        }
        match (patterns.include.is_empty(), patterns.exclude.is_empty()) {
            (true, true) => return Err(PatternError::Empty),
            (true, false) => patterns.include = IndexPatterns::all().include,
            _ => {}
        }
        Ok(patterns)
    }
}

impl fmt::Display for IndexPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let include = self.include.iter().map(|p| p.0.clone());
        let exclude = self.exclude.iter().map(|p| format!("-{}", p.0));
        let parts: Vec<_> = include.chain(exclude).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(text: &str) -> IndexPatterns {
        text.parse().unwrap()
    }

    #[test]
    fn names_and_globs_include_and_a_dash_excludes() {
        let p = patterns("assets, metadata,logs-*,-temp_*,-logs-old*");
        for (name, expected) in [
            ("assets", true),
            ("assets2", false),
            ("metadata", true),
            ("logs-", true),
            ("logs-2024.01", true),
            ("logs-old-1", false),
            ("temp_1", false),
        ] {
            assert_eq!(p.matches(name, false), expected, "{name}");
        }
    }

    #[test]
    fn exclusions_alone_mean_everything_else() {
        let p = patterns("-temp_*");
        assert!(p.matches("assets", false));
        assert!(!p.matches("temp_1", false) && !p.matches(".kibana", false));
    }

    #[test]
    fn hidden_and_system_indices_come_only_by_name_or_by_a_glob_with_a_dot() {
        assert!(!patterns("*").matches(".kibana", false));
        assert!(!patterns("*").matches("secret", true));
        assert!(!patterns("sec*").matches("secret", true));
        assert!(patterns("secret").matches("secret", true));
        assert!(patterns(".kib*").matches(".kibana", true));
        assert!(patterns(".kibana").matches(".kibana", false));
        assert!(!patterns(".kib*,-.kibana").matches(".kibana", true));
    }

    #[test]
    fn a_list_without_a_pattern_or_with_an_impossible_name_is_refused() {
        assert_eq!("".parse::<IndexPatterns>(), Err(PatternError::Empty));
        assert_eq!(" , ".parse::<IndexPatterns>(), Err(PatternError::Empty));
        assert!("a b".parse::<IndexPatterns>().is_err());
        assert!(
            "Assets"
                .parse::<IndexPatterns>()
                .unwrap_err()
                .to_string()
                .contains("lower case")
        );
        assert!("a,-".parse::<IndexPatterns>().is_err());
    }

    /// The definition of a glob, slow and obvious.
    fn oracle(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                oracle(rest, name) || name.split_first().is_some_and(|(_, n)| oracle(glob, n))
            }
            (Some((g, glob)), Some((n, name))) => g == n && oracle(glob, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_glob_fits_exactly_what_its_definition_says(glob in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let fits = Pattern(glob.clone()).fits(&name);
            prop_assert_eq!(fits, oracle(glob.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn a_list_reads_back_as_it_is_shown(list in "(-?[a-z.*]{1,6},){1,5}") {
            if let Ok(patterns) = list.parse::<IndexPatterns>() {
                prop_assert_eq!(patterns.to_string().parse(), Ok(patterns));
            }
        }

        #[test]
        fn any_text_is_a_list_or_an_error(text: String) {
            drop(text.parse::<IndexPatterns>());
        }
    }
}
