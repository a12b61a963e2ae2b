//! One shard: look, refresh, read, again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Action, Batch, Change, Content, Document, Origin, Version};
use pipeline::{Captured, Fault};
use runtime::backoff::Backoff;
use search::{Error, Hit, PageSizer, Window};
use tokio::sync::watch;

use super::{
    Capture, Look,
    cursor::{Cursor, Range, Standing},
    refresh::Refresher,
};
use crate::{
    checkpoint::{Checkpoint, History, ShardKey},
    error::fault,
};

/// Reads one shard of one index.
pub(crate) struct ShardReader {
    capture: Arc<Capture>,
    refresher: Arc<Refresher>,
    key: Arc<ShardKey>,
    index_uuid: String,
    partition: Arc<str>,
    looks: watch::Receiver<Arc<Look>>,
    sizer: PageSizer,
    backoff: Backoff,
}

/// The reading of one history.
struct Reading {
    history: History,
    start: Checkpoint,
    cursor: Cursor,
    /// The certain position that was handed on last.
    marked: i64,
    /// Where a reader that does not follow is done: the checkpoint of its first look.
    goal: i64,
}

impl ShardReader {
    pub(crate) fn new(
        capture: Arc<Capture>,
        refresher: Arc<Refresher>,
        key: ShardKey,
        index_uuid: String,
        looks: watch::Receiver<Arc<Look>>,
    ) -> ShardReader {
        ShardReader {
            capture,
            refresher,
            partition: format!("elasticsearch/{index_uuid}/{}", key.shard).into(),
            key: Arc::new(key),
            index_uuid,
            looks,
            sizer: PageSizer::default(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
        }
    }

    /// Reads until the index is gone; without `follow`, until everything is read that was there at
    /// the beginning.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let mut reading: Option<Reading> = None;
        self.looks.mark_changed();
        while self.looks.changed().await.is_ok() {
            let look = Arc::clone(&self.looks.borrow_and_update());
            let Some(stats) = look.shard(&self.key.index, &self.index_uuid, self.key.shard) else {
                continue; // no primary at the moment
            };
            let standing = Standing::new(look.asked, stats);
            let reading = match &mut reading {
                Some(reading) if reading.history.history_uuid == stats.history_uuid => reading,
                other => other.insert(self.begin(&stats.history_uuid, &standing)?),
            };
            if !reading.cursor.look(&standing) {
                tracing::info!(shard = %self.key, "the primary moved: this round is read again");
            }
            self.mark(reading).await?;
            let behind = standing.global_checkpoint - reading.cursor.read();
            self.capture
                .observer
                .behind(&self.key, u64::try_from(behind).unwrap_or(0));
            if !self.capture.options.follow && reading.cursor.certain() >= reading.goal {
                return Ok(());
            }
            if let Some(range) = reading.cursor.missing(&standing) {
                match self.round(reading, range, &look, &standing).await {
                    Ok(()) => self.backoff.reset(),
                    Err(Stop::Lost(error)) => self.lost(reading, &error).await,
                    Err(Stop::Gone) => return Ok(()),
                    Err(Stop::Failed(fault)) => return Err(fault),
                }
            }
        }
        Ok(())
    }

    fn begin(&self, history_uuid: &str, standing: &Standing) -> Result<Reading, Fault> {
        let history = History {
            index_uuid: self.index_uuid.clone(),
            history_uuid: history_uuid.to_owned(),
        };
        let start = self
            .capture
            .checkpoints
            .begin(&self.key, &history)
            .map_err(Fault::fatal)?;
        tracing::info!(
            shard = %self.key, epoch = %start.epoch, after = start.position,
            upto = standing.global_checkpoint, "reading shard"
        );
        Ok(Reading {
            history,
            cursor: Cursor::new(start.position),
            marked: start.position,
            goal: standing.global_checkpoint,
            start,
        })
    }

    /// One round: everything missing up to the global checkpoint of one look.
    async fn round(
        &mut self,
        reading: &mut Reading,
        mut range: Range,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        self.refresher
            .ensure(
                &self.capture,
                look,
                standing,
                self.key.shard,
                &mut self.looks,
            )
            .await?;
        while range.after < range.upto {
            range.after = self.page(reading, &range, standing).await?;
            self.look_again(reading)?;
        }
        Ok(())
    }

    /// Reads the next page and hands it on. Returns up to where the range is read then.
    async fn page(
        &mut self,
        reading: &mut Reading,
        range: &Range,
        standing: &Standing,
    ) -> Result<i64, Stop> {
        let window = Window {
            index: &self.key.index,
            shard: self.key.shard,
            node: Some(&standing.copy.node),
            after: range.after,
            upto: range
                .upto
                .min(range.after.saturating_add(self.sizer.span())),
            size: self.sizer.documents(),
        };
        let origin = Origin::now(Arc::clone(&self.partition));
        let page = {
            let _permit = self.capture.searches.acquire().await;
            match self.capture.client.read_window(&window).await {
                // The documents here are larger than those before: fewer of them, then.
                Err(Error::AnswerTooLarge { .. }) => {
                    self.sizer.shrink();
                    return Ok(range.after);
                }
                page => page?,
            }
        };
        let complete = Instant::now();
        let upto = match page.hits.last() {
            Some(last) if page.hits.len() >= window.size as usize => last.seq_no as i64,
            _ => window.upto,
        };
        self.sizer.learn(page.hits.len(), page.bytes);
        if !page.hits.is_empty() {
            let changes = page.hits.into_iter().map(|hit| change(hit, &reading.start));
            let changes: Result<Vec<Change>, Fault> = changes.collect();
            let content = Content::Changes(changes.map_err(Stop::Failed)?);
            self.emit(reading, origin, content)
                .await
                .map_err(Stop::Failed)?;
        }
        reading.cursor.advance(complete, upto);
        Ok(upto)
    }

    /// Between two pages: what a newer look says about those already read.
    fn look_again(&mut self, reading: &mut Reading) -> Result<(), Stop> {
        if !self.looks.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let look = Arc::clone(&self.looks.borrow());
        let Some(stats) = look.shard(&self.key.index, &self.index_uuid, self.key.shard) else {
            return Ok(());
        };
        let standing = Standing::new(look.asked, stats);
        let same_history = stats.history_uuid == reading.history.history_uuid;
        if same_history && reading.cursor.look(&standing) {
            return Ok(());
        }
        Err(Stop::Lost(Error::CopyGone {
            index: self.key.index.to_string(),
            node: standing.copy.node,
        }))
    }

    /// Hands on that the position has become certain, where no later page will say it.
    async fn mark(&self, reading: &mut Reading) -> Result<(), Fault> {
        if reading.cursor.certain() > reading.marked {
            let origin = Origin::now(Arc::clone(&self.partition));
            self.emit(reading, origin, Content::Changes(Vec::new()))
                .await?;
        }
        Ok(())
    }

    async fn emit(
        &self,
        reading: &mut Reading,
        origin: Origin,
        content: Content,
    ) -> Result<(), Fault> {
        reading.marked = reading.cursor.certain();
        let batch = Batch {
            index: self.key.index.clone(),
            origin,
            content,
        };
        let position = Checkpoint {
            position: reading.marked,
            ..reading.start.clone()
        };
        self.capture
            .emit(Captured {
                batch: Arc::new(batch),
                position,
            })
            .await
    }

    /// A round is lost: what is not certain is read again after a pause.
    async fn lost(&mut self, reading: &mut Reading, error: &Error) {
        reading.cursor.rewind();
        let pause = self.backoff.next_delay();
        self.capture
            .observer
            .trouble(&self.key.to_string(), error, pause);
        tokio::time::sleep(pause).await;
    }
}

/// Why a round ends early.
enum Stop {
    /// It has to be repeated.
    Lost(Error),
    /// The index is no more.
    Gone,
    /// Somebody has to act.
    Failed(Fault),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match (search::retry::classify(&error), &error) {
            (_, Error::IndexNotFound { .. }) => Stop::Gone,
            (search::retry::Decision::Retry, _) => Stop::Lost(error),
            (search::retry::Decision::Fatal, _) => Stop::Failed(fault(error)),
        }
    }
}

fn change(hit: Hit, start: &Checkpoint) -> Result<Change, Fault> {
    let document = Document::from_json(hit.source);
    Ok(Change {
        id: hit.id,
        routing: hit.routing,
        version: Version::new(start.epoch, hit.seq_no).map_err(Fault::fatal)?,
        action: if hit.version == 1 {
            Action::Index(document)
        } else {
            Action::Update(document)
        },
    })
}
