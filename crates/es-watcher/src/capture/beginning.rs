//! How the reading of an index begins: its histories get their epochs, and the target is told what
//! the index looks like and where it comes from, before the first document.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{Batch, Content, IndexDefinition, IndexName, Lineage, Origin, source_of};
use pipeline::{Captured, Fault};
use runtime::backoff::Backoff;
use tokio::sync::Mutex;

use super::{Capture, Look};
use crate::{
    checkpoint::{Checkpoint, History, ShardKey},
    ledger::Noted,
};

/// What the shards of one index begin with.
pub(crate) struct Beginning {
    index: IndexName,
    index_uuid: String,
    shards: u32,
    definition: IndexDefinition,
    said: Mutex<Option<Lineage>>,
}

impl Beginning {
    pub(crate) fn new(
        index: IndexName,
        index_uuid: String,
        shards: u32,
        definition: IndexDefinition,
    ) -> Beginning {
        Beginning {
            index,
            index_uuid,
            shards,
            definition,
            said: Mutex::new(None),
        }
    }

    /// Where to start reading a shard's history. Returns after what the target has to know before is
    /// on its way.
    pub(crate) async fn of(
        &self,
        capture: &Capture,
        look: &Look,
        shard: &Arc<ShardKey>,
        history: &History,
    ) -> Result<Checkpoint, Fault> {
        // One after the other: the first sees to all shards that are there.
        let mut said = self.said.lock().await;
        let is_known = said
            .as_ref()
            .is_some_and(|said| said.epoch_of(&history.history_uuid).is_some());
        if !is_known {
            let mut lineage = self.lineage(capture, look, shard, history).await?;
            lineage = retry(capture, || capture.registry.record(&lineage)).await?;
            self.say(capture, &lineage).await?;
            *said = Some(lineage);
        }
        let known = said.as_ref().expect("it was filled above");
        let begun = capture.checkpoints.begin(shard, history, known);
        begun.map_err(Fault::fatal)
    }

    /// Where to start reading a history that was taken back to an earlier state: at its beginning, under
    /// an epoch above all, for its numbers are given a second time. Returns after the target was told.
    pub(crate) async fn anew(
        &self,
        capture: &Capture,
        look: &Look,
        shard: &Arc<ShardKey>,
        history: &History,
    ) -> Result<Checkpoint, Fault> {
        let mut said = self.said.lock().await;
        let mut lineage = self.lineage(capture, look, shard, history).await?;
        let renewed = lineage.renew(&history.history_uuid);
        renewed.map_err(Fault::fatal)?;
        lineage = retry(capture, || capture.registry.record(&lineage)).await?;
        self.say(capture, &lineage).await?;
        let begun = capture.checkpoints.begin(shard, history, &lineage);
        *said = Some(lineage);
        begun.map_err(Fault::fatal)
    }

    /// The histories of all shards that have a primary.
    fn histories(&self, look: &Look) -> BTreeMap<u32, History> {
        let found = (0..self.shards).filter_map(|shard| {
            let stats = look.shard(&self.index, &self.index_uuid, shard)?;
            let history = History {
                index_uuid: self.index_uuid.clone(),
                history_uuid: stats.history_uuid.clone(),
            };
            Some((shard, history))
        });
        found.collect()
    }

    /// The epochs of a history and of those of all other shards that have a primary.
    async fn lineage(
        &self,
        capture: &Capture,
        look: &Look,
        shard: &ShardKey,
        history: &History,
    ) -> Result<Lineage, Fault> {
        let mut histories = self.histories(look);
        histories.insert(shard.shard, history.clone());
        let source = source_of(&capture.client.server().cluster_uuid, &self.index);
        let known = retry(capture, || capture.registry.known(&source, &self.index)).await?;
        // Another source's says nothing here; the writer refuses to mix the two.
        let known = known.filter(|known| known.source == source);
        let mut lineage = known.unwrap_or_else(|| Lineage::of(source));
        for (shard, history) in &histories {
            let shard = Arc::new(ShardKey {
                index: self.index.clone(),
                shard: *shard,
            });
            let began = capture.checkpoints.begin(&shard, history, &lineage);
            lineage.merge(&history.at(&shard, began.map_err(Fault::fatal)?.epoch));
        }
        Ok(lineage)
    }

    async fn say(&self, capture: &Capture, lineage: &Lineage) -> Result<(), Fault> {
        let definition = IndexDefinition {
            lineage: Some(lineage.clone()),
            ..self.definition.clone()
        };
        let batch = Batch {
            index: self.index.clone(),
            origin: Origin::now(format!("elasticsearch/{}", self.index_uuid).into()),
            content: Content::Definition(definition),
        };
        let captured = Captured {
            batch: Arc::new(batch),
            position: Checkpoint::none(&self.index),
        };
        capture.stage.put(Noted::Other(captured)).await
    }
}

/// Asks until it is answered.
async fn retry<T, F>(capture: &Capture, ask: impl Fn() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match ask().await {
            Ok(answer) => {
                if backoff.attempts() > 0 {
                    capture.observer.recovered("epochs");
                }
                return Ok(answer);
            }
            Err(fault) if fault.is_retryable() => {
                let pause = backoff.next_delay();
                capture.observer.trouble("epochs", &fault, pause);
                tokio::time::sleep(pause).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}
