//! Looking at all shards at once, again and again, and a reader for every shard there is.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{IndexDefinition, IndexName};
use pipeline::Fault;
use runtime::backoff::Backoff;
use search::{Error, IndexInfo, ShardStats, Uncapturable};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{
    Capture, Look,
    beginning::{Beginning, say_farewell},
    definitions::Follower,
    identity::Identity,
    inheritance::{Read, inherit},
    pace::Pace,
    refresh::{Refresher, refresh_interval},
    shard::{ShardReader, Shared},
};
use crate::{
    checkpoint::ShardKey,
    error::{WatchError, fault},
};

/// How often indices are looked for.
const DISCOVERY: Duration = Duration::from_secs(3);

/// Watches until it is dropped; without `follow`, until every shard is read.
pub(crate) async fn watch(capture: Arc<Capture>) -> Result<(), Fault> {
    let empty = Look {
        number: 0,
        asked: Instant::now(),
        shards: HashMap::new(),
        definitions: Arc::default(),
    };
    let (looks, _) = watch::channel(Arc::new(empty));
    let mut watcher = Watcher {
        capture,
        looks,
        indices: HashMap::new(),
        refused: HashSet::new(),
        readers: JoinSet::new(),
        discovered: None,
        definitions: Follower::new(),
    };
    watcher.run().await
}

struct Watcher {
    capture: Arc<Capture>,
    looks: watch::Sender<Arc<Look>>,
    /// By UUID: a recreated index is another one.
    indices: HashMap<String, Watched>,
    /// The UUIDs of indices that were found and cannot be captured.
    refused: HashSet<String>,
    readers: JoinSet<Result<(), Fault>>,
    discovered: Option<Instant>,
    definitions: Follower,
}

/// An index that is read.
struct Watched {
    name: IndexName,
    /// A closed one is not looked at: it keeps its readers, which wait until it is opened.
    open: bool,
    reader: AbortHandle,
}

impl Watcher {
    async fn run(&mut self) -> Result<(), Fault> {
        let mut pace = Pace::new(self.capture.options.poll_interval);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let pause = match self.round().await {
                Ok(moved) => {
                    backoff.reset();
                    self.capture.observer.fine();
                    pace.next(moved, self.capture.cost.take())
                }
                Err(error) if is_passing(&error) => {
                    self.discovered = None;
                    let pause = backoff.next_delay();
                    self.capture.observer.trouble("source", &error, pause);
                    pause
                }
                Err(error) => return Err(error.into()),
            };
            if self.readers.is_empty() && !self.capture.options.follow {
                return Ok(());
            }
            self.rest(pause).await?;
        }
    }

    /// Waits for the next look, and takes notice of readers that end.
    async fn rest(&mut self, pause: Duration) -> Result<(), Fault> {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return Ok(()),
                Some(ended) = self.readers.join_next() => match ended {
                    Ok(result) => result?,
                    Err(error) if error.is_cancelled() => {}
                    Err(panic) => return Err(Fault::fatal(panic)),
                },
            }
        }
    }

    /// One look; says whether anything has moved since the last.
    async fn round(&mut self) -> Result<bool, WatchError> {
        let once = !self.capture.options.follow;
        if self
            .discovered
            .is_none_or(|at| !once && at.elapsed() > DISCOVERY)
        {
            self.discover().await?;
            self.discovered = Some(Instant::now());
        }
        let open = self.indices.values().filter(|watched| watched.open);
        let names: Vec<&IndexName> = open.map(|watched| &watched.name).collect();
        if names.is_empty() {
            return Ok(false);
        }
        let asked = Instant::now();
        let stats = self.capture.client.shard_stats(&names).await?;
        self.capture.cost.add(asked.elapsed());
        let shards: HashMap<_, _> = stats
            .into_iter()
            .map(|stats| ((stats.index.clone(), stats.shard), stats))
            .collect();
        let before = Arc::clone(&self.looks.borrow());
        let has_moved = |(key, stats): &(&(IndexName, u32), &ShardStats)| {
            let known = before.shards.get(key);
            known.is_none_or(|known| known.global_checkpoint != stats.global_checkpoint)
        };
        let moved: HashSet<&str> = shards
            .iter()
            .filter(has_moved)
            .map(|(_, stats)| stats.index_uuid.as_str())
            .collect();
        // After the statistics: whatever they count was written under these definitions or earlier ones.
        let watched: Vec<(&str, &IndexName)> = self
            .indices
            .iter()
            .filter(|(_, watched)| watched.open)
            .map(|(uuid, watched)| (uuid.as_str(), &watched.name))
            .collect();
        let changed = self
            .definitions
            .look(&self.capture, &watched, &moved)
            .await?;
        let mut definitions = Arc::clone(&before.definitions);
        if !changed.is_empty() {
            let mut all = definitions.as_ref().clone();
            all.extend(changed);
            definitions = Arc::new(all);
        }
        let moved = !moved.is_empty();
        let look = Look {
            number: before.number + 1,
            asked,
            shards,
            definitions,
        };
        self.looks.send_replace(Arc::new(look));
        Ok(moved)
    }

    /// Starts readers for new indices and ends those of indices that are gone.
    async fn discover(&mut self) -> Result<(), WatchError> {
        let capture = Arc::clone(&self.capture);
        let patterns = &capture.options.indices;
        let found = capture.client.list_indices(patterns).await?;
        let here: HashSet<&str> = found.iter().map(|index| index.uuid.as_str()).collect();
        let watched = self.indices.iter();
        let gone = watched.filter(|(uuid, _)| !here.contains(uuid.as_str()));
        let gone: Vec<String> = gone.map(|(uuid, _)| uuid.clone()).collect();
        for uuid in gone {
            let Some(watched) = self.indices.remove(&uuid) else {
                continue;
            };
            // Whatever has its name now: the target has a part of this one.
            if !capture.options.follow && !watched.reader.is_finished() {
                return Err(WatchError::Gone {
                    index: watched.name,
                });
            }
            tracing::info!(index = %watched.name, "index is gone");
            self.definitions.forget(&uuid);
            watched.reader.abort();
            if let Err(fault) = say_farewell(&capture, &watched.name, &uuid).await {
                tracing::warn!(index = %watched.name, %fault, "its aliases at the target stay as they are");
            }
        }
        let mut readable = 0;
        for index in found {
            readable += usize::from(self.start(index).await?);
        }
        if readable == 0 {
            return Err(WatchError::NoIndex {
                patterns: patterns.to_string(),
                cluster: capture.client.server().cluster_name.clone(),
                waits: capture.options.follow,
            });
        }
        Ok(())
    }

    /// Starts the readers of an index, unless they run or it cannot be captured.
    async fn start(&mut self, index: IndexInfo) -> Result<bool, WatchError> {
        if let Some(watched) = self.indices.get_mut(&index.uuid) {
            match (watched.open, index.open) {
                (true, false) => {
                    tracing::warn!(index = %index.name, "index is closed: it is read on when it is opened")
                }
                (false, true) => tracing::info!(index = %index.name, "index is open again"),
                _ => {}
            }
            watched.open = index.open;
            return Ok(true);
        }
        if let Some(reason) = index.uncapturable() {
            // What can change by itself is waited for, as an index is that is not there yet.
            let waits = reason == Uncapturable::Closed && self.capture.options.follow;
            if !waits
                && self
                    .capture
                    .options
                    .indices
                    .names()
                    .any(|name| name == index.name.as_str())
            {
                return Err(WatchError::Uncapturable {
                    index: index.name,
                    reason,
                });
            }
            if self.refused.insert(index.uuid) {
                tracing::error!(index = %index.name, %reason, "index is left out: it cannot be captured");
                self.capture.observer.left_out(&index.name);
            }
            return Ok(false);
        }
        self.refused.remove(&index.uuid);
        let definition = self.capture.client.definition(&index.name).await?;
        self.capture.observer.found(&index);
        let (capture, looks) = (Arc::clone(&self.capture), self.looks.subscribe());
        let (name, uuid) = (index.name.clone(), index.uuid.clone());
        let reader = self
            .readers
            .spawn(read_index(capture, index, definition, looks));
        let watched = Watched {
            name,
            open: true,
            reader,
        };
        self.indices.insert(uuid, watched);
        Ok(true)
    }
}

/// Reads the shards of an index side by side.
async fn read_index(
    capture: Arc<Capture>,
    index: IndexInfo,
    definition: IndexDefinition,
    looks: watch::Receiver<Arc<Look>>,
) -> Result<(), Fault> {
    let (name, uuid) = (index.name, index.uuid);
    let interval = refresh_interval(definition.settings.get());
    let (read, reading) = watch::channel(Read::new());
    let shared = Arc::new(Shared {
        refresher: Refresher::new(name.clone(), uuid.clone(), interval),
        beginning: Beginning::new(name.clone(), uuid.clone(), index.shards, definition),
        identity: Identity::new(name.clone()),
        read,
    });
    let mut shards = JoinSet::new();
    for shard in 0..index.shards {
        let key = ShardKey {
            index: name.clone(),
            shard,
        };
        let (capture, shared) = (Arc::clone(&capture), Arc::clone(&shared));
        let reader = ShardReader::new(capture, shared, key, uuid.clone(), looks.clone());
        shards.spawn(reader.run());
    }
    drop(shared); // the inheritance ends with the readers
    if let Some(ledger) = capture.ledger.clone() {
        shards.spawn(inherit(
            Arc::clone(&capture),
            ledger,
            name.clone(),
            uuid,
            index.shards,
            reading,
        ));
    }
    while let Some(ended) = shards.join_next().await {
        ended.unwrap_or_else(|panic| Err(Fault::fatal(panic)))?;
    }
    capture.observer.read(&name);
    Ok(())
}

/// Whether a failed look is followed by another. An index that was deleted or closed since it was found
/// is not looked at the next time.
fn is_passing(error: &WatchError) -> bool {
    match error {
        WatchError::Search(Error::IndexNotFound { .. } | Error::IndexClosed { .. }) => true,
        WatchError::Search(error) => {
            search::retry::classify(error) == search::retry::Decision::Retry
        }
        WatchError::NoIndex { waits, .. } => *waits,
        WatchError::Uncapturable { .. } | WatchError::Gone { .. } => false,
    }
}

impl From<WatchError> for Fault {
    fn from(error: WatchError) -> Fault {
        match error {
            WatchError::Search(error) => fault(error),
            error => Fault::fatal(error),
        }
    }
}
