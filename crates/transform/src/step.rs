//! What is done to a document, one step after the other.

use hmac::{Hmac, KeyInit, Mac};
use jiff::{Timestamp, Zoned, civil, fmt::strtime, tz::TimeZone};
use sha2::Sha256;

use crate::{
    json::{JsonError, Node, Path, plain},
    predicate::Predicate,
};

/// One kind of change.
#[derive(Clone)]
pub(crate) enum Action {
    Rename {
        from: Path,
        to: Path,
    },
    Remove(Vec<Path>),
    Set {
        field: Path,
        json: String,
    },
    Copy {
        from: Path,
        to: Path,
    },
    Move {
        from: Path,
        to: Path,
    },
    Mask {
        fields: Vec<Path>,
        mask: Mask,
    },
    Hash {
        fields: Vec<Path>,
        key: Key,
    },
    Flatten {
        field: Option<Path>,
        separator: String,
    },
    Date {
        fields: Vec<Path>,
        date: Date,
    },
    /// The program of that number.
    Jq(usize),
    /// The document ends here, where the predicate holds.
    Drop(Option<Predicate>),
}

/// How a value is masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mask {
    /// What stands for each hidden character or, where nothing is kept, for the whole.
    pub(crate) with: String,
    pub(crate) keep_first: usize,
    pub(crate) keep_last: usize,
}

/// The key of a hash. Never shown.
#[derive(Clone)]
pub(crate) struct Key(pub(crate) Vec<u8>);

/// How dates are read and written.
#[derive(Debug, Clone)]
pub(crate) struct Date {
    pub(crate) from: DateForm,
    pub(crate) to: DateForm,
    /// Where clocks show what says nothing of a zone.
    pub(crate) zone: TimeZone,
}

/// A way to write a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DateForm {
    /// RFC 3339, as search engines read by themselves.
    Rfc3339,
    EpochSeconds,
    EpochMillis,
    /// By `strftime`'s directives.
    Pattern(String),
}

/// What has become of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Kept,
    Dropped,
    /// The program of that number has to be run on it.
    Asks(usize),
}

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("`{field}` is {value:?}, no time as {form}: {reason}")]
    Date {
        field: String,
        value: String,
        form: String,
        reason: String,
    },
}

impl Action {
    /// Does it to a document, or says which program is asked to.
    pub(crate) fn run(&self, document: &mut Node<'_>) -> Result<Done, StepError> {
        match self {
            Action::Rename { from, to } => document.rename(from.names(), to.last()),
            Action::Remove(fields) => {
                for field in fields {
                    document.take(field.names(), &mut Vec::new());
                }
            }
            Action::Set { field, json } => {
                document.put(field.names(), &Node::Text(json.clone()))?
            }
            Action::Copy { from, to } => {
                let mut values = Vec::new();
                document.at(from.names(), &mut |value| {
                    values.push(value.clone());
                    true
                });
                put(document, to, values)?;
            }
            Action::Move { from, to } => {
                let mut values = Vec::new();
                document.take(from.names(), &mut values);
                put(document, to, values)?;
            }
            Action::Mask { fields, mask } => leaves(document, fields, &mut |text| mask.apply(text)),
            Action::Hash { fields, key } => leaves(document, fields, &mut |text| key.hash(text)),
            Action::Flatten { field, separator } => {
                document.flatten(field.as_ref().map_or(&[], Path::names), separator);
            }
            Action::Date { fields, date } => {
                for field in fields {
                    date.rewrite(document, field)?;
                }
            }
            Action::Jq(program) => return Ok(Done::Asks(*program)),
            Action::Drop(predicate) => {
                if predicate
                    .as_ref()
                    .is_none_or(|predicate| predicate.holds(document))
                {
                    return Ok(Done::Dropped);
                }
            }
        }
        Ok(Done::Kept)
    }
}

/// Puts one value as it is, several as an array, none not at all.
fn put<'a>(document: &mut Node<'a>, to: &Path, mut values: Vec<Node<'a>>) -> Result<(), StepError> {
    let value = match values.len() {
        0 => return Ok(()),
        1 => values.remove(0),
        _ => Node::Array(values),
    };
    // What is there gives way, whatever it is.
    document.take(to.names(), &mut Vec::new());
    Ok(document.put(to.names(), &value)?)
}

/// Replaces every single value of fields, however deep they hold it; null stays.
fn leaves(document: &mut Node<'_>, fields: &[Path], replace: &mut dyn FnMut(&str) -> String) {
    for field in fields {
        document.at(field.names(), &mut |value| {
            value.leaves(&mut |leaf| {
                let Some(json) = leaf.scalar().filter(|json| *json != "null") else {
                    return;
                };
                *leaf = Node::text(&replace(&plain(json)));
            });
            true
        });
    }
}

impl Mask {
    fn apply(&self, text: &str) -> String {
        let length = text.chars().count();
        if self.keep_first + self.keep_last == 0 {
            return self.with.clone();
        }
        // What is too short to hide anything is hidden whole.
        let hidden = length.saturating_sub(self.keep_first + self.keep_last);
        if hidden == 0 {
            return self.with.repeat(length);
        }
        let (first, last) = (
            text.chars().take(self.keep_first),
            text.chars().skip(length - self.keep_last),
        );
        first.collect::<String>() + &self.with.repeat(hidden) + &last.collect::<String>()
    }
}

impl Key {
    /// HMAC-SHA256 as 64 hexadecimal digits.
    pub(crate) fn hash(&self, text: &str) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        let digest = mac.finalize().into_bytes();
        digest
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                for nibble in [byte >> 4, byte & 15] {
                    hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                }
                hex
            })
    }
}

impl DateForm {
    pub(crate) fn parse(text: &str) -> DateForm {
        match text {
            "rfc3339" => DateForm::Rfc3339,
            "epoch_seconds" => DateForm::EpochSeconds,
            "epoch_millis" => DateForm::EpochMillis,
            pattern => DateForm::Pattern(pattern.to_owned()),
        }
    }

    fn name(&self) -> &str {
        match self {
            DateForm::Rfc3339 => "rfc3339",
            DateForm::EpochSeconds => "epoch_seconds",
            DateForm::EpochMillis => "epoch_millis",
            DateForm::Pattern(pattern) => pattern,
        }
    }
}

impl Date {
    fn rewrite(&self, document: &mut Node<'_>, field: &Path) -> Result<(), StepError> {
        let mut failed = None;
        document.at(field.names(), &mut |value| {
            value.leaves(&mut |leaf| {
                let Some(json) = leaf.scalar().filter(|json| *json != "null") else {
                    return;
                };
                let text = plain(json).into_owned();
                match self.convert(&text) {
                    Ok(new) => *leaf = new,
                    Err(error) => {
                        failed = Some(StepError::Date {
                            field: field.to_string(),
                            value: text.chars().take(64).collect(),
                            form: self.from.name().to_owned(),
                            reason: error.to_string(),
                        });
                    }
                }
            });
            failed.is_none()
        });
        failed.map_or(Ok(()), Err)
    }

    fn convert<'a>(&self, text: &str) -> Result<Node<'a>, String> {
        let time = self.read(text)?;
        Ok(match &self.to {
            DateForm::Rfc3339 => Node::text(&time.timestamp().to_string()),
            DateForm::EpochSeconds => Node::Text(time.timestamp().as_second().to_string()),
            DateForm::EpochMillis => Node::Text(time.timestamp().as_millisecond().to_string()),
            DateForm::Pattern(pattern) => {
                Node::text(&strtime::format(pattern, &time).map_err(said)?)
            }
        })
    }

    fn read(&self, text: &str) -> Result<Zoned, String> {
        let number = || text.parse::<i64>().map_err(|error| error.to_string());
        let zoned = |time: Timestamp| time.to_zoned(self.zone.clone());
        match &self.from {
            DateForm::Rfc3339 => text.parse().map(zoned).map_err(said),
            DateForm::EpochSeconds => Timestamp::from_second(number()?).map(zoned).map_err(said),
            DateForm::EpochMillis => Timestamp::from_millisecond(number()?)
                .map(zoned)
                .map_err(said),
            DateForm::Pattern(pattern) => {
                let parsed = strtime::parse(pattern, text).map_err(said)?;
                // A zone or an offset that is written there counts.
                if let Ok(time) = parsed.to_timestamp() {
                    return Ok(zoned(time));
                }
                let time = parsed
                    .to_datetime()
                    .or_else(|_| parsed.to_date().map(civil::DateTime::from))
                    .map_err(said)?;
                time.to_zoned(self.zone.clone()).map_err(said)
            }
        }
    }
}

fn said(error: jiff::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(keep_first: usize, keep_last: usize) -> Mask {
        Mask {
            with: "*".to_owned(),
            keep_first,
            keep_last,
        }
    }

    #[test]
    fn a_mask_hides_what_it_should_whatever_the_length() {
        assert_eq!(mask(0, 0).apply("secret"), "*");
        assert_eq!(mask(0, 4).apply("4111111111111111"), "************1111");
        assert_eq!(mask(1, 1).apply("éàü"), "é*ü");
        assert_eq!(mask(2, 2).apply("abcd"), "****", "nothing would be hidden");
        assert_eq!(mask(2, 2).apply("a"), "*");
        assert_eq!(mask(2, 2).apply(""), "");
    }

    #[test]
    fn a_hash_is_the_hmac_that_others_compute() {
        // RFC 4231, test case 2.
        let key = Key(b"Jefe".to_vec());
        assert_eq!(
            key.hash("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn dates_are_read_by_pattern_zone_and_epoch() {
        let convert = |from: &str, to: &str, zone: &str, text: &str| {
            let date = Date {
                from: DateForm::parse(from),
                to: DateForm::parse(to),
                zone: TimeZone::get(zone).unwrap(),
            };
            date.convert(text)
                .ok()
                .and_then(|node| node.scalar().map(str::to_owned))
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(
            convert("%d.%m.%Y %H:%M", "rfc3339", "UTC", "31.12.2025 23:59"),
            is("\"2025-12-31T23:59:00Z\"")
        );
        assert_eq!(
            convert("%d.%m.%Y", "rfc3339", "Europe/Berlin", "01.07.2025"),
            is("\"2025-06-30T22:00:00Z\"")
        );
        assert_eq!(
            convert(
                "%Y-%m-%dT%H:%M:%S%z",
                "epoch_millis",
                "UTC",
                "2025-01-01T00:00:00+0100"
            ),
            is("1735686000000")
        );
        assert_eq!(convert("epoch_seconds", "%Y", "UTC", "0"), is("\"1970\""));
        assert_eq!(convert("epoch_millis", "rfc3339", "UTC", "soon"), None);
        assert_eq!(convert("%d.%m.%Y", "rfc3339", "UTC", "31.02.2025"), None);
    }
}
