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
pub(super) fn covers(key: &[u8], path: &[String]) -> usize {
    let Some((first, mut names)) = path.split_first() else {
        return 0;
    };
    // Nearly all keys are others, which their first byte tells.
    if key.first() != first.as_bytes().first() {
        return 0;
    }
    let Some(mut rest) = key.strip_prefix(first.as_bytes()) else {
        return 0;
    };
    // Names have no dots of their own.
    while let Some(more) = rest.strip_prefix(b".") {
        let Some((name, after)) = names.split_first() else {
            return 0;
        };
        let Some(left) = more.strip_prefix(name.as_bytes()) else {
            return 0;
        };
        (rest, names) = (left, after);
    }
    match rest.is_empty() {
        true => path.len() - names.len(),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The same as cutting both at their dots.
        #[test]
        fn a_key_covers_the_names_that_it_spells(key in "[ab.]{0,6}", path in prop::collection::vec("[ab]{1,2}", 1..4)) {
            let parts: Vec<_> = key.split('.').collect();
            let is_prefix = parts.len() <= path.len() && parts.iter().zip(&path).all(|(part, name)| part == name);
            prop_assert_eq!(covers(key.as_bytes(), &path), if is_prefix { parts.len() } else { 0 });
        }
    }
}
