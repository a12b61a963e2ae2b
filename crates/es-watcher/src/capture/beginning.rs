//! How the reading of an index begins: its histories get their epochs, and the target is told what
//! the index looks like and where it comes from, before the first document.

use std::{collections::BTreeMap, future::ready, sync::Arc, time::Duration};

use model::{Batch, Content, IndexDefinition, IndexName, Lineage, Origin, source_of};
use pipeline::{Captured, Fault};
use runtime::backoff::Backoff;
use tokio::sync::Mutex;

use search::Error;

use super::{Capture, Look};
use crate::{
    checkpoint::{Checkpoint, History, ShardKey},
    error::fault,
    ledger::Noted,
};

/// What the shards of one index begin with.
pub(crate) struct Beginning {
    index: IndexName,
    index_uuid: String,
    shards: u32,
    state: Mutex<State>,
}

struct State {
    definition: Arc<IndexDefinition>,
    /// What the target was told, once it was.
    said: Option<Lineage>,
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
            state: Mutex::new(State {
                definition: Arc::new(definition),
                said: None,
            }),
        }
    }

    /// How many shards the index has.
    pub(crate) fn shards(&self) -> u32 {
        self.shards
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
        let mut state = self.state.lock().await;
        let is_known = state
            .said
            .as_ref()
            .is_some_and(|said| said.epoch_of(&history.history_uuid).is_some());
        if !is_known {
            let mut lineage = self.lineage(capture, look, shard, history).await?;
            lineage = retry(capture, "epochs", || capture.registry.record(&lineage)).await?;
            self.say(capture, &state.definition, &lineage).await?;
            state.said = Some(lineage);
        }
        let known = state.said.as_ref().expect("it was filled above");
        begin(capture, shard, history, known).await
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
        let mut state = self.state.lock().await;
        let mut lineage = self.lineage(capture, look, shard, history).await?;
        let renewed = lineage.renew(&history.history_uuid);
        renewed.map_err(Fault::fatal)?;
        lineage = retry(capture, "epochs", || capture.registry.record(&lineage)).await?;
        self.say(capture, &state.definition, &lineage).await?;
        let begun = begin(capture, shard, history, &lineage).await;
        state.said = Some(lineage);
        begun
    }

    /// Tells the target what a look has shown of the index's definition, if that has changed. To be
    /// called before anything is read under that look: documents that need a new field come after it.
    pub(crate) async fn follow(&self, capture: &Capture, look: &Look) -> Result<(), Fault> {
        let Some(definition) = look.definition(&self.index_uuid) else {
            return Ok(());
        };
        let mut state = self.state.lock().await;
        if Arc::ptr_eq(&state.definition, definition) {
            return Ok(());
        }
        if let Some(lineage) = state
            .said
            .as_ref()
            .filter(|_| !is_same(&state.definition, definition))
        {
            tracing::info!(index = %self.index, "its mapping, settings or aliases have changed");
            self.say(capture, definition, lineage).await?;
        }
        state.definition = Arc::clone(definition);
        Ok(())
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
        let known = retry(capture, "epochs", || {
            capture.registry.known(&source, &self.index)
        })
        .await?;
        // Another source's says nothing here; the writer refuses to mix the two.
        let known = known.filter(|known| known.source == source);
        let mut lineage = known.unwrap_or_else(|| Lineage::of(source));
        for (shard, history) in &histories {
            let shard = Arc::new(ShardKey {
                index: self.index.clone(),
                shard: *shard,
            });
            let began = begin(capture, &shard, history, &lineage).await?;
            lineage.merge(&history.at(&shard, began.epoch));
        }
        Ok(lineage)
    }

    async fn say(
        &self,
        capture: &Capture,
        definition: &IndexDefinition,
        lineage: &Lineage,
    ) -> Result<(), Fault> {
        let index = (&self.index, self.index_uuid.as_str());
        say(capture, index, definition, Some(lineage.clone())).await
    }
}

/// Tells the target of an index that is watched no more what it looks like now: an alias for which it
/// was watched has left it. Nothing where the index is gone.
pub(super) async fn say_farewell(
    capture: &Capture,
    index: &IndexName,
    uuid: &str,
) -> Result<(), Fault> {
    retry(capture, "definition", async || {
        let definition = match capture.client.definition(index).await {
            Ok(definition) => definition,
            Err(Error::IndexNotFound { .. }) => return Ok(()),
            Err(error) => return Err(fault(error)),
        };
        if !definition.settings.get().contains(uuid) {
            return Ok(()); // another one has its name
        }
        let source = source_of(&capture.client.server().cluster_uuid, index);
        let known = capture.registry.known(&source, index).await?;
        let known = known.filter(|known| known.source == source);
        say(capture, (index, uuid), &definition, known).await
    })
    .await
}

async fn say(
    capture: &Capture,
    (index, uuid): (&IndexName, &str),
    definition: &IndexDefinition,
    lineage: Option<Lineage>,
) -> Result<(), Fault> {
    let definition = IndexDefinition {
        lineage,
        ..definition.clone()
    };
    let batch = Batch {
        index: index.clone(),
        origin: Origin::now(format!("elasticsearch/{uuid}").into()),
        content: Content::Definition(definition),
    };
    let captured = Captured {
        batch: Arc::new(batch),
        position: Checkpoint::none(index),
    };
    capture.stage.put(Noted::Other(captured)).await
}

/// Whether two definitions say the same, to the letter.
fn is_same(one: &IndexDefinition, other: &IndexDefinition) -> bool {
    let text = |definition: &IndexDefinition| {
        let aliases = definition.aliases.as_ref();
        [
            definition.mappings.get().to_owned(),
            definition.settings.get().to_owned(),
            aliases.map_or(String::new(), |aliases| aliases.get().to_owned()),
        ]
    };
    text(one) == text(other)
}

/// Where to start reading a shard, as soon as the store can be written.
async fn begin(
    capture: &Capture,
    shard: &Arc<ShardKey>,
    history: &History,
    known: &Lineage,
) -> Result<Checkpoint, Fault> {
    retry(capture, "checkpoint", || {
        ready(
            capture
                .checkpoints
                .begin(shard, history, known)
                .map_err(Fault::from),
        )
    })
    .await
}

/// Does something until it works.
pub(super) async fn retry<T, F>(
    capture: &Capture,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match attempt().await {
            Ok(answer) => {
                if backoff.attempts() > 0 {
                    capture.observer.recovered(what);
                }
                return Ok(answer);
            }
            Err(fault) if fault.is_retryable() => {
                let pause = backoff.next_delay();
                capture.observer.trouble(what, &fault, pause);
                tokio::time::sleep(pause).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}
