//! One shard: look, refresh, read, again.

mod again;
mod missing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Action, Batch, Change, Content, Document, Origin, Version};
use pipeline::{Captured, Fault};
use runtime::backoff::Backoff;
use search::{Error, Hit, PageSizer, ShardCopy, Window};
use tokio::sync::watch;

use super::{
    Capture, Look,
    beginning::Beginning,
    cursor::{Cursor, Range, Standing},
    identity::Identity,
    inheritance::Read,
    page::read_whole_numbers,
    refresh::Refresher,
    stop::Stop,
};
use again::Again;
use missing::Deletes;

use crate::{
    checkpoint::{Checkpoint, History, ShardKey},
    error::WatchError,
    ledger::{self, Noted},
};

/// What the readers of an index's shards share.
pub(crate) struct Shared {
    pub(crate) refresher: Refresher,
    pub(crate) beginning: Beginning,
    pub(crate) identity: Identity,
    /// Is told which shards are read.
    pub(crate) read: watch::Sender<Read>,
}

/// Reads one shard of one index.
pub(crate) struct ShardReader {
    capture: Arc<Capture>,
    shared: Arc<Shared>,
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
    deletes: Option<Deletes>,
    /// What is published once more because somebody has asked for it.
    again: Option<Again>,
}

/// A page that was handed on.
struct Handed {
    /// When it was complete.
    complete: Instant,
    /// Up to where its range is read then.
    upto: i64,
    documents: usize,
}

impl Reading {
    /// Whether everything was read and published that was there at the beginning.
    fn is_done(&self) -> bool {
        let deletes = self.deletes.as_ref();
        self.cursor.certain() >= self.goal && deletes.is_none_or(|deletes| deletes.hunt.is_done())
    }
}

impl ShardReader {
    pub(crate) fn new(
        capture: Arc<Capture>,
        shared: Arc<Shared>,
        key: ShardKey,
        index_uuid: String,
        looks: watch::Receiver<Arc<Look>>,
    ) -> ShardReader {
        ShardReader {
            capture,
            shared,
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
            self.shared.beginning.follow(&self.capture, &look).await?;
            let standing = Standing::new(look.asked, stats);
            let reading = match &mut reading {
                Some(reading) if reading.history.history_uuid == stats.history_uuid => reading,
                other => other.insert(self.begin(&look, &stats.history_uuid, &standing).await?),
            };
            if reading.cursor.was_taken_back(&standing) {
                *reading = self.begin_anew(&look, reading, &standing).await?;
            }
            if !reading.cursor.look(&standing) {
                tracing::info!(shard = %self.key, "the primary moved: this round is read again");
                if let Some(deletes) = &mut reading.deletes {
                    deletes.recognised = false;
                }
            }
            self.mark(reading).await?;
            let behind = standing.global_checkpoint - reading.cursor.read();
            self.capture
                .observer
                .behind(&self.key, u64::try_from(behind).unwrap_or(0));
            if !self.capture.options.follow && reading.is_done() {
                return Ok(());
            }
            match self.work(reading, &look, &standing).await {
                Ok(()) => self.backoff.reset(),
                Err(Stop::Lost(error)) => self.lost(reading, &error).await,
                Err(Stop::TakenBack) => {
                    *reading = self.begin_anew(&look, reading, &standing).await?
                }
                // Discovery finds the one that has its name now, if there is one.
                Err(Stop::Gone) if self.capture.options.follow => return Ok(()),
                Err(Stop::Gone) => return Err(self.gone_in_the_middle()),
                Err(Stop::Failed(fault)) => return Err(fault),
            }
        }
        Ok(())
    }

    async fn begin(
        &self,
        look: &Look,
        history_uuid: &str,
        standing: &Standing,
    ) -> Result<Reading, Fault> {
        let history = History {
            index_uuid: self.index_uuid.clone(),
            history_uuid: history_uuid.to_owned(),
        };
        let beginning = &self.shared.beginning;
        let beginning = beginning.of(&self.capture, look, &self.key, &history);
        let start = beginning.await?;
        self.read_from(history, start, standing).await
    }

    /// Begins a history again that was taken back to an earlier state.
    async fn begin_anew(
        &self,
        look: &Look,
        reading: &Reading,
        standing: &Standing,
    ) -> Result<Reading, Fault> {
        tracing::error!(
            shard = %self.key, read = reading.cursor.read(), has = standing.max_seq_no,
            "the shard was taken back to an earlier state, as when a copy of its disk is restored, and gives its \
             numbers again: everything is read again under a higher epoch, and what was written after that state \
             goes from the target"
        );
        self.capture.observer.taken_back(&self.key);
        // Nothing that was read before may be entered in the new book.
        self.capture.stage.settled().await?;
        let history = reading.history.clone();
        let beginning = &self.shared.beginning;
        let beginning = beginning.anew(&self.capture, look, &self.key, &history);
        let start = beginning.await?;
        self.read_from(history, start, standing).await
    }

    async fn read_from(
        &self,
        history: History,
        mut start: Checkpoint,
        standing: &Standing,
    ) -> Result<Reading, Fault> {
        let deletes = match &self.capture.ledger {
            None => None,
            Some(ledger) => Some(self.open_book(ledger, &history, &mut start).await?),
        };
        tracing::info!(
            shard = %self.key, epoch = %start.epoch, after = start.position,
            upto = standing.global_checkpoint, "reading shard"
        );
        Ok(Reading {
            history,
            cursor: Cursor::new(start.position),
            marked: start.position,
            goal: standing.global_checkpoint,
            deletes,
            again: None,
            start,
        })
    }

    /// Reads what is missing, then sees to deletes.
    async fn work(
        &mut self,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        self.recognise(reading, look, standing).await?;
        if let Some(range) = reading.cursor.missing(standing) {
            self.round(reading, range, look, standing).await?;
        }
        if reading.cursor.read() >= reading.goal {
            self.announce(reading);
        }
        self.hunt(reading, look, standing).await?;
        self.again(reading, look, standing).await
    }

    fn copy<'a>(&'a self, standing: &'a Standing) -> ShardCopy<'a> {
        ShardCopy {
            index: &self.key.index,
            shard: self.key.shard,
            node: &standing.copy.node,
        }
    }

    /// One round: everything missing up to the global checkpoint of one look.
    async fn round(
        &mut self,
        reading: &mut Reading,
        mut range: Range,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        self.visible(look, standing).await?;
        while range.after < range.upto {
            let page = self.page(reading, &range, standing, false).await?;
            if page.upto > range.after {
                reading.cursor.advance(page.complete, page.upto);
            }
            range.after = page.upto;
            self.look_again(reading)?;
        }
        Ok(())
    }

    /// Returns when everything up to the global checkpoint of a look can be searched.
    async fn visible(&mut self, look: &Look, standing: &Standing) -> Result<(), Stop> {
        let (capture, shard) = (&self.capture, self.key.shard);
        let ensured = self
            .shared
            .refresher
            .ensure(capture, look, standing, shard, &mut self.looks);
        ensured.await.map_err(Stop::from)
    }

    /// Reads a block again in which the shard has more than the ledger knows.
    async fn reread(
        &mut self,
        reading: &mut Reading,
        block: u64,
        standing: &Standing,
    ) -> Result<(), Stop> {
        tracing::error!(
            shard = %self.key, block,
            "the shard has documents that the ledger does not know: they are read again"
        );
        let numbers = ledger::numbers_of(block);
        let mut range = Range {
            after: *numbers.start() as i64 - 1,
            upto: (*numbers.end() as i64).min(reading.cursor.read()),
        };
        while range.after < range.upto {
            range.after = self.page(reading, &range, standing, false).await?.upto;
        }
        Ok(())
    }

    /// Reads the next page and hands it on; `over` says that it is asked for again.
    async fn page(
        &mut self,
        reading: &mut Reading,
        range: &Range,
        standing: &Standing,
        over: bool,
    ) -> Result<Handed, Stop> {
        let window = Window {
            index: &self.key.index,
            shard: self.key.shard,
            node: Some(&standing.copy.node),
            after: range.after,
            upto: range
                .upto
                .min(range.after.saturating_add(self.sizer.span())),
            size: self.sizer.documents().min(self.capture.throttle.most()),
        };
        let origin = Origin::now(Arc::clone(&self.partition));
        let read = {
            let _permit = self.capture.searches.acquire().await;
            read_whole_numbers(&self.capture.client, &window, self.copy(standing)).await
        };
        let (page, upto) = match read {
            // The documents here are larger than those before: fewer of them, then.
            Err(Error::AnswerTooLarge { .. }) if window.size > 1 => {
                self.sizer.shrink();
                return Ok(Handed {
                    complete: Instant::now(),
                    upto: range.after,
                    documents: 0,
                });
            }
            read => read?,
        };
        let complete = Instant::now();
        self.sizer.learn(page.hits.len(), page.bytes);
        let documents = page.hits.len();
        self.capture.throttle.take(documents).await;
        if !page.hits.is_empty() {
            self.prove(&reading.history, standing, complete).await?;
            let changes = page.hits.into_iter().map(|hit| change(hit, &reading.start));
            let changes: Result<Vec<Change>, Fault> = changes.collect();
            let mut changes = changes.map_err(Stop::Failed)?;
            changes.iter_mut().for_each(|change| change.over = over);
            let content = Content::Changes(changes);
            self.emit(reading, origin, content, upto)
                .await
                .map_err(Stop::Failed)?;
        }
        Ok(Handed {
            complete,
            upto,
            documents,
        })
    }

    /// Makes sure that what was read of the shard until a moment was read of that history.
    async fn prove(
        &self,
        history: &History,
        standing: &Standing,
        read: Instant,
    ) -> Result<(), Stop> {
        let copy = self.copy(standing);
        let identity = &self.shared.identity;
        identity.prove(&self.capture, copy, history, read).await
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
        if same_history && reading.cursor.was_taken_back(&standing) {
            return Err(Stop::TakenBack);
        }
        if same_history && reading.cursor.look(&standing) {
            return Ok(());
        }
        if let Some(deletes) = &mut reading.deletes {
            deletes.recognised = false;
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
            let (nothing, upto) = (Content::Changes(Vec::new()), reading.cursor.read());
            self.emit(reading, origin, nothing, upto).await?;
        }
        Ok(())
    }

    /// Hands on what was read up to `upto`.
    async fn emit(
        &self,
        reading: &mut Reading,
        origin: Origin,
        content: Content,
        upto: i64,
    ) -> Result<(), Fault> {
        let captured = self.captured(reading, origin, content);
        let noted = match &reading.deletes {
            None => Noted::Other(captured),
            Some(deletes) => Noted::Page {
                captured,
                book: deletes.book,
                title: Arc::clone(&deletes.title),
                upto,
            },
        };
        self.capture.stage.put(noted).await
    }

    /// A batch with the position that is reached with it.
    fn captured(
        &self,
        reading: &mut Reading,
        origin: Origin,
        content: Content,
    ) -> Captured<Checkpoint> {
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
        Captured {
            batch: Arc::new(batch),
            position,
        }
    }

    fn gone_in_the_middle(&self) -> Fault {
        let index = self.key.index.clone();
        WatchError::Gone { index }.into()
    }

    /// A round is lost: what is not certain is read again after a pause.
    async fn lost(&mut self, reading: &mut Reading, error: &Error) {
        reading.cursor.rewind();
        if let Some(deletes) = &mut reading.deletes {
            deletes.hunt.lost(Instant::now());
        }
        let pause = self.backoff.next_delay();
        self.capture
            .observer
            .trouble(&self.key.to_string(), error, pause);
        tokio::time::sleep(pause).await;
    }
}

fn change(hit: Hit, start: &Checkpoint) -> Result<Change, Fault> {
    let document = Document::from_json(hit.source);
    Ok(Change {
        id: hit.id,
        routing: hit.routing,
        version: Version::new(start.epoch, hit.seq_no).map_err(Fault::fatal)?,
        over: false,
        action: if hit.version == 1 {
            Action::Index(document)
        } else {
            Action::Update(document)
        },
    })
}
