//! What a lane does about dead letters: a refused change becomes one, what is settled later removes it,
//! and one that was sent again is written only while its letter is there.
//!
//! The last is what keeps a deleted document deleted. A lane takes the changes of a document in the
//! log's order, and reports none as settled before its letter is seen to. So when a replay's turn comes,
//! the letter says whether anything newer has passed, also if the process was killed in between, and
//! however long ago the target has forgotten the delete.

use std::time::Duration;

use model::IndexName;
use runtime::backoff::Backoff;

use super::{Item, Lane, Stop};
use crate::{DeadLetter, DeadLetters, Fault, Observer, Outcome, Replayed, Writer};

impl<W: Writer, D: DeadLetters, O: Observer> Lane<W, D, O> {
    /// Leaves out the replays whose letter is gone or is of a newer change.
    pub(super) async fn without_late_replays<'a>(
        &self,
        index: &IndexName,
        items: Vec<Item<'a>>,
    ) -> Result<Vec<Item<'a>>, Stop> {
        if items.iter().all(|item| item.part.replay.is_none()) {
            return Ok(items);
        }
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            let is_late = item.part.replay.is_some() && !self.is_parked(index, item).await?;
            if is_late {
                self.superseded(item);
            } else {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    async fn is_parked(&self, index: &IndexName, item: Item<'_>) -> Result<bool, Stop> {
        if !self.dead_letters.may_hold(index, item.change) {
            return Ok(false);
        }
        let letters = &self.dead_letters;
        self.persist(|| letters.is_parked(index, item.change)).await
    }

    /// Keeps a refused change.
    pub(super) async fn park(
        &self,
        index: &IndexName,
        item: Item<'_>,
        reason: &str,
    ) -> Result<(), Stop> {
        let letter = DeadLetter {
            sequence: item.part.sequence,
            subject: item.part.subject.clone(),
            index: index.to_string(),
            change: Some(item.change.clone()),
            body: bytes::Bytes::new(),
            reason: reason.to_owned(),
        };
        self.persist(|| self.dead_letters.park(letter.clone()))
            .await
    }

    /// Removes the letter that a settled change has made obsolete.
    pub(super) async fn supersede(&self, index: &IndexName, item: Item<'_>) -> Result<(), Stop> {
        if !self.dead_letters.may_hold(index, item.change) {
            return Ok(());
        }
        self.persist(|| self.dead_letters.settle(index, item.change))
            .await
    }

    /// Reports what became of a change, if it is a replay.
    pub(super) fn replayed(&self, item: Item<'_>, outcome: &Outcome) {
        match outcome {
            Outcome::Retry(_) => {}
            Outcome::Refused(_) => self.report(item, Replayed::Refused),
            Outcome::Applied | Outcome::AlreadyApplied => self.report(item, Replayed::Written),
            Outcome::Superseded(_) => self.report(item, Replayed::Superseded),
        }
    }

    /// Reports a change that is not written because of a newer one, if it is a replay.
    pub(super) fn superseded(&self, item: Item<'_>) {
        self.report(item, Replayed::Superseded);
    }

    fn report(&self, item: Item<'_>, outcome: Replayed) {
        if let Some(replay) = &item.part.replay {
            self.observer.replayed(&item.part.batch, outcome);
            self.dead_letters.replayed(replay, outcome);
        }
    }

    /// Does what is about letters until it works. Letters are written within the reader's tenure like
    /// everything else: one that a paused process wrote late would be there after its successor has
    /// settled what came later.
    async fn persist<T, F>(&self, mut operation: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            self.deadline().await?;
            match operation().await {
                Ok(done) => return Ok(done),
                Err(fault) if fault.is_retryable() => {
                    self.pause("dead letter", &fault.to_string(), &mut backoff)
                        .await?;
                }
                Err(fault) => return Err(Stop::Failed(fault)),
            }
        }
    }
}
