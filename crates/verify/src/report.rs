//! What a comparison found.

use std::fmt;

use model::IndexName;
use serde::{Deserialize, Serialize};

use crate::By;

/// The outcome for all indices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexReport {
    /// The index of the source.
    pub index: IndexName,
    /// The index of the target.
    pub target: IndexName,
    /// What was compared of each document.
    pub by: By,
    /// What identifies the source's index, and the target's.
    pub uuids: [String; 2],
    /// Whether the target has such an index.
    pub target_exists: bool,
    /// How many documents the source has.
    pub documents_source: u64,
    /// How many documents the target has.
    pub documents_target: u64,
    /// The size of the source's documents; 0 where they were not read.
    pub bytes: u64,
    /// Documents that only the source has.
    pub missing: Listing<Key>,
    /// Documents that only the target has.
    pub extra: Listing<Key>,
    /// Documents with another content, or another version.
    pub different: Listing<Difference>,
    /// Documents that both have, with another routing.
    pub misrouted: Listing<Misrouted>,
    /// Documents that differed at every look, each time in another way: they are being written, and
    /// whether they are equal is not known.
    pub changing: Listing<Key>,
    /// What a repair would do, where only that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What was repaired.
    pub repaired: Repaired,
    /// How many differences there still are: all that were found without a repair.
    pub left: u64,
    /// Documents that differed when they were read and were equal at a later look.
    pub settled_meanwhile: u64,
    /// Whether every difference was found and looked at twice. Otherwise there were too many: some
    /// were counted as they were read, and of others it is known only that there are some, so that
    /// the counts are the least there are.
    pub exact: bool,
}

/// What a repair would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it would create the target's index.
    pub create: bool,
    /// How many documents it would write.
    pub write: u64,
    /// How many documents it would delete.
    pub delete: u64,
}

/// What a repair has done at the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Whether the index was created.
    pub created: bool,
    /// Documents that were written.
    pub written: u64,
    /// Those of the written whose version at the target was not below that of their change: somebody
    /// else wrote them there. They keep that version until their next change.
    pub foreign: u64,
    /// Documents that were deleted.
    pub deleted: u64,
    /// Documents that the target does not take.
    pub refused: Listing<Refused>,
}

/// A document that the target does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its `_id`.
    pub id: String,
    /// The routing it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// What the target says.
    pub reason: String,
}

/// The differences of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its `_id`.
    pub id: String,
    /// The routing it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
}

/// A document with different contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its `_id`.
    pub id: String,
    /// The routing it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// For the first few: what has to be done to the source's to get the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Which changes the sides have, where versions were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// Which change of a document each side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The source's `_seq_no`.
    pub source: u64,
    /// That of the target's version.
    pub target: u64,
    /// The epoch of the target's version.
    pub epoch: u8,
}

/// A document that is in another place; its content may differ too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misrouted {
    /// Its `_id`.
    pub id: String,
    /// Its routing at the source.
    pub source: Option<String>,
    /// Its routing at the target.
    pub target: Option<String>,
}

impl IndexReport {
    pub(crate) fn new(index: IndexName, target: IndexName, by: By) -> IndexReport {
        IndexReport {
            index,
            target,
            by,
            uuids: Default::default(),
            target_exists: true,
            documents_source: 0,
            documents_target: 0,
            bytes: 0,
            missing: Listing::default(),
            extra: Listing::default(),
            different: Listing::default(),
            misrouted: Listing::default(),
            changing: Listing::default(),
            plan: None,
            repaired: Repaired::default(),
            left: 0,
            settled_meanwhile: 0,
            exact: true,
        }
    }

    /// Whether the target has exactly the documents of the source, now that what was to be repaired
    /// is. Not while some are still changing: then it is not known.
    pub fn equal(&self) -> bool {
        self.target_exists && self.left == 0 && self.changing.count == 0
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
        let documents = self.documents_source;
        let both = format!(
            "{documents} documents at the source, {} at the target",
            self.documents_target
        );
        let now = if self.differences() > 0 { " now" } else { "" };
        let unsure = self.left == 0 && self.changing.count > 0;
        match (self.target_exists, self.equal(), self.by) {
            (false, ..) => write!(
                f,
                ": NOT equal, the target has no such index, the source has {documents} documents"
            )?,
            (true, true, By::Content) => {
                let size = self.bytes as f64 / 1e6;
                write!(f, ": equal{now}, {documents} documents, {size:.1} MB")?;
            }
            (true, true, By::Version) => {
                write!(f, ": equal{now} by version, {documents} documents")?;
            }
            (true, false, _) if unsure => write!(f, ": equal but for what is changing, {both}")?,
            (true, false, _) => write!(f, ": NOT equal, {both}")?,
        }
        match self.settled_meanwhile {
            0 => writeln!(f)?,
            settled => writeln!(f, " ({settled} more became equal meanwhile)")?,
        }
        self.section(f, "missing at the target", &self.missing)?;
        self.section(f, "at the target only", &self.extra)?;
        self.section(f, "with another routing", &self.misrouted)?;
        self.section(f, "different", &self.different)?;
        self.section(f, "still changing, so not known", &self.changing)?;
        if let Some(Plan {
            create,
            write,
            delete,
        }) = self.plan
            && (create || write + delete > 0)
        {
            let create = if create { "create the index, " } else { "" };
            writeln!(
                f,
                "  a repair would {create}write {write} and delete {delete} documents; nothing was changed"
            )?;
        }
        self.repaired.fmt(f)?;
        match self.left {
            left if left > 0 && self.repaired.any() => {
                writeln!(f, "  differences that are left: {left}")
            }
            _ => Ok(()),
        }
    }
}

impl Repaired {
    /// Whether anything was done, or tried.
    fn any(&self) -> bool {
        self.created || self.written + self.deleted + self.refused.count > 0
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.any() {
            return Ok(());
        }
        let created = match self.created {
            true => "the index created, ",
            false => "",
        };
        let (written, deleted) = (self.written, self.deleted);
        writeln!(
            f,
            "  repaired: {created}{written} documents written, {deleted} deleted"
        )?;
        if self.foreign > 0 {
            writeln!(
                f,
                "    {} of the written had a foreign version, which they keep until they change at the source",
                self.foreign
            )?;
        }
        self.refused.section(f, "refused by the target", true)
    }
}

impl IndexReport {
    fn section<T: fmt::Display>(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        listing: &Listing<T>,
    ) -> fmt::Result {
        listing.section(f, title, self.exact)
    }
}

impl<T: fmt::Display> Listing<T> {
    fn section(&self, f: &mut fmt::Formatter<'_>, title: &str, exact: bool) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        let least = if exact { "" } else { "at least " };
        writeln!(f, "  {title}: {least}{}", self.count)?;
        for listed in &self.listed {
            writeln!(f, "    {listed}")?;
        }
        match self.count - self.listed.len() as u64 {
            0 => Ok(()),
            more => writeln!(f, "    ... and {more} more"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        routed(f, &self.id, self.routing.as_deref())?;
        write!(f, ": {}", self.reason)
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
        if let Some(Changes {
            source,
            target,
            epoch,
        }) = self.changes
        {
            write!(
                f,
                " (change {source} at the source, {target} of epoch {epoch} at the target)"
            )?;
        }
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
        let mut report = IndexReport::new(name("orders"), name("copy"), By::Content);
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
            changes: None,
        });
        let target = Some("q".to_owned());
        report.misrouted.add(2, || Misrouted {
            id: id(),
            source: None,
            target,
        });
        report.settled_meanwhile = 4;
        report.left = report.differences();
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
    fn what_was_repaired_counts_as_equal_and_what_still_changes_as_nothing() {
        let key = || Key {
            id: "x".to_owned(),
            routing: None,
        };
        let mut report = report();
        report.by = By::Version;
        report.missing.add(2, key);
        report.repaired = Repaired {
            written: 1,
            foreign: 1,
            ..Repaired::default()
        };
        let expected = "orders -> copy: equal now by version, 10 documents
  missing at the target: 1
    \"x\"
  repaired: 1 documents written, 0 deleted
    1 of the written had a foreign version, which they keep until they change at the source
";
        assert!(report.equal());
        assert_eq!(report.to_string(), expected);
        report.changing.add(2, key);
        assert!(!report.equal());
        let text = report.to_string();
        assert!(text.starts_with("orders -> copy: equal but for what is changing, 10 documents"));
        assert!(
            text.contains("  still changing, so not known: 1\n    \"x\"\n"),
            "{text}"
        );
        report.left = 1;
        let text = report.to_string();
        assert!(text.contains("NOT equal") && text.ends_with("  differences that are left: 1\n"));
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
