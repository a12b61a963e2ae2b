//! How letters are shown.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bus::{Letter, dead_letters::Contents};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

/// A longer reason is cut in a table.
const LONGEST_REASON: usize = 70;
/// A longer id, too.
const LONGEST_ID: usize = 40;

/// How many letters there are, by reason.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) letters: u64,
    bytes: u64,
    reasons: BTreeMap<String, u64>,
}

impl Totals {
    pub(super) fn add(&mut self, letter: &Letter) {
        self.letters += 1;
        self.bytes += letter.size;
        *self
            .reasons
            .entry(kind(&letter.reason).to_owned())
            .or_default() += 1;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} dead letters, {}", self.letters, size(self.bytes))?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons {
            writeln!(f, "{count:>8}  {reason}")?;
        }
        Ok(())
    }
}

/// The part of a reason that many letters have in common: the error's type.
fn kind(reason: &str) -> &str {
    reason.split_once(':').map_or(reason, |(kind, _)| kind)
}

pub(super) fn table(letters: &[Letter], totals: &Totals, now: u64) {
    if totals.letters == 0 {
        println!("there are no dead letters");
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "index", "id", "reader", "reason", "refused", "parked", "size",
    ]);
    for letter in letters {
        table.add_row([
            letter.index().to_owned(),
            cut(&name(letter), LONGEST_ID),
            letter.reader().unwrap_or("-").to_owned(),
            cut(&letter.reason, LONGEST_REASON),
            format!("{} ×", letter.attempts),
            age(now, letter.parked),
            size(letter.size),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    let shown = letters.len() as u64;
    if shown < totals.letters {
        println!(
            "the first {shown} of {}; --limit shows more",
            totals.letters
        );
    }
    print!("{totals}");
}

pub(super) fn whole(letter: &Letter, contents: &Contents, now: u64) {
    println!("index     {}", letter.index());
    println!("document  {}", name(letter));
    if let Some(version) = letter.version {
        let (epoch, position) = (version.epoch(), version.position());
        println!("version   {version} (epoch {epoch}, _seq_no {position})");
    }
    println!("reader    {}", letter.reader().unwrap_or("-"));
    println!(
        "from      message {} of {}, {}",
        letter.sequence, letter.stream, letter.original
    );
    let (last, first) = (age(now, letter.parked), age(now, letter.first_parked));
    println!(
        "refused   {} ×, last {last} ago, first {first} ago",
        letter.attempts
    );
    println!("letter    message {} under {}", letter.at, letter.subject);
    println!("reason    {}", letter.reason);
    match contents {
        Contents::Change(change) => match change.document() {
            Some(document) => println!("{}", String::from_utf8_lossy(document.as_bytes())),
            None => println!("the document was deleted"),
        },
        Contents::Unreadable(body) => println!("{}", String::from_utf8_lossy(body)),
    }
}

pub(super) fn json(letter: &Letter) -> Value {
    json!({
        "index": letter.index(),
        "id": letter.id,
        "routing": letter.routing,
        "version": letter.version,
        "reader": letter.reader(),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_parked_ms": letter.first_parked,
        "parked_ms": letter.parked,
        "stream": letter.stream,
        "sequence": letter.sequence,
        "original_subject": letter.original,
        "bytes": letter.size,
        "subject": letter.subject,
        "letter": letter.at,
    })
}

/// A letter and what it holds. The document's bytes stay as they are: a number can be longer than a parser
/// keeps.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    letter: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
}

pub(super) fn json_with(letter: &Letter, contents: &Contents) -> serde_json::Result<String> {
    let mut whole = Whole {
        letter: json(letter),
        document: None,
        body: None,
    };
    match contents {
        Contents::Change(change) => {
            let document = change.document().map(|document| document.as_bytes());
            whole.document = document.map(serde_json::from_slice).transpose()?;
        }
        Contents::Unreadable(body) => whole.body = Some(String::from_utf8_lossy(body)),
    }
    serde_json::to_string(&whole)
}

fn name(letter: &Letter) -> String {
    match (&letter.id, &letter.routing) {
        (None, _) if letter.version.is_some() => "(a long id)".to_owned(),
        (None, _) => format!("(message {})", letter.sequence),
        (Some(id), None) => id.escape_debug().to_string(),
        (Some(id), Some(routing)) => {
            format!("{} → {}", id.escape_debug(), routing.escape_debug())
        }
    }
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// How long ago, in the largest unit that says enough.
fn age(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_by_the_type_of_their_reason() {
        let mut totals = Totals::default();
        for reason in ["a: field [x]", "a: field [y]", "b"] {
            totals.add(&Letter {
                reason: reason.to_owned(),
                size: 7,
                ..Letter::default()
            });
        }
        assert_eq!(
            totals.to_string(),
            "3 dead letters, 21 B\n       2  a\n       1  b\n"
        );
    }

    #[test]
    fn names_and_texts_fit_on_a_line() {
        let letter = Letter {
            id: Some("a\nb".to_owned()),
            routing: Some("é".to_owned()),
            ..Letter::default()
        };
        assert_eq!(name(&letter), "a\\nb → é");
        assert_eq!(cut("éèê", 2), "éè…");
        assert_eq!((age(200_000, 0), age(5, 9)), ("3 min".into(), "0 s".into()));
    }
}
