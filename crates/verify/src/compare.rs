//! The comparison of one index: narrow down where the sides differ, find the documents, look again.

use std::sync::Arc;

use futures::future::try_join;
use model::{Epoch, IndexName, Version};
use search::PageSizer;

use crate::{
    By, Changes, Difference, IndexReport, Key as DocumentKey, Misrouted, Pass, Plan, Progress,
    Refused, Repair, Side, VerifyError, VerifyOptions,
    buckets::{Differing, Filter, are_rewritten, divide, fit},
    diff::diff,
    gather::{Entries, Summary, Taking},
    index::SideIndex,
    look::{Looked, batches, look},
    repair,
    rule::{Key, Rule, Versions},
    scan::{Gather, scan},
    source::Source,
    suspect::{Finding, Suspect, findings, suspects},
};

/// How often both sides are read to find documents that differ, at most.
const PASSES: usize = 8;
/// How many suspects are looked into first; each time four times as many, until enough of them are
/// known to differ.
const FIRST_SUSPECTS: usize = 256;
/// How often what differs is looked at again, each time after the lag, before it counts as still
/// changing.
const LOOKS: usize = 3;

/// A comparison that is going on.
pub(crate) struct Comparison<'a> {
    source: Source,
    target: Arc<SideIndex>,
    options: &'a VerifyOptions,
    progress: &'a dyn Progress,
    rule: Rule,
    /// The epoch that repaired documents get.
    epoch: Epoch,
    /// How many documents are repaired at once.
    sizer: PageSizer,
    report: IndexReport,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(
        source: Source,
        target: SideIndex,
        options: &'a VerifyOptions,
        progress: &'a dyn Progress,
    ) -> Comparison<'a> {
        let names: [IndexName; 2] = [source.name(), &target.name].map(Clone::clone);
        let [index, other] = names;
        // Where the shards are as many, an id and routing lead to the same one on both sides, and a
        // position in a shard is one document's. Were they routed otherwise, nearly everything
        // would differ by position, and `narrow` goes by ids then.
        let is_alike = source.shards() == target.shards;
        let is_large = source.documents().min(target.documents) >= options.many;
        let key = match options.by == By::Version && is_alike && is_large {
            true => Key::Position,
            false => Key::Id,
        };
        let mut report = IndexReport::new(index, other, options.by);
        report.target_exists = target.exists;
        report.uuids = [source.uuid(), target.uuid.clone()];
        Comparison {
            rule: Rule {
                by: options.by,
                as_written: options.by == By::Content,
                key,
                epoch: None,
            },
            epoch: Epoch(0),
            sizer: PageSizer::new(8, FIRST_SUSPECTS as u32),
            report,
            source,
            target: Arc::new(target),
            options,
            progress,
        }
    }

    pub(crate) async fn run(mut self) -> Result<IndexReport, VerifyError> {
        let (filter, differing) = self.narrow().await?;
        if self.is_exhaustive() {
            self.epoch = repair::epoch(&self.source, &self.target, self.epoch).await?;
        }
        let mut rest = differing.as_slice();
        let mut passes = 0;
        // Goes on in any case until one difference is certain: all may yet turn out to be equal.
        while self.goes_on(passes) {
            let (now, later) = rest.split_at(fit(rest, self.options.memory));
            if now.is_empty() {
                break;
            }
            self.find(filter.within(now.iter().map(|d| d.bucket)))
                .await?;
            rest = later;
            passes += 1;
        }
        self.count_unseen(rest);
        if self.options.repair == Repair::Plan {
            self.report.plan = Some(self.plan());
        }
        Ok(self.report)
    }

    /// Whether all differences are wanted. Of an index that is not there all documents are missing,
    /// whoever they are.
    fn is_exhaustive(&self) -> bool {
        self.options.repair != Repair::No && self.target.exists
    }

    /// Whether the buckets are looked into that were not yet.
    fn goes_on(&self, passes: usize) -> bool {
        let is_enough = passes >= PASSES && self.report.differences() > 0;
        self.is_exhaustive() || !(self.is_any_full() || is_enough)
    }

    /// Finds the buckets that differ, divided until their documents can be held if that helps.
    async fn narrow(&mut self) -> Result<(Filter, Vec<Differing>), VerifyError> {
        let mut filter = Filter::default();
        loop {
            let first = filter.level() == 0;
            let pass = if first { Pass::Compare } else { Pass::Narrow };
            let (source, target) = self.scan_both(pass, &filter, Summary::new).await?;
            if first {
                self.report.documents_source = source.documents;
                self.report.documents_target = target.documents;
                self.report.bytes = source.bytes;
                if !self.learn(&target.versions)? {
                    continue;
                }
            }
            let differing = source.buckets.differing(&target.buckets);
            let occupied = source.buckets.occupied(&target.buckets);
            if first && self.rule.key == Key::Position && differing.len() > occupied / 2 {
                tracing::info!(
                    index = %self.source.name(),
                    "most positions differ: the sides are compared by ids"
                );
                self.rule.key = Key::Id;
                filter = Filter::default();
                continue;
            }
            if std::mem::take(&mut self.rule.as_written)
                && are_rewritten(&differing, self.options.memory)
            {
                tracing::info!(
                    index = %self.source.name(),
                    "many documents are written differently: the sides are compared by meaning"
                );
                continue;
            }
            if !divide(&differing, filter.level(), self.options.memory) {
                return Ok((filter, differing));
            }
            filter = filter.within(differing.iter().map(|d| d.bucket));
        }
    }

    /// Learns from the target's versions; false if the sums were not made with the right epoch.
    fn learn(&mut self, versions: &Versions) -> Result<bool, VerifyError> {
        self.epoch = versions.usual().unwrap_or_default();
        if self.rule.by == By::Content {
            return Ok(true);
        }
        if let Some(foreign) = versions.foreign(self.source.shards()) {
            return Err(VerifyError::ForeignVersions {
                index: self.target.name.to_string(),
                foreign,
                documents: self.report.documents_target,
            });
        }
        let (newest, mixed) = versions.newest().unwrap_or_default();
        let right = !mixed || self.rule.epoch == Some(newest);
        self.rule.epoch = Some(newest);
        Ok(right)
    }

    async fn scan_both<G: Gather>(
        &self,
        pass: Pass,
        filter: &Filter,
        new: fn(Taking) -> G,
    ) -> Result<(G, G), VerifyError> {
        let documents = self.source.documents() + self.target.documents;
        self.progress.begin(self.source.name(), pass, documents);
        let filter = Arc::new(filter.clone());
        let rule = self.rule;
        let gather = |side| {
            let filter = Arc::clone(&filter);
            move || {
                let filter = Arc::clone(&filter);
                new(Taking { side, rule, filter })
            }
        };
        let source = self.source.scan(gather(Side::Source));
        let target = scan(&self.target, gather(Side::Target));
        let both = try_join(source, target).await;
        // Also where one side has failed: nothing stays open on the other.
        self.source.ended().await;
        self.target.scrolls.ended().await;
        both
    }

    /// Finds the documents that differ among those of the filter.
    async fn find(&mut self, filter: Filter) -> Result<(), VerifyError> {
        let (source, target) = self.scan_both(Pass::Find, &filter, Entries::new).await?;
        let suspects = suspects(source.entries, target.entries);
        let mut rest = suspects
            .chunk_by(|one, other| one.id == other.id)
            .peekable();
        let mut most = match self.is_exhaustive() {
            true => usize::MAX,
            false => FIRST_SUSPECTS,
        };
        while rest.peek().is_some() {
            let mut wanted = Vec::new();
            while wanted.len() < most
                && let Some(same_id) = rest.next()
            {
                let found = findings(same_id);
                if found.iter().all(|finding| self.is_full(*finding)) {
                    found.into_iter().for_each(|finding| self.count(finding));
                } else {
                    wanted.extend_from_slice(same_id);
                }
            }
            self.settle(wanted).await?;
            most = most.saturating_mul(4);
        }
        Ok(())
    }

    /// Looks at suspects again: at once, because most may have been on their way, and then after the
    /// lag until they are equal or stand still.
    async fn settle(&mut self, suspects: Vec<Suspect>) -> Result<(), VerifyError> {
        let mut open = Vec::new();
        for batch in batches(&suspects, self.source.together()) {
            let looked = look(&self.source, &self.target, self.rule, batch).await?;
            open.extend(self.unsettled(looked).map(|looked| looked.suspect));
        }
        for _ in 0..LOOKS {
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(self.options.lag).await;
            let mut changing = Vec::new();
            for batch in batches(&open, self.source.together()) {
                let looked = look(&self.source, &self.target, self.rule, batch).await?;
                let both = batch.iter().zip(looked);
                let same = |(before, now): &(&Suspect, Looked)| {
                    (before.source, before.target) == (now.suspect.source, now.suspect.target)
                };
                let (standing, moved): (Vec<_>, Vec<_>) = both.partition(same);
                let standing = self.unsettled(standing.into_iter().map(|(_, now)| now));
                let standing: Vec<Looked> = standing.collect();
                let moved = self.unsettled(moved.into_iter().map(|(_, now)| now));
                changing.extend(moved.map(|looked| looked.suspect));
                self.conclude(&standing).await?;
            }
            open = changing;
        }
        for suspect in &open {
            self.report
                .changing
                .add(self.options.limit, || key(suspect));
        }
        Ok(())
    }

    /// Those that differ still; the others are counted as settled.
    fn unsettled(
        &mut self,
        looked: impl IntoIterator<Item = Looked>,
    ) -> std::vec::IntoIter<Looked> {
        let (differing, settled): (Vec<_>, Vec<_>) = looked
            .into_iter()
            .partition(|looked| looked.suspect.differs());
        self.report.settled_meanwhile += settled.len() as u64;
        differing.into_iter()
    }

    /// Reports documents that differ for certain, and repairs them if that is wanted.
    async fn conclude(&mut self, differing: &[Looked]) -> Result<(), VerifyError> {
        for same_id in differing.chunk_by(|one, other| one.suspect.id == other.suspect.id) {
            self.add(same_id);
        }
        let suspects = differing.iter().map(|looked| looked.suspect.clone());
        let repair = self.options.repair;
        let (touched, left): (Vec<_>, Vec<_>) = suspects.partition(|suspect| match repair {
            Repair::No | Repair::Plan => false,
            Repair::Extra => suspect.source.is_none(),
            Repair::All => true,
        });
        self.report.left += count(&left);
        let mut rest = touched.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(together(rest, self.sizer.documents() as usize));
            self.repair(now).await?;
            rest = later;
        }
        Ok(())
    }

    /// Repairs documents and looks whether that has made them equal.
    async fn repair(&mut self, suspects: &[Suspect]) -> Result<(), VerifyError> {
        let (source, target) = (&self.source, &self.target);
        let cut = |suspect: &Suspect| suspect.source.is_none();
        let (extra, wanted): (Vec<_>, Vec<_>) = suspects.iter().cloned().partition(cut);
        // First what is written: where it replaces a document of another routing, that one is no
        // longer there to be deleted.
        let written = repair::write(source, target, self.epoch, &wanted).await?;
        self.sizer.learn(wanted.len(), written.bytes);
        let repaired = &mut self.report.repaired;
        repaired.deleted += repair::delete(source, target, &extra).await?;
        repaired.written += written.written;
        repaired.foreign += written.foreign;
        // The content is what counts now, whatever the version had to be.
        let content = Rule {
            by: By::Content,
            ..self.rule
        };
        let again = async |suspects: &[Suspect]| {
            let looked = look(source, target, content, suspects).await?;
            let suspects = looked.into_iter().map(|looked| looked.suspect);
            Ok::<Vec<Suspect>, VerifyError>(suspects.filter(Suspect::differs).collect())
        };
        let mut open = again(suspects).await?;
        if !open.is_empty() {
            // What was deleted at the source while it was written here may have come after its delete.
            let gone = open.iter().filter(|suspect| suspect.source.is_none());
            let gone: Vec<Suspect> = gone.cloned().collect();
            self.report.repaired.deleted += repair::delete(source, target, &gone).await?;
            tokio::time::sleep(self.options.lag).await;
            open = again(&open).await?;
        }
        for (place, reason) in written.refused {
            let is_left = |open: &Suspect| key(open) == key(&wanted[place]);
            if open.iter().any(is_left) {
                let DocumentKey { id, routing } = key(&wanted[place]);
                let refused = Refused {
                    id,
                    routing,
                    reason,
                };
                self.report
                    .repaired
                    .refused
                    .add(self.options.limit, || refused);
            }
        }
        self.report.left += count(&open);
        Ok(())
    }

    /// What a repair would do.
    fn plan(&self) -> Plan {
        let report = &self.report;
        match self.target.exists {
            true => Plan {
                create: false,
                write: report.missing.count + report.different.count + report.misrouted.count,
                delete: report.extra.count + report.misrouted.count,
            },
            false => Plan {
                create: true,
                write: report.documents_source,
                delete: 0,
            },
        }
    }

    /// Reports the differences of one id.
    fn add(&mut self, same_id: &[Looked]) {
        let suspects: Vec<_> = same_id.iter().map(|c| c.suspect.clone()).collect();
        let limit = self.options.limit;
        let report = &mut self.report;
        for finding in findings(&suspects) {
            match finding {
                Finding::Missing(place) => report.missing.add(limit, || key(&suspects[place])),
                Finding::Extra(place) => report.extra.add(limit, || key(&suspects[place])),
                Finding::Misrouted(one, other) => report.misrouted.add(limit, || {
                    let (one, other) = (key(&suspects[one]), key(&suspects[other]));
                    Misrouted {
                        id: one.id,
                        source: one.routing,
                        target: other.routing,
                    }
                }),
                Finding::Different(place) => {
                    let wanted = report.different.listed.len() < self.options.diffs;
                    report.different.add(limit, || {
                        difference(&same_id[place], self.options.by, wanted)
                    });
                }
            }
        }
    }

    /// Counts a difference that nobody looked at again, of a kind of which enough are listed.
    fn count(&mut self, finding: Finding) {
        let report = &mut self.report;
        report.exact = false;
        report.left += 1;
        match finding {
            Finding::Missing(_) => report.missing.count += 1,
            Finding::Extra(_) => report.extra.count += 1,
            Finding::Different(_) => report.different.count += 1,
            Finding::Misrouted(..) => report.misrouted.count += 1,
        }
    }

    /// Counts what buckets that nobody looked into tell by themselves.
    fn count_unseen(&mut self, buckets: &[Differing]) {
        for bucket in buckets {
            let missing = bucket.source.saturating_sub(bucket.target);
            let extra = bucket.target.saturating_sub(bucket.source);
            let different = u64::from(bucket.source == bucket.target);
            self.report.exact = false;
            self.report.missing.count += missing;
            self.report.extra.count += extra;
            self.report.different.count += different;
            self.report.left += missing + extra + different;
        }
    }

    /// Whether enough differences of this kind are known: at least one, which proves that the sides
    /// differ.
    fn is_full(&self, finding: Finding) -> bool {
        if self.is_exhaustive() {
            return false; // all of them are wanted
        }
        let count = match finding {
            Finding::Missing(_) => self.report.missing.count,
            Finding::Extra(_) => self.report.extra.count,
            Finding::Different(_) => self.report.different.count,
            Finding::Misrouted(..) => self.report.misrouted.count,
        };
        count >= self.options.limit.max(1) as u64
    }

    fn is_any_full(&self) -> bool {
        let kinds = [
            Finding::Missing(0),
            Finding::Extra(0),
            Finding::Different(0),
            Finding::Misrouted(0, 0),
        ];
        kinds.into_iter().any(|kind| self.is_full(kind))
    }
}

/// How many differences suspects are, those of one id next to each other.
fn count(suspects: &[Suspect]) -> u64 {
    let ids = suspects.chunk_by(|one, other| one.id == other.id);
    ids.map(|same_id| findings(same_id).len() as u64).sum()
}

/// How many of the suspects, about `most`, are taken together: those of one id are.
fn together(suspects: &[Suspect], most: usize) -> usize {
    let mut taken = 0;
    for same_id in suspects.chunk_by(|one, other| one.id == other.id) {
        if taken >= most.max(1) {
            break;
        }
        taken += same_id.len();
    }
    taken
}

fn key(suspect: &Suspect) -> DocumentKey {
    DocumentKey {
        id: suspect.id.to_string(),
        routing: suspect.routing.as_deref().map(str::to_owned),
    }
}

fn difference(looked: &Looked, by: By, with_diff: bool) -> Difference {
    let DocumentKey { id, routing } = key(&looked.suspect);
    let both = looked.source.as_ref().zip(looked.target.as_ref());
    let (mut text, mut changes) = (None, None);
    if let Some((source, target)) = both {
        match by {
            By::Content if with_diff => text = Some(diff(&source.json, &target.json)),
            By::Content => {}
            By::Version => {
                changes = Version::try_from(target.number)
                    .ok()
                    .map(|version| Changes {
                        source: source.number,
                        target: version.position(),
                        epoch: version.epoch().0,
                    });
            }
        }
    }
    Difference {
        id,
        routing,
        diff: text,
        changes,
    }
}
