//! Where a field is.

use std::fmt;

/// Deeper than any document that a search engine takes (20 by default, and never near this).
const MOST_DEPTH: usize = 100;

/// The names on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path(Vec<String>);

impl std::str::FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Path, String> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        match names.iter().any(String::is_empty) || names.len() > MOST_DEPTH {
            true => Err(format!(
                "{text:?} is no field: write names with dots between them"
            )),
            false => Ok(Path(names)),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl Path {
    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    /// The path beside this one with another last name.
    pub(crate) fn is_beside(&self, other: &Path) -> bool {
        self.0.len() == other.0.len() && self.0[..self.0.len() - 1] == other.0[..other.0.len() - 1]
    }

    pub(crate) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

/// How many names of a path a key stands for, dots and all; 0 where it is another key.
pub(super) fn covers(key: &str, path: &[String]) -> usize {
    let Some(first) = path.first() else { return 0 };
    if key == first {
        return 1;
    }
    let mut names = path.iter();
    let parts = key.split('.');
    let mut count = 0;
    for part in parts {
        if names.next().is_none_or(|name| name != part) {
            return 0;
        }
        count += 1;
    }
    count
}
