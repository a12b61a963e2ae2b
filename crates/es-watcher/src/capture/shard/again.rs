//! Publishing a shard's documents once more, because somebody has asked for it.
//!
//! It goes the way of everything else: read from the copy in office, entered in the ledger, published in
//! the shard's order. So what is read once more can be overtaken by a later change, and never the other
//! way round. A document is published with the version that it has, and marked to replace that very
//! version; between two looks the shard's new changes come first.

use std::{sync::Arc, time::Instant};

use bus::{Answered, Named, Resync};
use model::{Change, Content, DocumentId, Origin, now_ms};
use search::{Error, Hit, MgetOptions, Window};

use super::{super::stop::Stop, Reading, ShardReader, change, missing::Missed};
use crate::{
    capture::{
        Look,
        cursor::{Copy, Cursor, Standing},
    },
    ledger::{Entry, Noted},
    resync::Ticket,
};

/// How many documents are read by their ids together.
const TOGETHER: usize = 100;

/// A request in the course of being answered by a shard.
pub(super) struct Again {
    request: Arc<Resync>,
    work: Work,
    answered: Answered,
}

enum Work {
    /// All that is there, by numbers, like the first time.
    Whole(Cursor),
    /// Some documents, once the shard is read up to a ceiling: what is not there then was deleted below.
    Named {
        since: Instant,
        ceiling: Option<(Copy, i64)>,
    },
    /// All of it is handed on.
    Over,
}

impl Again {
    fn new(request: Arc<Resync>, read: i64) -> Again {
        let work = match request.documents {
            None => Work::Whole(Cursor::new(-1)),
            Some(_) => Work::Named {
                since: Instant::now(),
                ceiling: None,
            },
        };
        Again {
            request,
            work,
            answered: Answered {
                upto: -1,
                goal: read,
                ..Answered::default()
            },
        }
    }

    /// What is not certain is thrown away.
    fn lost(&mut self) {
        match &mut self.work {
            Work::Whole(cursor) => cursor.rewind(),
            Work::Named { since, ceiling } => (*since, *ceiling) = (Instant::now(), None),
            Work::Over => {}
        }
    }
}

impl ShardReader {
    /// Goes on with what is asked for, until the next look.
    pub(super) async fn again(
        &mut self,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<(), Stop> {
        let Some(request) = self.capture.requests.of(&self.key.index) else {
            reading.again = None;
            return Ok(());
        };
        let under_way = reading.again.take();
        let mut again = match under_way.filter(|again| again.request.id == request.id) {
            Some(again) => again,
            None => {
                let answered = request.shards.get(&self.key.shard);
                if answered.is_some_and(|answered| answered.done) {
                    return Ok(());
                }
                Again::new(request, reading.cursor.read())
            }
        };
        let done = match &again.work {
            Work::Whole(_) => self.all(&mut again, reading, look, standing).await,
            Work::Named { .. } => self.named(&mut again, reading, look, standing).await,
            Work::Over => Ok(false),
        };
        match done {
            Ok(true) => self.hand_over(&mut again, reading).await?,
            Ok(false) => {}
            Err(_) => again.lost(),
        }
        reading.again = Some(again);
        done.map(drop)
    }

    /// Reads on from where it was. Says whether all of it is read and certain.
    async fn all(
        &mut self,
        again: &mut Again,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<bool, Stop> {
        let Work::Whole(cursor) = &mut again.work else {
            return Ok(false);
        };
        cursor.look(standing);
        again.answered.upto = cursor.certain();
        if cursor.certain() >= again.answered.goal {
            return Ok(true);
        }
        let mut capped = standing.clone();
        capped.global_checkpoint = capped.global_checkpoint.min(again.answered.goal);
        let Some(mut range) = cursor.missing(&capped) else {
            return Ok(false);
        };
        self.visible(look, standing).await?;
        while range.after < range.upto {
            let page = self.page(reading, &range, standing, true).await?;
            again.answered.documents += page.documents as u64;
            if let Work::Whole(cursor) = &mut again.work
                && page.upto > range.after
            {
                cursor.advance(page.complete, page.upto);
            }
            range.after = page.upto;
            self.look_again(reading)?;
            if self.looks.has_changed().unwrap_or(false) {
                break; // what is new comes first
            }
        }
        self.answer(again);
        Ok(false)
    }

    /// Looks the documents up. Says whether that is done.
    async fn named(
        &mut self,
        again: &mut Again,
        reading: &mut Reading,
        look: &Look,
        standing: &Standing,
    ) -> Result<bool, Stop> {
        let Work::Named { since, ceiling } = &mut again.work else {
            return Ok(false);
        };
        if ceiling
            .as_ref()
            .is_some_and(|(copy, _)| *copy != standing.copy)
        {
            (*since, *ceiling) = (Instant::now(), None);
        }
        if ceiling.is_none() && standing.asked > *since {
            *ceiling = Some((standing.copy.clone(), standing.max_seq_no));
        }
        let Some((_, ceiling)) = *ceiling else {
            return Ok(false);
        };
        if reading.cursor.read() < ceiling {
            return Ok(false);
        }
        self.capture.stage.settled().await.map_err(Stop::Failed)?;
        self.visible(look, standing).await?;
        let request = Arc::clone(&again.request);
        let named = request.documents.as_deref().unwrap_or_default();
        let mut answered = Answered {
            goal: ceiling,
            upto: ceiling,
            ..Answered::default()
        };
        let mut missing = Vec::new();
        for some in named.chunks(TOGETHER) {
            let origin = Origin::now(Arc::clone(&self.partition));
            let hits = self.find(some, reading, standing).await?;
            self.prove(&reading.history, standing, Instant::now())
                .await?;
            let found = |named: &&Named| {
                hits.iter().any(|hit| {
                    let routed = named.routing.is_none()
                        || hit.routing.as_deref() == named.routing.as_deref();
                    hit.id.as_str() == named.id && routed
                })
            };
            missing.extend(some.iter().filter(|named| !found(named)));
            answered.documents += hits.len() as u64;
            self.capture.throttle.take(hits.len()).await;
            let changes = hits.into_iter().map(|hit| {
                let mut change = change(hit, &reading.start)?;
                change.over = true;
                Ok(change)
            });
            let changes: Result<Vec<Change>, _> = changes.collect();
            let content = Content::Changes(changes.map_err(Stop::Failed)?);
            let read = reading.cursor.read();
            let emitted = self.emit(reading, origin, content, read).await;
            emitted.map_err(Stop::Failed)?;
        }
        let gone = self
            .gone(&missing, ceiling, standing, &mut answered)
            .await?;
        self.prove(&reading.history, standing, Instant::now())
            .await?;
        // A copy that was deposed meanwhile may have answered from the past.
        self.look_again(reading)?;
        if reading.deletes.is_none() {
            let off = "it is gone, and --deletes is off";
            let kept = gone
                .iter()
                .map(|entry| (entry.id.to_string(), off.to_owned()));
            answered.kept.extend(kept);
        } else if let Ok(ceiling) = u64::try_from(ceiling) {
            answered.deletes = gone.len() as u64;
            let missed = Missed {
                after_ms: 0,
                before_ms: now_ms(),
            };
            let deleted = self.delete(reading, ceiling, gone, missed).await;
            deleted.map_err(Stop::Failed)?;
        }
        again.answered = answered;
        Ok(true)
    }

    /// Those of the named documents that the copy has, as far as the shard is read.
    async fn find(
        &self,
        named: &[Named],
        reading: &Reading,
        standing: &Standing,
    ) -> Result<Vec<Hit>, Stop> {
        let mut hits = Vec::new();
        let mut ids: Vec<&str> = named.iter().map(|named| named.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut waiting = vec![ids.as_slice()];
        while let Some(ids) = waiting.pop() {
            let window = Window {
                index: &self.key.index,
                shard: self.key.shard,
                node: Some(&standing.copy.node),
                after: -1,
                upto: reading.cursor.read(),
                // Documents of several routings may share an id.
                size: if ids.len() == 1 {
                    1
                } else {
                    TOGETHER as u32 * 10
                },
            };
            let _permit = self.capture.searches.acquire().await;
            match self.capture.client.read_documents(&window, ids).await {
                Err(Error::AnswerTooLarge { .. }) if ids.len() > 1 => {
                    let (first, second) = ids.split_at(ids.len() / 2);
                    waiting.extend([first, second]);
                }
                page => hits.extend(page?.hits),
            }
        }
        Ok(hits)
    }

    /// Those of the missing documents that would be in this shard and that no shard has.
    async fn gone(
        &self,
        missing: &[&Named],
        ceiling: i64,
        standing: &Standing,
        answered: &mut Answered,
    ) -> Result<Vec<Entry>, Stop> {
        let (client, index) = (&self.capture.client, &self.key.index);
        let mut gone = Vec::new();
        for named in missing {
            let Ok(id) = DocumentId::try_from(named.id.as_str()) else {
                continue; // no document can have it
            };
            let routing = named.routing.as_deref();
            let shard = client.shard_of(index, routing.unwrap_or(&named.id)).await?;
            if shard != self.key.shard {
                continue;
            }
            // A delete under another routing could hit it at the target, where shards may be fewer.
            if client.has_id(index, &id).await? {
                if routing.is_some() {
                    let why = "a document of that id is there under another routing";
                    answered.kept.insert(named.id.clone(), why.to_owned());
                }
                continue;
            }
            let options = MgetOptions {
                node: Some(&standing.copy.node),
                ..MgetOptions::default()
            };
            let looked = client.mget(index, &[(&id, routing)], options).await?;
            if looked.first().is_none_or(|looked| looked.found) {
                continue; // written meanwhile: it comes by itself
            }
            gone.push(Entry {
                seq_no: u64::try_from(ceiling).unwrap_or_default(),
                id,
                routing: named.routing.clone().map(String::into_boxed_str),
            });
        }
        Ok(gone)
    }

    /// Lets the answer follow what was handed on.
    async fn hand_over(&self, again: &mut Again, reading: &mut Reading) -> Result<(), Stop> {
        let ticket = Ticket {
            requests: self.capture.requests.clone(),
            request: Arc::clone(&again.request),
            shard: self.key.shard,
            of: self.shared.beginning.shards(),
            answered: again.answered.clone(),
        };
        let origin = Origin::now(Arc::clone(&self.partition));
        let mut captured = self.captured(reading, origin, Content::Changes(Vec::new()));
        captured.position.ticket = Some(Arc::new(ticket));
        let handed = self.capture.stage.put(Noted::Other(captured)).await;
        handed.map_err(Stop::Failed)?;
        again.work = Work::Over;
        Ok(())
    }

    fn answer(&self, again: &Again) {
        self.capture.requests.answer(
            &again.request,
            self.key.shard,
            self.shared.beginning.shards(),
            again.answered.clone(),
        );
    }
}
