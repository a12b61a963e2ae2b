//! The types of fields, what can be asked of each, and how a value is read.

use jiff::{Timestamp, civil, tz::TimeZone};
use serde_json::Value;

/// What a filter can ask of a field. The names are those of PostgREST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operator {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    In,
    Is,
    Like,
    Ilike,
    Fts,
    Phfts,
}

impl Operator {
    pub(crate) const ALL: [Operator; 12] = [
        Operator::Eq,
        Operator::Neq,
        Operator::Gt,
        Operator::Gte,
        Operator::Lt,
        Operator::Lte,
        Operator::In,
        Operator::Is,
        Operator::Like,
        Operator::Ilike,
        Operator::Fts,
        Operator::Phfts,
    ];

    /// As it is written in a filter.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Operator::Eq => "eq",
            Operator::Neq => "neq",
            Operator::Gt => "gt",
            Operator::Gte => "gte",
            Operator::Lt => "lt",
            Operator::Lte => "lte",
            Operator::In => "in",
            Operator::Is => "is",
            Operator::Like => "like",
            Operator::Ilike => "ilike",
            Operator::Fts => "fts",
            Operator::Phfts => "phfts",
        }
    }

    /// Whether it compares whole values, and not only their order or a part of them.
    pub(crate) const fn is_whole(self) -> bool {
        matches!(self, Operator::Eq | Operator::Neq | Operator::In)
    }

    /// The operator of that name.
    pub(crate) fn named(name: &str) -> Option<Operator> {
        Operator::ALL
            .into_iter()
            .find(|operator| operator.name() == name)
    }
}

/// The type of a field, as far as asking goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Analysed text.
    Text,
    /// A text that is compared as a whole.
    Keyword,
    /// A whole number of so many bits, with a sign.
    Integer(u8),
    /// A whole number of 64 bits without a sign.
    Unsigned,
    /// A number with a fraction.
    Float,
    Boolean,
    /// A moment, to the millisecond.
    Date,
    /// A moment, to the nanosecond.
    DateNanos,
    Ip,
    /// It is in documents, and nothing can be asked of it.
    Other,
}

impl Kind {
    /// By the cluster's name for the type.
    pub(crate) fn of(name: &str) -> Kind {
        match name {
            "text" | "match_only_text" | "search_as_you_type" => Kind::Text,
            "keyword" | "constant_keyword" | "wildcard" | "version" => Kind::Keyword,
            "byte" => Kind::Integer(8),
            "short" => Kind::Integer(16),
            "integer" => Kind::Integer(32),
            "long" => Kind::Integer(64),
            "unsigned_long" => Kind::Unsigned,
            "double" | "float" | "half_float" | "scaled_float" => Kind::Float,
            "boolean" => Kind::Boolean,
            "date" => Kind::Date,
            "date_nanos" => Kind::DateNanos,
            "ip" => Kind::Ip,
            _ => Kind::Other,
        }
    }

    /// What callers are told it is.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Keyword => "keyword",
            Kind::Integer(8) => "byte",
            Kind::Integer(16) => "short",
            Kind::Integer(32) => "integer",
            Kind::Integer(_) => "long",
            Kind::Unsigned => "unsigned_long",
            Kind::Float => "double",
            Kind::Boolean => "boolean",
            Kind::Date => "date",
            Kind::DateNanos => "date_nanos",
            Kind::Ip => "ip",
            Kind::Other => "other",
        }
    }

    pub(crate) fn has(self, operator: Operator, has_exact: bool) -> bool {
        use Operator::{Eq, Fts, Gt, Gte, Ilike, In, Is, Like, Lt, Lte, Neq, Phfts};
        match operator {
            Is => self != Kind::Other,
            Eq | Neq | In => self != Kind::Other && has_exact,
            Gt | Gte | Lt | Lte => has_exact && !matches!(self, Kind::Boolean | Kind::Other),
            Like | Ilike => has_exact && matches!(self, Kind::Text | Kind::Keyword),
            Fts | Phfts => self == Kind::Text,
        }
    }

    /// Whether values have an order to sort by.
    pub(crate) fn is_ordered(self) -> bool {
        self != Kind::Other
    }

    pub(crate) fn is_moment(self) -> bool {
        matches!(self, Kind::Date | Kind::DateNanos)
    }

    /// Reads a value as this type.
    ///
    /// # Errors
    /// What would have been one.
    pub(crate) fn read(self, text: &str) -> Result<Value, String> {
        let refuse = |wanted: &str| Err(format!("{text:?} is not {wanted}"));
        match self {
            Kind::Text | Kind::Keyword => Ok(text.into()),
            Kind::Integer(bits) => {
                let most = i64::MAX >> (64 - bits);
                match text.parse::<i64>() {
                    Ok(number) if (-most - 1..=most).contains(&number) => Ok(number.into()),
                    _ => refuse(&format!("a whole number from {} to {most}", -most - 1)),
                }
            }
            Kind::Unsigned => match text.parse::<u64>() {
                Ok(number) => Ok(number.into()),
                Err(_) => refuse(&format!("a whole number from 0 to {}", u64::MAX)),
            },
            Kind::Float => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number.into()),
                _ => refuse("a finite number"),
            },
            Kind::Boolean => match text {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                _ => refuse("true or false"),
            },
            // Written out in full, because the cluster rounds what is not: "2024-01-01" as an upper
            // bound would mean the end of that day.
            Kind::Date | Kind::DateNanos => match moment(text) {
                Some(moment) => Ok(format!("{moment:.9}").into()),
                None => refuse("a date such as 2024-05-01 or 2024-05-01T12:00:00Z"),
            },
            Kind::Ip => match text.parse::<std::net::IpAddr>() {
                Ok(address) => Ok(address.to_string().into()),
                Err(_) => refuse("an IP address"),
            },
            Kind::Other => refuse("a value that can be compared"),
        }
    }
}

/// A moment with or without time and zone; without a zone it is UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        let local = text.parse::<civil::DateTime>().ok();
        let local = local.or_else(|| text.parse::<civil::Date>().ok().map(|d| d.at(0, 0, 0, 0)));
        local?
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    })?;
    // Years that the cluster reads without a sign.
    let year = moment.to_zoned(TimeZone::UTC).year();
    (0..=9999).contains(&year).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_of_the_type_is_refused_with_what_it_should_be() {
        assert_eq!(Kind::Integer(8).read("-128").unwrap(), -128);
        assert!(
            Kind::Integer(8)
                .read("128")
                .unwrap_err()
                .contains("-128 to 127")
        );
        assert_eq!(
            Kind::Integer(64).read("9223372036854775807").unwrap(),
            i64::MAX
        );
        assert!(Kind::Integer(64).read("1.5").is_err());
        assert!(Kind::Float.read("NaN").is_err());
        assert!(Kind::Float.read("1e999").is_err());
        assert!(Kind::Boolean.read("yes").is_err());
        assert!(Kind::Ip.read("1.2.3").is_err());
        assert!(Kind::Date.read("now").is_err());
        assert!(Kind::Date.read("now-1d/d").is_err());
    }

    #[test]
    fn a_date_is_a_moment_in_full_so_that_nothing_is_rounded() {
        for text in [
            "2024-01-02",
            "2024-01-02T00:00:00",
            "2024-01-02T01:00:00+01:00",
        ] {
            assert_eq!(
                Kind::Date.read(text).unwrap(),
                "2024-01-02T00:00:00.000000000Z"
            );
        }
    }
}
