//! An index on one side: what there is to read of it.

use std::{sync::Arc, time::Duration};

use model::IndexName;
use runtime::backoff::Backoff;
use search::{Client, Error, IndexInfo, IndexPatterns, ShardStats, retry};

use runtime::throttle::Throttle;

use crate::{Lens, Progress, Side, VerifyError, scroll::Scrolls};

/// How often in a row something may fail that could pass by itself: half a minute or so.
const ATTEMPTS: u32 = 12;
/// The fewest sequence numbers that are worth a part of their own.
const PART: i64 = 50_000;

/// The index of a comparison on one side. Where a target has no such index, it has no documents.
pub(crate) struct SideIndex {
    pub(crate) side: Side,
    pub(crate) client: Client,
    pub(crate) name: IndexName,
    /// What to read; the same in every pass, so that no pass meets more documents than the first.
    pub(crate) parts: Vec<Part>,
    /// Whether there is such an index.
    pub(crate) exists: bool,
    /// What identifies it.
    pub(crate) uuid: String,
    /// How many shards it has.
    pub(crate) shards: u32,
    /// About how many documents it has.
    pub(crate) documents: u64,
    pub(crate) readers: usize,
    pub(crate) refresh: bool,
    pub(crate) throttle: Throttle,
    /// What is seen of its documents; everything without one.
    pub(crate) lens: Option<Arc<dyn Lens>>,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) scrolls: Scrolls,
}

/// A range of the sequence numbers of one shard. The ranges end with the highest number that was
/// given when the comparison began, not with the global checkpoint as those of a capture do: that
/// one stays behind while a translog is not synced (`durability: async`), and what both sides have
/// above it would not be compared at all. A difference that is rolled back settles later.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) shard: u32,
    pub(crate) after: i64,
    pub(crate) upto: i64,
    /// The copy that was the primary then.
    pub(crate) copy: Copy,
}

/// A copy of a shard in its term of office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) node: String,
    term: u64,
    index_uuid: String,
    history_uuid: String,
}

impl Copy {
    fn of(stats: &ShardStats) -> Copy {
        Copy {
            node: stats.node.clone(),
            term: stats.primary_term,
            index_uuid: stats.index_uuid.clone(),
            history_uuid: stats.history_uuid.clone(),
        }
    }

    /// Whether the other one has the same sequence numbers.
    pub(crate) fn continues(&self, other: &Copy) -> bool {
        self.index_uuid == other.index_uuid && self.history_uuid == other.history_uuid
    }
}

impl SideIndex {
    /// Finds the index, reads where its shards stand and refreshes it, in this order: then
    /// everything that was acknowledged up to there is visible.
    pub(crate) async fn open(mut self) -> Result<SideIndex, VerifyError> {
        let Some(found) = self.find().await? else {
            return Ok(self);
        };
        (self.uuid, self.shards) = (found.uuid, found.shards);
        let stats = self.all_shards(self.shards).await?;
        self.make_visible().await?;
        self.documents = self.patiently(|| self.client.count(&self.name)).await?;
        self.readers = self.scrolls.readers(self.readers, self.documents);
        self.parts = parts(&stats, self.readers);
        self.exists = true;
        Ok(self)
    }

    /// What the cluster says about the index; nothing if there is no such index at the target.
    async fn find(&self) -> Result<Option<IndexInfo>, VerifyError> {
        let patterns: IndexPatterns = self
            .name
            .as_str()
            .parse()
            .map_err(|e| self.failed(Error::Config(format!("{e}"))))?;
        let found = self
            .patiently(|| self.client.list_indices(&patterns))
            .await?;
        let index = self.name.to_string();
        match found.as_slice() {
            // The list leaves out what we may not see; this look-up says so.
            [] if self
                .patiently(|| self.client.index_exists(&self.name))
                .await? =>
            {
                Err(self.replaced())
            }
            [] if self.side == Side::Source => Err(VerifyError::NoIndex { index }),
            [] => Ok(None),
            [one] if one.name == self.name => match one.uncapturable() {
                None => Ok(Some(one.clone())),
                Some(reason) => Err(VerifyError::Unreadable {
                    side: self.side,
                    index,
                    reason,
                }),
            },
            several => {
                let meant: Vec<_> = several.iter().map(|index| index.name.as_str()).collect();
                Err(VerifyError::Alias {
                    side: self.side,
                    index,
                    meant: meant.join(", "),
                })
            }
        }
    }

    /// Where every shard stands; waits for primaries that are away at the moment.
    async fn all_shards(&self, shards: u32) -> Result<Vec<ShardStats>, VerifyError> {
        self.patiently(|| async {
            let stats = self.client.shard_stats(&[&self.name]).await?;
            match u64::from(shards).saturating_sub(stats.len() as u64) {
                0 => Ok(stats),
                failed => Err(Error::Shards {
                    index: self.name.to_string(),
                    failed,
                    total: u64::from(shards),
                    reason: "the primary is not started".to_owned(),
                }),
            }
        })
        .await
    }

    /// The copy of a shard that is the primary now.
    pub(crate) async fn primary(&self, shard: u32) -> Result<Copy, VerifyError> {
        self.patiently(|| async {
            let stats = self.client.shard_stats(&[&self.name]).await?;
            let own = stats.iter().find(|stats| stats.shard == shard);
            own.map(Copy::of).ok_or_else(|| Error::Shards {
                index: self.name.to_string(),
                failed: 1,
                total: 1,
                reason: format!("the primary of shard {shard} is not started"),
            })
        })
        .await
    }

    /// Refreshes the index, if that is wanted.
    pub(crate) async fn make_visible(&self) -> Result<(), VerifyError> {
        if !self.refresh {
            return Ok(());
        }
        let refreshed = self.patiently(|| self.client.refresh(&self.name)).await;
        refreshed.map_err(|error| match error {
            VerifyError::Search {
                side,
                index,
                error: error @ Error::Forbidden { .. },
            } => VerifyError::Refresh { side, index, error },
            error => error,
        })
    }

    /// Tries again what failed in a way that passes by itself, for a while.
    pub(crate) async fn patiently<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, VerifyError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut patience = Patience::new();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => patience.wait(self, error).await?,
            }
        }
    }

    pub(crate) fn failed(&self, error: Error) -> VerifyError {
        match error {
            Error::IndexNotFound { .. } if self.exists => self.replaced(),
            error => VerifyError::search(self.side, &self.name, error),
        }
    }

    pub(crate) fn replaced(&self) -> VerifyError {
        VerifyError::Replaced {
            side: self.side,
            index: self.name.to_string(),
        }
    }
}

/// How long failures in a row are borne.
pub(crate) struct Patience {
    backoff: Backoff,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience {
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        }
    }

    /// Something succeeded.
    pub(crate) fn restore(&mut self) {
        self.backoff.reset();
    }

    /// Waits before the next attempt, or gives the error back if there shall be none.
    pub(crate) async fn wait(
        &mut self,
        index: &SideIndex,
        error: Error,
    ) -> Result<(), VerifyError> {
        let passing = retry::classify(&error) == retry::Decision::Retry;
        if !passing || self.backoff.attempts() >= ATTEMPTS {
            return Err(index.failed(error));
        }
        let pause = self.backoff.next_delay();
        tracing::warn!(side = %index.side, index = %index.name, %error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Cuts the shards into parts, so that every reader has something to do.
fn parts(stats: &[ShardStats], readers: usize) -> Vec<Part> {
    let wanted = readers.div_ceil(stats.len().max(1)) as i64;
    let mut parts = Vec::new();
    for shard in stats {
        let numbers = shard.max_seq_no + 1;
        let count = wanted.min(numbers / PART).max(1);
        let edge = |part: i64| numbers / count * part + (numbers % count).min(part) - 1;
        let ranges = (0..count).map(|part| Part {
            shard: shard.shard,
            after: edge(part),
            upto: edge(part + 1),
            copy: Copy::of(shard),
        });
        parts.extend(ranges.filter(|part| part.after < part.upto));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(shard: u32, max_seq_no: i64) -> ShardStats {
        ShardStats {
            index: IndexName::try_from("i").unwrap(),
            index_uuid: "u".into(),
            shard,
            node: "n".into(),
            primary_term: 1,
            history_uuid: "h".into(),
            max_seq_no,
            local_checkpoint: max_seq_no,
            global_checkpoint: -1,
            refreshes: 0,
            deletes: 0,
        }
    }

    #[test]
    fn parts_cover_every_shard_without_gap_or_overlap() {
        for (numbers, readers, expected) in [
            (vec![-1], 4, 0),
            (vec![0], 4, 1),
            (vec![PART * 3 + 1], 4, 3),
            (vec![PART * 900 + 7], 4, 4),
            (vec![PART * 9, -1, 5], 4, 3),
            (vec![10; 20], 4, 20),
            (vec![10], 0, 1),
        ] {
            let stats: Vec<_> = (0..).zip(&numbers).map(|(n, max)| shard(n, *max)).collect();
            let parts = parts(&stats, readers);
            assert_eq!(parts.len(), expected, "{numbers:?}");
            for stats in &stats {
                let mut at = -1;
                for part in parts.iter().filter(|part| part.shard == stats.shard) {
                    assert!(part.after == at && part.upto > at, "{parts:?}");
                    at = part.upto;
                }
                assert_eq!(at, stats.max_seq_no);
            }
        }
    }
}
