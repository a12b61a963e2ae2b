//! From a source into a log: in order, several batches under way, nothing confirmed before the log
//! has it, and after a failure everything again that came after it. What says how far the source has come goes
//! when the log has all before it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use model::{Batch, Content};
use runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use crate::{Captured, ChangeSource, Fault, MessageSink, Observer};

/// How much may be under way.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// Batches.
    pub batches: usize,
    /// Bytes; one batch may always be under way, however large.
    pub bytes: usize,
}

impl Default for PublishOptions {
    fn default() -> Self {
        PublishOptions {
            batches: 256,
            bytes: 8 << 20,
        }
    }
}

/// Carries batches from `source` to `sink` until the source ends, something fails for good, or
/// `shutdown` is cancelled; then what is under way is awaited before it returns.
///
/// # Errors
/// The first fatal fault of either side.
pub async fn publish<S: ChangeSource, K: MessageSink>(
    source: &mut S,
    sink: &mut K,
    options: &PublishOptions,
    observer: &impl Observer,
    shutdown: &CancellationToken,
) -> Result<(), Fault> {
    let mut window = Window::new(observer);
    let mut ended = false;
    loop {
        if let Err(fault) = window.tell(sink).await {
            window.publish_again(sink, fault, shutdown).await?;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !ended => ended = true,
            stored = window.oldest_stored(), if !window.is_empty() => match stored {
                Ok(position) => source.confirm(position).await?,
                Err(fault) => window.publish_again(sink, fault, shutdown).await?,
            },
            captured = source.next(), if !ended && window.has_room(options) => match captured? {
                None => ended = true,
                Some(captured) => {
                    if let Err(fault) = window.push(sink, captured).await {
                        window.publish_again(sink, fault, shutdown).await?;
                    }
                }
            },
            else => return Ok(()),
        }
    }
}

/// Whether a batch says that everything before it is in the log. It must not get there although something
/// before it did not, so it waits until it is the oldest under way. What comes after it does not wait, and may be in
/// the log before it.
fn tells(batch: &Batch) -> bool {
    matches!(batch.content, Content::Reached(_))
}

/// The batches between source and log, oldest first.
struct Window<'a, P, R, O> {
    batches: VecDeque<UnderWay<P, R>>,
    bytes: usize,
    attempt: u64,
    backoff: Backoff,
    observer: &'a O,
}

struct UnderWay<P, R> {
    captured: Captured<P>,
    /// `None` while it is not handed to the log, and for an empty batch, which never is. One that [`tells`] has one
    /// before anybody waits for it.
    receipt: Option<R>,
}

impl<'a, P: Clone, R, O: Observer> Window<'a, P, R, O>
where
    R: Future<Output = Result<(), Fault>> + Unpin,
{
    fn new(observer: &'a O) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        Window {
            batches: VecDeque::new(),
            bytes: 0,
            attempt: 0,
            backoff,
            observer,
        }
    }

    fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn has_room(&self, options: &PublishOptions) -> bool {
        self.is_empty() || (self.batches.len() < options.batches && self.bytes < options.bytes)
    }

    async fn push<K: MessageSink<Receipt = R>>(
        &mut self,
        sink: &mut K,
        captured: Captured<P>,
    ) -> Result<(), Fault> {
        let batch = Arc::clone(&captured.batch);
        self.bytes += batch.size();
        self.batches.push_back(UnderWay {
            captured,
            receipt: None,
        });
        if !batch.is_empty() && (K::IS_CERTAIN || !tells(&batch)) {
            let receipt = sink.publish(&batch, self.attempt).await?;
            if let Some(newest) = self.batches.back_mut() {
                newest.receipt = Some(receipt);
            }
        }
        Ok(())
    }

    /// Hands on what tells that everything before it is in the log, where that is so.
    async fn tell<K: MessageSink<Receipt = R>>(&mut self, sink: &mut K) -> Result<(), Fault> {
        for under_way in &mut self.batches {
            let batch = &under_way.captured.batch;
            if !tells(batch) {
                break;
            }
            if under_way.receipt.is_none() {
                under_way.receipt = Some(sink.publish(batch, self.attempt).await?);
            }
        }
        Ok(())
    }

    /// Waits until the log has the oldest batch and takes it from the window. Cancel safe.
    async fn oldest_stored(&mut self) -> Result<P, Fault> {
        let oldest = self
            .batches
            .front_mut()
            .expect("only called while a batch is under way");
        if let Some(receipt) = &mut oldest.receipt {
            receipt.await?;
        }
        let stored = self.batches.pop_front().expect("it was there a line ago");
        self.bytes -= stored.captured.batch.size();
        self.backoff.reset();
        self.observer.published(&stored.captured.batch);
        Ok(stored.captured.position)
    }

    /// Forgets what the log does not take while the process stops. None of it was confirmed, so the
    /// source yields it again to the next.
    fn give_up(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    /// Hands everything under way to the log once more, in order, until the log has taken it all.
    ///
    /// Only the failed batch alone would not do: had a later one been stored already, the older
    /// would come after it, and a reader would see a deleted document return.
    async fn publish_again<K: MessageSink<Receipt = R>>(
        &mut self,
        sink: &mut K,
        mut fault: Fault,
        shutdown: &CancellationToken,
    ) -> Result<(), Fault> {
        'again: loop {
            if !fault.is_retryable() {
                return Err(fault);
            }
            if shutdown.is_cancelled() {
                self.give_up();
                return Ok(());
            }
            let pause = self.backoff.next_delay();
            self.observer.retrying("publish", &fault, pause);
            tokio::select! {
                () = shutdown.cancelled() => continue,
                () = tokio::time::sleep(pause) => {}
            }
            self.attempt += 1;
            let mut is_oldest = true;
            for under_way in &mut self.batches {
                let batch = &under_way.captured.batch;
                is_oldest &= tells(batch);
                if batch.is_empty() || (tells(batch) && !is_oldest && !K::IS_CERTAIN) {
                    under_way.receipt = None;
                    continue;
                }
                match sink.publish(batch, self.attempt).await {
                    Ok(receipt) => under_way.receipt = Some(receipt),
                    Err(again) => {
                        fault = again;
                        continue 'again;
                    }
                }
            }
            return Ok(());
        }
    }
}
