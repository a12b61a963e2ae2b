//! A log within one process: for a copy from source to target with nothing between.
//!
//! It has no memory of its own. A batch counts as durable only when the reader has settled it, so a
//! position is confirmed to the source when the target has everything up to it.

use std::{future::Future, pin::Pin, sync::Arc};

use model::Batch;
use tokio::sync::{mpsc, watch};

use crate::{Delivery, Fault, MessageSink, MessageSource, Payload, Tenure};

/// Both ends of a log in memory that holds `capacity` batches.
pub fn channel(capacity: usize) -> (ChannelSink, ChannelSource) {
    let (batches, incoming) = mpsc::channel(capacity);
    let (settled, floor) = watch::channel(0);
    let sink = ChannelSink {
        batches,
        floor,
        sequence: 0,
    };
    (sink, ChannelSource { incoming, settled })
}

/// The writing end. The log ends when it is dropped.
#[derive(Debug)]
pub struct ChannelSink {
    batches: mpsc::Sender<(u64, Arc<Batch>)>,
    floor: watch::Receiver<u64>,
    sequence: u64,
}

/// The reading end.
#[derive(Debug)]
pub struct ChannelSource {
    incoming: mpsc::Receiver<(u64, Arc<Batch>)>,
    settled: watch::Sender<u64>,
}

impl MessageSink for ChannelSink {
    type Receipt = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

    const IS_CERTAIN: bool = true;

    async fn publish(&mut self, batch: &Arc<Batch>, _: u64) -> Result<Self::Receipt, Fault> {
        self.sequence += 1;
        let sequence = self.sequence;
        let entry = (sequence, Arc::clone(batch));
        self.batches.send(entry).await.map_err(|_| reader_gone())?;
        let mut floor = self.floor.clone();
        Ok(Box::pin(async move {
            let reached = floor.wait_for(|floor| *floor >= sequence).await;
            reached.map(|_| ()).map_err(|_| reader_gone())
        }))
    }
}

fn reader_gone() -> Fault {
    Fault::fatal("the writing half of the process has ended")
}

impl MessageSource for ChannelSource {
    async fn next(&mut self) -> Result<Option<Delivery>, Fault> {
        let entry = self.incoming.recv().await;
        Ok(entry.map(|(sequence, batch)| Delivery {
            sequence,
            subject: None,
            payload: Payload::Batch(batch),
        }))
    }

    async fn commit(&mut self, floor: u64) -> Result<(), Fault> {
        self.settled.send_replace(floor);
        Ok(())
    }

    /// Whoever waits for what was not settled hears that nobody will settle it.
    async fn close(&mut self) -> Result<(), Fault> {
        self.incoming.close();
        self.settled = watch::Sender::new(0);
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.incoming.len() as u64
    }

    fn tenure(&self) -> Tenure {
        Tenure::unlimited()
    }
}
