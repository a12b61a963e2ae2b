//! How two versions of a document differ, for people: a unified diff of both, printed with one
//! member a line in the order of their keys.
//!
//! Numbers are printed as they are written, because parsing them could make two look alike.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::value::RawValue;
use similar::TextDiff;

/// The most bytes of a diff that are kept.
const MOST: usize = 16 << 10;

/// The unified diff of two JSON texts.
pub(crate) fn diff(source: &[u8], target: &[u8]) -> String {
    let (source, target) = (pretty(source), pretty(target));
    // A diff that takes longer becomes a coarser one.
    let diff = TextDiff::configure()
        .timeout(Duration::from_millis(500))
        .diff_lines(source.as_str(), target.as_str());
    let mut text = diff
        .unified_diff()
        .context_radius(2)
        .header("source", "target")
        .to_string();
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push_str("\n... and more\n");
    }
    text
}

fn pretty(json: &[u8]) -> String {
    let mut text = String::new();
    match serde_json::from_slice(json) {
        Ok(value) => print(value, 0, &mut text),
        Err(_) => text.push_str(&String::from_utf8_lossy(json)),
    }
    text.push('\n');
    text
}

fn print(value: &RawValue, depth: usize, into: &mut String) {
    let raw = value.get();
    if let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw)
        && !members.is_empty()
    {
        into.push('{');
        for (at, (key, value)) in members.into_iter().enumerate() {
            line(at, depth + 1, into);
            string(&key, into);
            into.push_str(": ");
            print(value, depth + 1, into);
        }
        end('}', depth, into);
    } else if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw)
        && !elements.is_empty()
    {
        into.push('[');
        for (at, value) in elements.into_iter().enumerate() {
            line(at, depth + 1, into);
            print(value, depth + 1, into);
        }
        end(']', depth, into);
    } else if let Ok(text) = serde_json::from_str::<String>(raw) {
        string(&text, into);
    } else {
        into.push_str(raw);
    }
}

fn line(at: usize, depth: usize, into: &mut String) {
    into.push_str(if at == 0 { "\n" } else { ",\n" });
    indent(depth, into);
}

fn end(bracket: char, depth: usize, into: &mut String) {
    into.push('\n');
    indent(depth, into);
    into.push(bracket);
}

fn indent(depth: usize, into: &mut String) {
    into.extend(std::iter::repeat_n("  ", depth));
}

fn string(text: &str, into: &mut String) {
    // A string is always written; escapes are those that JSON needs and no others.
    let written = serde_json::to_string(text).unwrap_or_default();
    write!(into, "{written}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_the_changed_lines_with_their_surroundings() {
        let source =
            br#"{"id":1,"z":[1,2],"big":12345678901234567890123,"n":{"x":"\u00e9"},"e":{}}"#;
        let target =
            br#"{"z":[1,3],"id":1,"big":12345678901234567890124,"n":{"x":"\u00e9"},"e":{}}"#;
        let expected = r#"--- source
+++ target
@@ -1,4 +1,4 @@
 {
-  "big": 12345678901234567890123,
+  "big": 12345678901234567890124,
   "e": {},
   "id": 1,
@@ -8,5 +8,5 @@
   "z": [
     1,
-    2
+    3
   ]
 }
"#;
        assert_eq!(diff(source, target), expected);
    }

    #[test]
    fn a_long_diff_is_cut_at_a_character() {
        let one = format!("[\"{}\"]", "é".repeat(MOST));
        let text = diff(one.as_bytes(), b"[]");
        assert!(text.len() < MOST + 20 && text.ends_with("... and more\n"));
    }

    #[test]
    fn what_serde_cannot_read_as_a_string_is_printed_as_it_is() {
        assert!(diff(br#"{"a":"\ud800"}"#, br#"{"a":"x"}"#).contains(r#"-  "a": "\ud800""#));
    }
}
