//! Positions in the write-ahead log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, in bytes from its beginning.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is no position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no position in a write-ahead log, such as 16/B374D848")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Lsn(u64::from(high) << 32 | u64::from(low)))
        });
        halves.ok_or_else(|| BadLsn(text.to_owned()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = BadLsn;

    fn try_from(text: String) -> Result<Lsn, BadLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_is_read_back_as_it_was_written(lsn: u64) {
            prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "0", "0/", "/1", "g/0", "1/100000000"] {
            assert_eq!(text.parse::<Lsn>(), Err(BadLsn(text.to_owned())));
        }
    }
}
