//! How far each index has come, told down the log for those who wait for it.
//!
//! A position is told when everything before it was handed on, and of tables only that are copied. Tables that have
//! changed are told of at once, or nearly so: several commits together. All others follow now and then, so that
//! an idle table, and one of which nothing is let through, does not keep anybody waiting.

use super::*;

/// At least so long between two times that what has changed is told of.
const SOON: Duration = Duration::from_millis(15);
/// How often all others are told of, and how much later for each of them, since each is a message.
const NOW_AND_THEN: Duration = Duration::from_secs(1);
const FOR_EACH: Duration = Duration::from_millis(5);

/// What was told and what is still to tell.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The tables that are copied, as of the last look.
    whole: HashSet<u32>,
    /// Tables of which something was handed on since they were told of.
    changed: HashSet<u32>,
    /// What each table was told.
    told: HashMap<u32, Lsn>,
    /// What all of them were told.
    all_told: Lsn,
    last: Option<Instant>,
    last_of_all: Option<Instant>,
}

impl Reached {
    /// Something of a table was handed on.
    pub(super) fn changed(&mut self, table: u32) {
        self.changed.insert(table);
    }

    /// A table is copied again, so it is not whole for now.
    pub(super) fn begin_copy(&mut self, table: u32) {
        self.whole.remove(&table);
        self.told.remove(&table);
    }
}

impl Session<'_> {
    /// When there is something to tell, if nothing comes before that.
    pub(super) fn tells_at(&self) -> Option<Instant> {
        let reached = &self.reached;
        let is_between = self.transaction.is_none() && self.gathered.is_empty();
        if !is_between || self.stream.is_none() {
            return None;
        }
        let now = Instant::now();
        let after = |last: Option<Instant>, pause| last.map_or(now, |last| last + pause);
        let is_open = self.position > reached.all_told || reached.whole.len() < self.layouts.len();
        let soon = (!reached.changed.is_empty()).then(|| after(reached.last, SOON));
        let all = is_open.then(|| after(reached.last_of_all, self.now_and_then()));
        soon.into_iter().chain(all).min()
    }

    fn now_and_then(&self) -> Duration {
        NOW_AND_THEN + FOR_EACH * u32::try_from(self.layouts.len()).unwrap_or(u32::MAX)
    }

    /// Tells what is to be told by now: everything up to the position was handed on.
    pub(super) fn tell_reached(&mut self) -> Result<(), SourceError> {
        // In this order: what was never told is due at the moment of the question.
        let at = self.tells_at();
        let now = Instant::now();
        if at.is_none_or(|at| at > now) {
            return Ok(());
        }
        let pause = self.now_and_then();
        let is_all = self
            .reached
            .last_of_all
            .is_none_or(|last| last + pause <= now);
        let tables = match is_all {
            true => {
                self.look_for_whole();
                self.reached.last_of_all = Some(now);
                self.reached.all_told = self.position;
                self.reached.changed.clear();
                self.reached.whole.iter().copied().collect()
            }
            false => std::mem::take(&mut self.reached.changed),
        };
        self.reached.last = Some(now);
        let tables: Vec<u32> = tables.into_iter().collect();
        for table in tables {
            let is_news = self.reached.told.get(&table) != Some(&self.position);
            if is_news && self.reached.whole.contains(&table) {
                self.tell_of(table)?;
            }
        }
        Ok(())
    }

    fn look_for_whole(&mut self) {
        let state = self.capture.memory.get(&self.capture.database);
        let tables = state.map(|state| state.tables).unwrap_or_default();
        let whole = tables.into_iter().filter(|(_, table)| table.is_copied);
        self.reached.whole = whole
            .map(|(oid, _)| oid)
            .filter(|oid| self.layouts.contains_key(oid))
            .collect();
    }

    fn tell_of(&mut self, table: u32) -> Result<(), SourceError> {
        let (Some(layout), Some((_, epoch, _))) =
            (self.layouts.get(&table), self.lineages.get(&table))
        else {
            return Ok(());
        };
        let version = Version::new(*epoch, self.position.0)?;
        let index = layout.index.clone();
        self.reached.told.insert(table, self.position);
        self.push(index, Content::Reached(version), Position::Nothing);
        Ok(())
    }
}

/// Waits for a moment, or for ever.
pub(super) async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
