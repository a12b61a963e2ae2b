//! What a shard reader does about deletes: it opens the ledger, recognises its shard, counts, and hands on
//! what is gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Content, Origin, Version, now_ms};
use pipeline::Fault;

use super::{
    super::{
        Look, beginning,
        cursor::Standing,
        deletes::Comparison,
        hunt::{Hunt, Step},
        inheritance::Current,
        stop::Stop,
    },
    Reading, ShardReader,
};
use crate::{
    checkpoint::{Checkpoint, History},
    ledger::{self, Book, Entry, Gone, Ledger, Noted},
};

/// The search for deletes in one history.
pub(super) struct Deletes {
    pub(super) ledger: Ledger,
    pub(super) book: Book,
    pub(super) title: Arc<str>,
    pub(super) hunt: Hunt,
    /// Whether the history was announced as read.
    pub(super) announced: bool,
    /// Whether the shard is what was read of it, since it was seen first or its primary moved.
    pub(super) recognised: bool,
    /// When the shard was last seen to have deleted nothing since the count before, in milliseconds since
    /// 1970; 0 where it was not.
    pub(super) quiet_ms: u64,
    /// When what is suspected was missed.
    pub(super) missed: Missed,
}

/// Between which moments something was deleted, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missed {
    /// It was there then; 0 where nobody knows.
    pub(super) after_ms: u64,
    /// It was gone then.
    pub(super) before_ms: u64,
}

impl ShardReader {
    /// Opens the ledger at a history. What is published and not in it has to be read again.
    pub(super) async fn open_book(
        &self,
        ledger: &Ledger,
        history: &History,
        start: &mut Checkpoint,
    ) -> Result<Deletes, Fault> {
        let opened = beginning::retry(&self.capture, "ledger", || {
            let opened = ledger.begin(&self.key, history, start.epoch, start.position);
            std::future::ready(opened.map_err(Fault::from))
        });
        let opened = opened.await?;
        start.position = start.position.min(opened.upto);
        if !opened.whole {
            tracing::error!(
                shard = %self.key,
                "the ledger of this shard is younger than what was published: documents that were deleted while it \
                 was missing stay at the target until `syncline verify --delete-extra` removes them"
            );
            self.capture.observer.incomplete(&self.key);
        }
        Ok(Deletes {
            ledger: ledger.clone(),
            book: opened.book,
            title: ledger::title(&self.key, history).into(),
            hunt: Hunt::new(Instant::now(), self.capture.options.deletes.interval()),
            announced: false,
            recognised: false,
            quiet_ms: 0,
            missed: Missed::default(),
        })
    }

    /// Makes sure that the shard still is what was read of it. One that was taken back to an earlier
    /// state and has been written to since may have as many operations as before.
    pub(super) async fn recognise(
        &mut self,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        let read = reading.cursor.read();
        let (Some(deletes), Ok(upto)) = (&mut reading.deletes, u64::try_from(read)) else {
            return Ok(());
        };
        if deletes.recognised {
            return Ok(());
        }
        self.capture.stage.settled().await.map_err(Stop::Failed)?;
        self.visible(look, standing).await?;
        let comparison = self.comparison(&deletes.ledger, deletes.book, standing, upto);
        if !comparison.recognises().await? {
            self.prove(&reading.history, standing, Instant::now())
                .await?;
            return Err(Stop::TakenBack);
        }
        deletes.recognised = true;
        Ok(())
    }

    pub(super) fn comparison<'a>(
        &'a self,
        ledger: &'a Ledger,
        book: Book,
        standing: &'a Standing,
        upto: u64,
    ) -> Comparison<'a> {
        Comparison {
            capture: &self.capture,
            ledger,
            book,
            copy: self.copy(standing),
            upto,
        }
    }

    /// Says that a history is read up to where it stood at the beginning: what an earlier one has left
    /// may go then.
    pub(super) fn announce(&self, reading: &mut Reading) {
        if let Some(deletes) = reading
            .deletes
            .as_mut()
            .filter(|deletes| !deletes.announced)
        {
            deletes.announced = true;
            let current = Current {
                book: deletes.book,
                epoch: reading.start.epoch,
            };
            self.shared.read.send_modify(|read| {
                read.insert(self.key.shard, current);
            });
        }
    }

    /// Takes the next step in the search for deletes.
    pub(super) async fn hunt(
        &mut self,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        let read = reading.cursor.read();
        let (Some(deletes), Ok(upto)) = (&mut reading.deletes, u64::try_from(read)) else {
            return Ok(());
        };
        let asked_ms = now_ms().saturating_sub(look.asked.elapsed().as_millis() as u64);
        if deletes.hunt.is_quiet(standing) {
            deletes.quiet_ms = asked_ms;
        }
        let step = deletes.hunt.step(Instant::now(), standing, read);
        if step == Step::Rest {
            return Ok(());
        }
        // What was read is in the ledger before it is compared, and what is counted is not older: the
        // primary may have moved since the last refresh.
        self.capture.stage.settled().await.map_err(Stop::Failed)?;
        if step == Step::Count {
            self.visible(look, standing).await?;
        }
        let begun = Instant::now();
        let comparison = self.comparison(&deletes.ledger, deletes.book, standing, upto);
        match step {
            Step::Rest => Ok(()),
            Step::Count => {
                deletes.missed = Missed {
                    after_ms: deletes.quiet_ms,
                    before_ms: now_ms(),
                };
                let found = comparison.find(deletes.hunt.under_way()).await?;
                if !found.unknown.is_empty() {
                    self.prove(&reading.history, standing, Instant::now())
                        .await?;
                }
                let (now, count) = (Instant::now(), found.suspects.len());
                self.capture.observer.counted(now - begun, count);
                deletes
                    .hunt
                    .counted(now, now - begun, standing, found.suspects, found.more);
                for block in found.unknown {
                    self.reread(reading, block, standing).await?;
                }
                Ok(())
            }
            Step::Ask { ceiling, suspects } => {
                let gone = comparison.gone(suspects).await;
                self.prove(&reading.history, standing, Instant::now())
                    .await?;
                let gone = gone?;
                let missed = deletes.missed;
                self.delete(reading, ceiling, gone, missed)
                    .await
                    .map_err(Stop::Failed)
            }
        }
    }

    /// Publishes deletes.
    pub(super) async fn delete(
        &self,
        reading: &mut Reading,
        ceiling: u64,
        gone: Vec<Entry>,
        missed: Missed,
    ) -> Result<(), Fault> {
        let version = Version::new(reading.start.epoch, ceiling).map_err(Fault::fatal)?;
        let waited = (missed.after_ms > 0).then(|| now_ms().saturating_sub(missed.after_ms));
        let waited = waited.map(Duration::from_millis);
        let observer = &self.capture.observer;
        observer.deleted(&self.key.index, gone.len(), waited);
        for gone in gone.chunks(ledger::TOGETHER) {
            let Some(deletes) = &mut reading.deletes else {
                return Ok(());
            };
            deletes.hunt.published(gone.iter().cloned());
            let entries = Gone {
                book: deletes.book,
                entries: gone.to_vec(),
            };
            let changes = gone.iter().map(|entry| entry.delete(version)).collect();
            let content = Content::Changes(changes);
            let origin = Origin {
                partition: Arc::clone(&self.partition),
                captured_ms: missed.before_ms,
                via: None,
            };
            let mut captured = self.captured(reading, origin, content);
            captured.position.gone = Some(Arc::new(entries));
            self.capture.stage.put(Noted::Other(captured)).await?;
        }
        Ok(())
    }
}
