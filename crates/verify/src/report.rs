//! What a comparison found.

use std::fmt;

use model::IndexName;
use serde::Serialize;

/// The outcome for all indices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each pair of indices, in the order in which they were given.
    pub indices: Vec<IndexReport>,
}

impl Report {
    /// Whether every index of the target has exactly the documents of the source.
    pub fn equal(&self) -> bool {
        self.indices.iter().all(IndexReport::equal)
    }
}

/// The outcome for one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// The index of the source.
    pub index: IndexName,
    /// The index of the target.
    pub target: IndexName,
    /// Whether the target has such an index.
    pub target_exists: bool,
    /// How many documents the source has.
    pub documents_source: u64,
    /// How many documents the target has.
    pub documents_target: u64,
    /// The size of the source's documents.
    pub bytes: u64,
    /// Documents that only the source has.
    pub missing: Listing<Key>,
    /// Documents that only the target has.
    pub extra: Listing<Key>,
    /// Documents with another content.
    pub different: Listing<Difference>,
    /// Documents that both have, with another routing.
    pub misrouted: Listing<Misrouted>,
    /// Documents that only the target had and that were deleted there.
    pub deleted: u64,
    /// Documents that differed when they were read and were equal at a second look.
    pub settled_meanwhile: u64,
    /// Whether every difference was found and looked at twice. Otherwise there were too many: some
    /// were counted as they were read, and of others it is known only that there are some, so that
    /// the counts are the least there are.
    pub exact: bool,
}

/// The differences of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing<T> {
    /// How many there are; see [`IndexReport::exact`].
    pub count: u64,
    /// The first of them.
    pub listed: Vec<T>,
}

impl<T> Default for Listing<T> {
    fn default() -> Listing<T> {
        Listing {
            count: 0,
            listed: Vec::new(),
        }
    }
}

impl<T> Listing<T> {
    /// Counts a difference, and lists it as long as there are fewer than `limit`.
    pub(crate) fn add(&mut self, limit: usize, difference: impl FnOnce() -> T) {
        self.count += 1;
        if self.listed.len() < limit {
            self.listed.push(difference());
        }
    }
}

/// What identifies a document in an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Key {
    /// Its `_id`.
    pub id: String,
    /// The routing it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
}

/// A document with different contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its `_id`.
    pub id: String,
    /// The routing it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// For the first few: what has to be done to the source's to get the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// A document that is in another place; its content may differ too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misrouted {
    /// Its `_id`.
    pub id: String,
    /// Its routing at the source.
    pub source: Option<String>,
    /// Its routing at the target.
    pub target: Option<String>,
}

impl IndexReport {
    pub(crate) fn new(index: IndexName, target: IndexName, target_exists: bool) -> IndexReport {
        IndexReport {
            index,
            target,
            target_exists,
            documents_source: 0,
            documents_target: 0,
            bytes: 0,
            missing: Listing::default(),
            extra: Listing::default(),
            different: Listing::default(),
            misrouted: Listing::default(),
            deleted: 0,
            settled_meanwhile: 0,
            exact: true,
        }
    }

    /// Whether the target has exactly the documents of the source.
    pub fn equal(&self) -> bool {
        let left = self.differences() - self.extra.count;
        self.target_exists && left == 0 && self.extra.count == self.deleted
    }

    /// How many differences were found, at least.
    pub fn differences(&self) -> u64 {
        self.missing.count + self.extra.count + self.different.count + self.misrouted.count
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.indices.iter().try_for_each(|index| index.fmt(f))
    }
}

impl fmt::Display for IndexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.index)?;
        if self.index != self.target {
            write!(f, " -> {}", self.target)?;
        }
        let size = self.bytes as f64 / 1e6;
        match (self.equal(), self.target_exists) {
            (true, _) => write!(
                f,
                ": equal{}, {} documents, {size:.1} MB",
                if self.deleted > 0 { " now" } else { "" },
                self.documents_source
            )?,
            (false, true) => write!(
                f,
                ": NOT equal, {} documents at the source, {} at the target",
                self.documents_source, self.documents_target
            )?,
            (false, false) => write!(
                f,
                ": NOT equal, the target has no such index, the source has {} documents",
                self.documents_source
            )?,
        }
        match self.settled_meanwhile {
            0 => writeln!(f)?,
            settled => writeln!(f, " ({settled} more became equal meanwhile)")?,
        }
        self.section(f, "missing at the target", &self.missing)?;
        self.section(f, "at the target only", &self.extra)?;
        if self.deleted > 0 {
            writeln!(f, "    {} of these were deleted there", self.deleted)?;
        }
        self.section(f, "with another routing", &self.misrouted)?;
        self.section(f, "different", &self.different)
    }
}

impl IndexReport {
    fn section<T: fmt::Display>(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        listing: &Listing<T>,
    ) -> fmt::Result {
        if listing.count == 0 {
            return Ok(());
        }
        let least = if self.exact { "" } else { "at least " };
        writeln!(f, "  {title}: {least}{}", listing.count)?;
        for difference in &listing.listed {
            writeln!(f, "    {difference}")?;
        }
        match listing.count - listing.listed.len() as u64 {
            0 => Ok(()),
            more => writeln!(f, "    ... and {more} more"),
        }
    }
}

fn routed(f: &mut fmt::Formatter<'_>, id: &str, routing: Option<&str>) -> fmt::Result {
    write!(f, "{id:?}")?;
    routing.map_or(Ok(()), |routing| write!(f, " (routing {routing:?})"))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        routed(f, &self.id, self.routing.as_deref())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        routed(f, &self.id, self.routing.as_deref())?;
        let mut lines = self.diff.iter().flat_map(|diff| diff.lines());
        lines.try_for_each(|line| write!(f, "\n      {line}"))
    }
}

impl fmt::Display for Misrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |routing: &Option<String>| match routing {
            Some(routing) => format!("{routing:?}"),
            None => "none".to_owned(),
        };
        let (source, target) = (name(&self.source), name(&self.target));
        write!(
            f,
            "{:?} (routing {source} at the source, {target} at the target)",
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> IndexReport {
        let name = |name: &str| IndexName::try_from(name).unwrap();
        let mut report = IndexReport::new(name("orders"), name("copy"), true);
        report.documents_source = 10;
        report.documents_target = 9;
        report
    }

    #[test]
    fn the_text_names_every_difference() {
        let mut report = report();
        for n in 0..3 {
            let routing = (n == 1).then(|| "r".to_owned());
            let key = || Key {
                id: format!("é {n}"),
                routing,
            };
            report.missing.add(2, key);
        }
        let diff = Some("-a\n+b\n".to_owned());
        let id = || "x".to_owned();
        report.different.add(2, || Difference {
            id: id(),
            routing: None,
            diff,
        });
        let target = Some("q".to_owned());
        report.misrouted.add(2, || Misrouted {
            id: id(),
            source: None,
            target,
        });
        report.settled_meanwhile = 4;
        let expected = "orders -> copy: NOT equal, 10 documents at the source, 9 at the target (4 more became equal meanwhile)
  missing at the target: 3
    \"é 0\"
    \"é 1\" (routing \"r\")
    ... and 1 more
  with another routing: 1
    \"x\" (routing none at the source, \"q\" at the target)
  different: 1
    \"x\"
      -a
      +b
";
        let report = Report {
            indices: vec![report],
        };
        assert_eq!(report.to_string(), expected);
        assert!(!report.equal());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["indices"][0]["missing"]["count"], 3);
        assert_eq!(json["indices"][0]["index"], "orders");
    }

    #[test]
    fn an_index_that_is_not_there_is_not_equal_even_if_nothing_was_in_it() {
        let mut report = report();
        assert!(report.equal());
        assert_eq!(
            report.to_string(),
            "orders -> copy: equal, 10 documents, 0.0 MB\n"
        );
        report.target_exists = false;
        assert!(!report.equal());
        assert!(report.to_string().contains("the target has no such index"));
    }
}
