//! The traits at which parts can be exchanged. Their documentation is the contract.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use model::{Batch, Change, IndexDefinition, IndexName, Lineage, Version};
use tokio::sync::watch;

use crate::Fault;

/// Where changes come from.
///
/// **Order.** Batches of one partition ([`model::Origin::partition`]) come in the partition's order.
/// A definition of an index comes before its first changes.
/// **Duplicates.** After a restart a source starts behind the last confirmed position and may yield
/// batches again.
/// **Durability.** The source may forget what is below a confirmed position, and nothing above it.
pub trait ChangeSource: Send {
    /// Says how far a partition has come; only the source itself understands it.
    type Position: Clone + Send;

    /// Waits for the next batch; `None` when the source has come to its end for good.
    ///
    /// Cancel safe: a batch is not lost when the future is dropped before it is ready.
    fn next(
        &mut self,
    ) -> impl Future<Output = Result<Option<Captured<Self::Position>>, Fault>> + Send;

    /// Takes back a position: everything the source has yielded up to and including the batch it
    /// came with is durable downstream. Positions come back in the order they were yielded, one by one:
    /// a source for which storing a position is dear stores the last of several.
    fn confirm(
        &mut self,
        position: Self::Position,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// A batch and the position that is reached with it.
#[derive(Debug, Clone)]
pub struct Captured<P> {
    /// What changed. Empty where the source has only come further.
    pub batch: Arc<Batch>,
    /// What to confirm once the batch is durable.
    pub position: P,
}

/// The writing end of a log.
pub trait MessageSink: Send {
    /// Resolves when the log has the batch durably, or says why not. They may be awaited in any order.
    type Receipt: Future<Output = Result<(), Fault>> + Send + Unpin;

    /// Whether a batch that was handed over can neither get lost nor be overtaken while its receipt waits.
    const IS_CERTAIN: bool = false;

    /// Appends a batch. Batches enter the log in the order of the calls; several may be under way.
    ///
    /// `attempt` rises by one whenever the caller starts over after a failure. It has to make the
    /// message's id new: a log that deduplicates ids must not drop the repetition, because an older
    /// batch may have been stored in between.
    fn publish(
        &mut self,
        batch: &Arc<Batch>,
        attempt: u64,
    ) -> impl Future<Output = Result<Self::Receipt, Fault>> + Send;
}

/// The reading end of a log.
///
/// One reader is active at a time. It sees the log in order from its floor + 1; nothing it has seen
/// comes again before it starts anew.
pub trait MessageSource: Send {
    /// Waits for the next entry; `None` when the log has ended for good. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Delivery>, Fault>> + Send;

    /// Moves the floor: everything up to and including `floor` is settled. The move may be stored a
    /// little later; a reader that starts from an older floor only repeats work. Fails for good when
    /// another reader has taken over.
    fn commit(&mut self, floor: u64) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Stores the last committed floor now and lets the next reader begin at once.
    fn close(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Wants only these subjects from the next entry on, as [`model::expand_filter`] returns them; all when empty.
    /// What lies behind the newest entry delivered is judged by these alone, whatever was wanted before. A log may
    /// deliver others, too.
    fn want(&mut self, _subjects: &[String]) {}

    /// How many entries were left in the log, because their subjects are not wanted.
    fn left_out(&self) -> u64 {
        0
    }

    /// How many entries of the log were waiting behind the one delivered last.
    fn pending(&self) -> u64;

    /// Until when this reader may act on what it has read.
    fn tenure(&self) -> Tenure;
}

/// An entry of a log.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its number. Numbers rise, with gaps.
    pub sequence: u64,
    /// The subject it stands under; `None` where the log has no subjects.
    pub subject: Option<Arc<str>>,
    /// What it says.
    pub payload: Payload,
}

/// What an entry of a log says.
#[derive(Debug, Clone)]
pub enum Payload {
    /// A batch.
    Batch(Arc<Batch>),
    /// The change of a dead letter of this reader, sent again. It is written only if its letter is still
    /// there when its turn comes: what came before it in the log may have changed or deleted the
    /// document, and a target forgets what was deleted.
    Replay(Arc<Batch>, Replay),
    /// Something that cannot be read.
    Unreadable {
        /// Why it cannot be read.
        reason: String,
        /// Its body as it is.
        body: Bytes,
    },
    /// Nothing for this reader up to here.
    Nothing,
}

/// What goes along with a dead letter that was sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Where whoever sent it wants to hear what became of it.
    pub reply: Option<Arc<str>>,
}

/// What became of a dead letter that was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replayed {
    /// The target has it.
    Written,
    /// The target has refused it again, and it is a dead letter again.
    Refused,
    /// It was not written: its letter was gone, because the document has changed or was deleted since,
    /// or somebody has removed the letter.
    Superseded,
}

impl Replayed {
    /// The name in metrics and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Replayed::Written => "written",
            Replayed::Refused => "refused",
            Replayed::Superseded => "superseded",
        }
    }
}

/// How long a reader may still act. A bulk must be answered before it ends, so that a reader that
/// was paused and replaced cannot write over its successor.
#[derive(Debug, Clone)]
pub struct Tenure(Option<watch::Receiver<Instant>>);

impl Tenure {
    /// A tenure that nobody can take away: the reader is alone by construction.
    pub fn unlimited() -> Tenure {
        Tenure(None)
    }

    /// A tenure that ends at the instant last sent.
    pub fn until(end: watch::Receiver<Instant>) -> Tenure {
        Tenure(Some(end))
    }

    /// Resolves when no more than `margin` is left of it. One that is renewed in time, or has no end,
    /// never resolves.
    pub async fn nearly_over(&self, margin: Duration) {
        let Some(mut end) = self.0.clone() else {
            return std::future::pending().await;
        };
        loop {
            let until = *end.borrow_and_update();
            let rest = until.saturating_duration_since(Instant::now() + margin);
            let renewed = tokio::time::timeout(rest, end.changed()).await;
            match renewed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return tokio::time::sleep(rest).await, // nobody renews it any more
                Err(_) => return,
            }
        }
    }

    /// What is left of it; `None` when it has no end.
    pub fn remaining(&self) -> Option<Duration> {
        let end = *self.0.as_ref()?.borrow();
        Some(end.saturating_duration_since(Instant::now()))
    }
}

/// Where changes are written.
///
/// Called by several lanes at once, never twice at once for the same document.
pub trait Writer: Send + Sync + 'static {
    /// Writes changes of one index, no document twice, and says for each what became of it. An error
    /// is about the whole call: nothing is known to be written. Nothing may begin to be written later than
    /// `deadline` from now. A call that takes longer goes on while the tenure is renewed, and is dropped
    /// before it ends; then nothing is known, either.
    fn write(
        &self,
        index: &IndexName,
        changes: &[&Change],
        deadline: Option<Duration>,
    ) -> impl Future<Output = Result<Vec<Outcome>, Fault>> + Send;

    /// Makes the index ready for the documents that follow: creates it, or adds what it lacks. Returns in
    /// how many ways it differs from the definition and stays so.
    fn define(
        &self,
        index: &IndexName,
        definition: &IndexDefinition,
    ) -> impl Future<Output = Result<usize, Fault>> + Send;

    /// Removes every document of the index whose version is not above `upto`. Called by itself: nothing
    /// is under way, and nothing is written meanwhile. An index that is not there has none. May be
    /// repeated after a part of it was done. No request outlives `tenure`.
    fn clear(
        &self,
        index: &IndexName,
        upto: Version,
        tenure: &Tenure,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Remembers at the target up to which version of its history each of these indices is there, for those who
    /// wait for it. Called when that is so; never lowers what is remembered. The method with a body suits a
    /// target of which nobody asks that.
    fn reached(
        &self,
        _indices: &[(IndexName, Version)],
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        std::future::ready(Ok(()))
    }
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was written.
    Applied,
    /// The target already held this version, or a newer one that is not known.
    AlreadyApplied,
    /// The target holds this higher version.
    Superseded(u64),
    /// Not now: the target was busy or unavailable, for the reason given.
    Retry(String),
    /// Never: the target refuses this document, for the reason given.
    Refused(String),
}

/// What happens to a change that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It ends here.
    Drop,
}

/// Decides which changes go on. Pure: the same change always gets the same verdict.
pub trait Filter: Send + Sync {
    /// The verdict on one change of an index.
    fn evaluate(&self, index: &IndexName, change: &Change) -> Verdict;
}

/// Where changes go that the target refuses.
///
/// A document has at most one letter, that of its newest refused change, for as long as nothing newer of
/// it is at the target. Called by several lanes at once, never twice at once for the same document. The
/// methods with a body suit letters that are never sent again.
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps a letter durably. The floor moves past the change only after this. It takes the place of the
    /// document's letter, unless that is of a newer change and so stands for this one too.
    fn park(&self, letter: DeadLetter) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Whether there is certainly no letter at all.
    fn is_empty(&self) -> bool {
        true
    }

    /// Whether there may be a letter of the change's document; `false` is certain. Asked for every
    /// change that is written, so it answers from memory.
    fn may_hold(&self, _index: &IndexName, _change: &Change) -> bool {
        false
    }

    /// Whether there is a letter of this very change, which alone lets a replay of it go on.
    fn is_parked(
        &self,
        _index: &IndexName,
        _change: &Change,
    ) -> impl Future<Output = Result<bool, Fault>> + Send {
        std::future::ready(Ok(false))
    }

    /// Removes the letter of the change's document, unless it is of a newer change: the target has this
    /// one or what came after it. The floor moves past the change only after this.
    fn settle(
        &self,
        _index: &IndexName,
        _change: &Change,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        std::future::ready(Ok(()))
    }

    /// Removes the letters of an index whose changes are not above `upto`: their documents are gone. The
    /// floor moves past what removed them only after this.
    fn clear(
        &self,
        _index: &IndexName,
        _upto: Version,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        std::future::ready(Ok(()))
    }

    /// Is told what became of a letter that was sent again. Returns at once.
    fn replayed(&self, _replay: &Replay, _outcome: Replayed) {}
}

/// A change that could not be written, with the reason.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The entry of the log it came from.
    pub sequence: u64,
    /// The subject of that entry; `None` where the log has no subjects.
    pub subject: Option<Arc<str>>,
    /// The index, or the subject where even that could not be read.
    pub index: String,
    /// The change; `None` where the entry could not be read.
    pub change: Option<Change>,
    /// The original bytes where the entry could not be read.
    pub body: Bytes,
    /// Why.
    pub reason: String,
}

/// Remembers the epochs of sources outside of a process and its disk, which can be lost.
pub trait Registry: fmt::Debug + Send + Sync {
    /// What is known of an index of the source called `source` (see [`Lineage::source`]).
    fn known<'a>(
        &'a self,
        source: &'a str,
        index: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>>;

    /// Remembers a lineage before anything is published under its epochs. Returns what is known
    /// then: an epoch in it may be higher.
    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>>;
}

/// Remembers nothing.
impl Registry for () {
    fn known<'a>(
        &'a self,
        _: &'a str,
        _: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>> {
        Box::pin(std::future::ready(Ok(lineage.clone())))
    }
}

/// Is told what the loops do: metrics, progress bars and benchmarks hang here. Called on the hot
/// path, so it must return at once.
pub trait Observer: Send + Sync + 'static {
    /// The log has this batch.
    fn published(&self, _batch: &Batch) {}

    /// A change of a batch was answered for; the outcome is never `Retry`. A change that a newer one
    /// in the same bulk made superfluous counts as `AlreadyApplied`.
    fn settled(&self, _batch: &Batch, _change: &Change, _outcome: &Outcome) {}

    /// A dead letter that was sent again was answered for. One that was written or refused has been
    /// reported by `settled`, too.
    fn replayed(&self, _batch: &Batch, _outcome: Replayed) {}

    /// Something failed and is tried again after a pause.
    fn retrying(&self, _what: &'static str, _reason: &dyn std::fmt::Display, _pause: Duration) {}

    /// What failed has worked again.
    fn recovered(&self, _what: &'static str) {}

    /// The loop has come round, with or without work. Called at least every few seconds.
    fn alive(&self) {}

    /// So many entries of the log wait to be read. Called together with `alive`.
    fn pending(&self, _entries: u64) {}

    /// An index differs in so many ways from what its source says it looks like, and stays so.
    fn drift(&self, _index: &IndexName, _differences: usize) {}

    /// So many bulks may be under way at once, as the target is taking them.
    fn concurrency(&self, _bulks: usize) {}

    /// How much has been read and is not settled yet, in entries and bytes.
    fn in_flight(&self, _entries: usize, _bytes: usize) {}
}

impl Observer for () {}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_tenure_is_nearly_over_only_when_nobody_renews_it() {
        let margin = Duration::from_secs(10);
        let (renew, end) = watch::channel(Instant::now() + margin * 9);
        let tenure = Tenure::until(end);
        let mut over = Box::pin(tenure.nearly_over(margin));
        assert!(over.as_mut().now_or_never().is_none());
        renew.send_replace(Instant::now() + margin * 99);
        assert!(over.as_mut().now_or_never().is_none());
        renew.send_replace(Instant::now() + margin / 2);
        over.await;
        assert!(
            Tenure::unlimited()
                .nearly_over(margin)
                .now_or_never()
                .is_none()
        );
    }
}
