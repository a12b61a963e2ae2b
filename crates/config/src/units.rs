//! Sizes, times, rates and lists as people write them in flags and files.

use std::{convert::Infallible, fmt, num::NonZeroU64, ops::Deref, str::FromStr, time::Duration};

/// Why a text is no size or time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is no whole number in front.
    #[error("it does not start with a whole number; write {example}")]
    Number {
        /// What would be right.
        example: &'static str,
    },
    /// What follows the number is none of the units.
    #[error("`{unit}` is not one of its units; use {known}")]
    Unit {
        /// What was found.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// The number is zero where that means nothing.
    #[error("it is zero; write {example}")]
    Zero {
        /// What would be right.
        example: &'static str,
    },
    /// The number is more than can be counted.
    #[error("it is too large")]
    Overflow,
}

/// Splits `10 ms` into 10 and `ms`.
fn split<'a>(text: &'a str, example: &'static str) -> Result<(u64, &'a str), UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::Number { example });
    }
    let number = number.parse().map_err(|_| UnitError::Overflow)?;
    Ok((number, unit.trim_start()))
}

/// A number of bytes, written `512`, `64MB`, `1GiB`.
///
/// Units are powers of 1024, with or without the `i`, in any case: that is how nats-server reads
/// its own `64MB`, and a number must not change meaning on its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&'static str, u32); 5] =
        [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// That many binary megabytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, "a size such as 64MB")?;
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => {
                return Err(UnitError::Unit {
                    unit: unit.to_owned(),
                    known: "B, KB, MB, GB or TB",
                });
            }
        };
        let bytes = number.checked_mul(1 << shift).ok_or(UnitError::Overflow)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that is exact, so that what is shown can be read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        let (name, shift) = Self::UNITS
            .into_iter()
            .find(|(_, shift)| fits(*shift))
            .unwrap_or(("B", 0));
        write!(f, "{}{name}", self.0 >> shift)
    }
}

/// A span of time, written `250ms`, `10s`, `5m`, `2h` or `1d`; a bare number is milliseconds, as
/// in the seed's `--poll-interval <MS>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(u64);

impl Millis {
    const UNITS: [(&'static str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];

    /// That many milliseconds.
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// That many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// The span as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// The number of milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        millis.duration()
    }
}

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, "a time such as 250ms or 10s")?;
        let unit = if unit.is_empty() { "ms" } else { unit };
        let Some((_, factor)) = Self::UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError::Unit {
                unit: unit.to_owned(),
                known: "ms, s, m, h or d",
            });
        };
        number
            .checked_mul(factor)
            .map(Self)
            .ok_or(UnitError::Overflow)
    }
}

impl fmt::Display for Millis {
    /// In the largest unit that is exact, so that what is shown can be read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |factor: u64| self.0 != 0 && self.0.is_multiple_of(factor);
        let (name, factor) = Self::UNITS
            .into_iter()
            .find(|(_, factor)| fits(*factor))
            .unwrap_or(("ms", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

/// So many things a second, written `500/s` or as the bare number; never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// How many a second.
    pub const fn per_second(self) -> NonZeroU64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let example = "a rate such as 500/s";
        match split(text, example)? {
            (number, "" | "/s") => NonZeroU64::new(number)
                .map(Self)
                .ok_or(UnitError::Zero { example }),
            (_, unit) => Err(UnitError::Unit {
                unit: unit.to_owned(),
                known: "/s",
            }),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// A comma-separated list: each part trimmed, empty parts dropped.
///
/// In a file a flag of this type may also be a YAML list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CommaList(Vec<String>);

impl CommaList {
    /// The parts, as a vector of one's own.
    pub fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl Deref for CommaList {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for CommaList {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.split(',').collect())
    }
}

impl<S: AsRef<str>> FromIterator<S> for CommaList {
    fn from_iter<I: IntoIterator<Item = S>>(parts: I) -> Self {
        let trimmed = parts
            .into_iter()
            .map(|part| part.as_ref().trim().to_owned());
        Self(trimmed.filter(|part| !part.is_empty()).collect())
    }
}

impl fmt::Display for CommaList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_nats_server_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1kb", 1 << 10),
            ("64MB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("2TB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_or_time_says_what_would_be() {
        let size = |text: &str| text.parse::<ByteSize>().unwrap_err().to_string();
        assert_eq!(
            size("64XB"),
            "`XB` is not one of its units; use B, KB, MB, GB or TB"
        );
        assert_eq!(
            size("-1"),
            "it does not start with a whole number; write a size such as 64MB"
        );
        assert_eq!(
            size("1.5GB"),
            "`.5GB` is not one of its units; use B, KB, MB, GB or TB"
        );
        assert_eq!(size("99999999999TB"), "it is too large");
        assert_eq!(size("99999999999999999999999"), "it is too large");
        let time = |text: &str| text.parse::<Millis>().unwrap_err().to_string();
        assert_eq!(
            time("5 weeks"),
            "`weeks` is not one of its units; use ms, s, m, h or d"
        );
        assert!(time("soon").contains("250ms or 10s"));
        let rate = |text: &str| text.parse::<Rate>().unwrap_err().to_string();
        assert_eq!(rate("5/m"), "`/m` is not one of its units; use /s");
        assert_eq!(rate("0/s"), "it is zero; write a rate such as 500/s");
    }

    #[test]
    fn a_bare_number_is_milliseconds() {
        for (text, millis) in [
            ("100", 100),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                text.parse::<Millis>().unwrap().as_millis(),
                millis,
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_is_trimmed_and_has_no_empty_parts() {
        let list: CommaList = " assets, metadata ,,-temp_* ".parse().unwrap();
        assert_eq!(&*list, ["assets", "metadata", "-temp_*"]);
        assert_eq!(list.to_string(), "assets,metadata,-temp_*");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(n in any::<u64>(), shift in 0u32..60) {
            let size = ByteSize(n >> shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let time = Millis::new(n >> shift);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
            let rate = Rate(NonZeroU64::MIN.saturating_add(n >> shift));
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
