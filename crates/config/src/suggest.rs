//! Did you mean …? The nearest of the known names, if one is near enough to be a slip.

/// The number of single-character edits (insert, drop, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j] = left;
            left = replaced.min(left + 1).min(diagonal + 1);
        }
        row[b.len()] = left;
    }
    row[b.len()]
}

/// The known name that `word` most probably means; hyphen, underscore and case count as equal.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let wanted = plain(word);
    known
        .into_iter()
        .map(|name| (distance(&wanted, &plain(name)), name))
        .min()
        .filter(|(edits, name)| *edits <= 1.max(name.chars().count() / 3))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["es_hosts", "poll_interval", "tenant"];
        for (word, found) in [
            ("es-hosts", Some("es_hosts")),
            ("ES_HOST", Some("es_hosts")),
            ("pol_intervall", Some("poll_interval")),
            ("tennant", Some("tenant")),
            ("", None),
            ("completely_different", None),
        ] {
            assert_eq!(nearest(word, known), found, "{word}");
        }
    }

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, edits) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("a", "a", 0),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }
}
