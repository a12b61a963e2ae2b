//! The comparison of one index: narrow down where the sides differ, find the documents, look again.

use std::{collections::VecDeque, sync::Arc};

use futures::future::try_join;
use model::IndexName;

use crate::{
    Difference, IndexReport, Key, Misrouted, Pass, Progress, VerifyError, VerifyOptions,
    buckets::{Differing, Filter, divide, fit},
    diff::diff,
    gather::{Entries, Summary},
    index::SideIndex,
    look::{Confirmed, confirm},
    repair::delete_extra,
    scan::{Gather, scan},
    suspect::{Finding, Suspect, findings, suspects},
};

/// How often both sides are read to find documents that differ, at most.
const PASSES: usize = 8;
/// How many documents are looked at together, at most ...
const BATCH: usize = 256;
/// ... and how large they may be together, in bytes.
const BATCH_BYTES: usize = 2 << 20;

/// A comparison that is going on.
pub(crate) struct Comparison<'a> {
    source: Arc<SideIndex>,
    target: Arc<SideIndex>,
    options: &'a VerifyOptions,
    progress: &'a dyn Progress,
    report: IndexReport,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(
        source: SideIndex,
        target: SideIndex,
        options: &'a VerifyOptions,
        progress: &'a dyn Progress,
    ) -> Comparison<'a> {
        let names: [IndexName; 2] = [&source.name, &target.name].map(Clone::clone);
        let [index, other] = names;
        Comparison {
            report: IndexReport::new(index, other, target.exists),
            source: Arc::new(source),
            target: Arc::new(target),
            options,
            progress,
        }
    }

    pub(crate) async fn run(mut self) -> Result<IndexReport, VerifyError> {
        let (filter, differing) = self.narrow().await?;
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
        Ok(self.report)
    }

    /// Whether the buckets are looked into that were not yet.
    fn goes_on(&self, passes: usize) -> bool {
        let is_enough = passes >= PASSES && self.report.differences() > 0;
        self.options.delete_extra || !(self.is_any_full() || is_enough)
    }

    /// Finds the buckets that differ, divided until their documents can be held if that helps.
    async fn narrow(&mut self) -> Result<(Filter, Vec<Differing>), VerifyError> {
        let mut filter = Filter::default();
        loop {
            let first = filter.level() == 0;
            let shared = Arc::new(filter.clone());
            let new = move || Summary::new(Arc::clone(&shared));
            let pass = if first { Pass::Compare } else { Pass::Narrow };
            let (source, target) = self.scan_both(pass, new).await?;
            if first {
                self.report.documents_source = source.documents;
                self.report.documents_target = target.documents;
                self.report.bytes = source.bytes;
            }
            let differing = source.buckets.differing(&target.buckets);
            if !divide(&differing, filter.level(), self.options.memory) {
                return Ok((filter, differing));
            }
            filter = filter.within(differing.iter().map(|d| d.bucket));
        }
    }

    async fn scan_both<G: Gather>(
        &self,
        pass: Pass,
        new: impl Fn() -> G + Clone + Send + 'static,
    ) -> Result<(G, G), VerifyError> {
        let documents = self.source.documents + self.target.documents;
        self.progress.begin(&self.source.name, pass, documents);
        try_join(scan(&self.source, new.clone()), scan(&self.target, new)).await
    }

    /// Finds the documents that differ among those of the filter.
    async fn find(&mut self, filter: Filter) -> Result<(), VerifyError> {
        let filter = Arc::new(filter);
        let new = move || Entries::new(Arc::clone(&filter));
        let (source, target) = self.scan_both(Pass::Find, new).await?;
        let suspects = suspects(source.entries, target.entries);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for same_id in suspects.chunk_by(|one, other| one.id == other.id) {
            let found = findings(same_id);
            if found.iter().all(|finding| self.is_full(*finding)) {
                found.into_iter().for_each(|finding| self.count(finding));
                continue;
            }
            batch.extend_from_slice(same_id);
            bytes += same_id.iter().map(|suspect| suspect.bytes).sum::<usize>();
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                self.look(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.look(batch).await
    }

    /// Looks at documents again, and reports those that still differ.
    async fn look(&mut self, suspects: Vec<Suspect>) -> Result<(), VerifyError> {
        let looked_at = suspects.len();
        let confirmed = confirm(&self.source, &self.target, suspects).await?;
        self.report.settled_meanwhile += (looked_at - confirmed.len()) as u64;
        if self.options.delete_extra {
            let suspects = confirmed.iter().map(|confirmed| &confirmed.suspect);
            let extra: Vec<&Suspect> = suspects.filter(|s| s.source.is_none()).collect();
            self.report.deleted += delete_extra(&self.source, &self.target, &extra).await?;
        }
        let mut confirmed = VecDeque::from(confirmed);
        while let Some(first) = confirmed.pop_front() {
            let mut same_id = vec![first];
            while let Some(next) =
                confirmed.pop_front_if(|next| next.suspect.id == same_id[0].suspect.id)
            {
                same_id.push(next);
            }
            self.add(&same_id);
        }
        Ok(())
    }

    /// Reports the differences of one id.
    fn add(&mut self, same_id: &[Confirmed]) {
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
                    report
                        .different
                        .add(limit, || difference(&same_id[place], wanted));
                }
            }
        }
    }

    /// Counts a difference that nobody looked at again, of a kind of which enough are listed.
    fn count(&mut self, finding: Finding) {
        let report = &mut self.report;
        report.exact = false;
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
            self.report.exact = false;
            self.report.missing.count += bucket.source.saturating_sub(bucket.target);
            self.report.extra.count += bucket.target.saturating_sub(bucket.source);
            self.report.different.count += u64::from(bucket.source == bucket.target);
        }
    }

    /// Whether enough differences of this kind are known: at least one, which proves that the sides
    /// differ.
    fn is_full(&self, finding: Finding) -> bool {
        if self.options.delete_extra {
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

fn key(suspect: &Suspect) -> Key {
    Key {
        id: suspect.id.to_string(),
        routing: suspect.routing.as_deref().map(str::to_owned),
    }
}

fn difference(confirmed: &Confirmed, with_diff: bool) -> Difference {
    let Key { id, routing } = key(&confirmed.suspect);
    let both = confirmed.source.as_ref().zip(confirmed.target.as_ref());
    Difference {
        id,
        routing,
        diff: both
            .filter(|_| with_diff)
            .map(|(source, target)| diff(source, target)),
    }
}
