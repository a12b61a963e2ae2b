//! Noticing that an index's mapping, settings or aliases have changed.
//!
//! The cluster's state has numbers that rise with every change. They are asked for after the
//! statistics of a look, for the indices that have moved, and now and then for all: so a definition
//! is known before any document is read that needs it. Whoever may not see the cluster's state has
//! the definitions themselves compared, now and then.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{IndexDefinition, IndexName};
use search::{DefinitionVersion, Error};
use xxhash_rust::xxh3::xxh3_64;

use super::Capture;
use crate::error::WatchError;

/// How often indices are asked for that nothing was written to.
const ALL_EVERY: Duration = Duration::from_secs(10);
/// How often definitions are compared where their numbers may not be seen.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// What is known of the definitions of all watched indices.
#[derive(Debug)]
pub(super) struct Follower {
    known: HashMap<String, Known>,
    all_at: Instant,
    /// Whether the cluster's state may be seen.
    may_see: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Version(DefinitionVersion),
    Content(u64),
}

impl Follower {
    pub(super) fn new() -> Follower {
        Follower {
            known: HashMap::new(),
            all_at: Instant::now(),
            may_see: true,
        }
    }

    pub(super) fn forget(&mut self, uuid: &str) {
        self.known.remove(uuid);
    }

    /// The definitions, by UUID, that have changed since the last time.
    pub(super) async fn look(
        &mut self,
        capture: &Capture,
        watched: &[(&str, &IndexName)],
        moved: &HashSet<&str>,
    ) -> Result<HashMap<String, Arc<IndexDefinition>>, WatchError> {
        if !capture.options.follow {
            return Ok(HashMap::new()); // it was read a moment ago
        }
        let now = Instant::now();
        let all = now >= self.all_at;
        if all {
            self.all_at = now
                + if self.may_see {
                    ALL_EVERY
                } else {
                    COMPARE_EVERY
                };
        }
        let asked: Vec<(&str, &IndexName)> = watched
            .iter()
            .filter(|(uuid, _)| all || self.may_see && moved.contains(uuid))
            .copied()
            .collect();
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let looked = match self.may_see {
            true => self.versions(capture, &asked).await,
            false => self.contents(capture, &asked).await,
        };
        capture.cost.add(now.elapsed());
        match looked {
            Err(Error::Forbidden { .. }) if self.may_see => {
                self.may_see = false;
                tracing::info!(
                    "changes of mappings are noticed once a minute only: with the privilege cluster:monitor/state they \
                     are noticed before the documents that need them"
                );
                Ok(HashMap::new())
            }
            // Gone since the look; the next one knows.
            Err(Error::IndexNotFound { .. }) => Ok(HashMap::new()),
            looked => Ok(looked?),
        }
    }

    async fn versions(
        &mut self,
        capture: &Capture,
        asked: &[(&str, &IndexName)],
    ) -> Result<HashMap<String, Arc<IndexDefinition>>, Error> {
        let names: Vec<&IndexName> = asked.iter().map(|(_, name)| *name).collect();
        let versions = capture.client.definition_versions(&names).await?;
        let mut changed = HashMap::new();
        for (uuid, name) in asked {
            let Some(version) = versions.get(name.as_str()) else {
                continue;
            };
            let now = Known::Version(*version);
            match self.known.get(*uuid) {
                Some(known) if *known == now => {}
                // Even the first: it may have changed since the index was found.
                _ => {
                    let definition = capture.client.definition(name).await?;
                    changed.insert((*uuid).to_owned(), Arc::new(definition));
                    self.known.insert((*uuid).to_owned(), now);
                }
            }
        }
        Ok(changed)
    }

    async fn contents(
        &mut self,
        capture: &Capture,
        asked: &[(&str, &IndexName)],
    ) -> Result<HashMap<String, Arc<IndexDefinition>>, Error> {
        let mut changed = HashMap::new();
        for (uuid, name) in asked {
            let definition = capture.client.definition(name).await?;
            let aliases = definition
                .aliases
                .as_ref()
                .map_or("", |aliases| aliases.get());
            let text = [
                definition.mappings.get(),
                definition.settings.get(),
                aliases,
            ];
            let now = Known::Content(xxh3_64(text.concat().as_bytes()));
            if self.known.insert((*uuid).to_owned(), now) != Some(now) {
                changed.insert((*uuid).to_owned(), Arc::new(definition));
            }
        }
        Ok(changed)
    }
}
