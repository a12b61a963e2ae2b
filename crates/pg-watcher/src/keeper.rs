//! Remembers what is confirmed, and lets the slots go, when it is certain that the target gets it.
//!
//! The server forgets what a slot is confirmed for, and nothing brings it back. A stream on one server can
//! lose its end with the power although it has acknowledged it. So a position counts only when every reader
//! of the stream has settled what was published before it, unless the stream is replicated or syncs each
//! message ([ADR 0022](../../docs/adr/0022-when-a-slot-is-let-go.md)).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Acknowledged, Bus, StreamInfo};
use pipeline::Fault;
use postgres::Lsn;
use runtime::backoff::Backoff;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{Memory, Position, SourceError, fault, source::SourceObserver};

/// How long confirmed positions are gathered before they are stored together.
const GATHER: Duration = Duration::from_millis(100);
/// How often the readers' floors are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When what was confirmed is certain.
#[derive(Debug, Clone)]
pub enum Settled {
    /// At once: the log keeps what it has, or the target has it already.
    AtOnce,
    /// When every reader has settled what the stream had by then.
    ByReaders(Arc<Readers>),
}

/// The readers of a stream.
#[derive(Debug)]
pub struct Readers {
    /// The server.
    pub bus: Bus,
    /// The stream.
    pub stream: StreamInfo,
    /// What the stream has.
    pub acknowledged: Arc<Acknowledged>,
}

impl Settled {
    /// What the log has now; what is confirmed by now is not above it.
    fn newest(&self) -> u64 {
        match self {
            Settled::AtOnce => 0,
            Settled::ByReaders(of) => of.acknowledged.newest().map_or(0, |newest| newest.sequence),
        }
    }

    /// Up to where everything is settled.
    async fn floor(&self) -> Result<u64, Fault> {
        match self {
            Settled::AtOnce => Ok(u64::MAX),
            Settled::ByReaders(of) => {
                let readers = bus::readers(&of.bus, &of.stream).await?;
                Ok(readers.iter().map(|reader| reader.floor).min().unwrap_or(0))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    positions: Mutex<VecDeque<(u64, Position)>>,
    grown: Notify,
}

/// Takes confirmed positions.
#[derive(Debug)]
pub(crate) struct Keeper {
    waiting: Arc<Waiting>,
    settled: Settled,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(
        memory: Memory,
        flushed: HashMap<Arc<str>, watch::Sender<Lsn>>,
        settled: Settled,
        observer: Arc<dyn SourceObserver>,
    ) -> Keeper {
        let waiting = Arc::new(Waiting::default());
        let stop = CancellationToken::new();
        let stores = Stores {
            memory,
            flushed,
            settled: settled.clone(),
            waiting: Arc::clone(&waiting),
            observer,
        };
        Keeper {
            waiting,
            settled,
            task: tokio::spawn(stores.keep(stop.clone())),
            stop,
        }
    }

    pub(crate) fn confirm(&self, position: Position) {
        if position == Position::Nothing {
            return;
        }
        let newest = self.settled.newest();
        let mut positions = self
            .waiting
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Of several positions of a stream with nothing between, the last says it all.
        if let (
            Some((at, Position::Stream { database: last, .. })),
            Position::Stream { database, .. },
        ) = (positions.back(), &position)
            && *at == newest
            && last == database
        {
            positions.pop_back();
        }
        positions.push_back((newest, position));
        drop(positions);
        self.waiting.grown.notify_one();
    }

    /// Stores what is certain by now.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        if let Err(panic) = self.task.await {
            tracing::error!(%panic, "the last positions could not be stored");
        }
    }
}

struct Stores {
    memory: Memory,
    flushed: HashMap<Arc<str>, watch::Sender<Lsn>>,
    settled: Settled,
    waiting: Arc<Waiting>,
    observer: Arc<dyn SourceObserver>,
}

impl Stores {
    async fn keep(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(GATHER, Duration::from_secs(5));
        loop {
            let stopping = stop.is_cancelled();
            match self.store().await {
                Ok(is_empty) => {
                    if backoff.attempts() > 0 {
                        self.observer.recovered("confirm");
                        backoff.reset();
                    }
                    let grown = async {
                        match is_empty {
                            true => self.waiting.grown.notified().await,
                            false => tokio::time::sleep(LOOK_EVERY).await,
                        }
                        tokio::time::sleep(GATHER).await;
                    };
                    tokio::select! {
                        () = stop.cancelled(), if !stopping => {}
                        () = grown, if !stopping => {}
                        else => return,
                    }
                }
                Err(_) if stopping => return,
                Err(error) => {
                    let pause = backoff.next_delay();
                    self.observer.trouble("confirm", &error, pause);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Stores what is certain. Returns whether nothing is left.
    async fn store(&self) -> Result<bool, Fault> {
        if self.lock().is_empty() {
            return Ok(true);
        }
        let floor = self.settled.floor().await?;
        let certain: Vec<Position> = {
            let positions = self.lock();
            let certain = positions.iter().take_while(|(at, _)| *at <= floor);
            certain.map(|(_, position)| position.clone()).collect()
        };
        self.remember(&certain).map_err(fault)?;
        let mut positions = self.lock();
        // One may have been replaced by a later one of the same stream meanwhile, and stays.
        for position in &certain {
            if positions
                .front()
                .is_some_and(|(_, front)| front == position)
            {
                positions.pop_front();
            }
        }
        Ok(positions.is_empty())
    }

    /// Remembers positions, and lets the slots go after that and not before: a slot that was confirmed
    /// further than is remembered is not the one that we read.
    fn remember(&self, certain: &[Position]) -> Result<(), SourceError> {
        for (database, flushed) in &self.flushed {
            let mut upto = *flushed.borrow();
            self.memory.update(database, |state| {
                for position in certain {
                    match position {
                        Position::Nothing => {}
                        Position::Stream { database: of, lsn } if of == database => {
                            upto = upto.max(*lsn);
                            state.confirmed = state.confirmed.max(*lsn);
                        }
                        Position::Chunk {
                            database: of,
                            table,
                            part,
                            chunk,
                            since,
                        } if of == database => {
                            let table = state.tables.get_mut(table);
                            let table = table.filter(|table| table.since == *since);
                            let Some(part) = table.and_then(|table| table.parts.get_mut(part))
                            else {
                                continue;
                            };
                            match chunk {
                                Some(chunk) => {
                                    part.chunks.insert(*chunk);
                                }
                                None => {
                                    part.is_copied = true;
                                    part.chunks.clear();
                                }
                            }
                        }
                        Position::Copied {
                            database: of,
                            table,
                            since,
                        } if of == database => {
                            let table = state.tables.get_mut(table);
                            if let Some(table) = table.filter(|table| table.since == *since) {
                                table.is_copied = true;
                                table.clears = false;
                            }
                        }
                        _ => {}
                    }
                }
            })?;
            if upto > *flushed.borrow() {
                flushed.send_replace(upto);
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Position)>> {
        self.waiting
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Owner,
        state::{DatabaseState, PartState, TableState},
    };

    #[test]
    fn what_an_earlier_copy_has_brought_says_nothing_of_a_later_one() {
        let owner = Owner {
            tenant: "t".to_owned(),
            stream: None,
        };
        let memory = Memory::in_process(owner.clone());
        let table = TableState {
            since: Lsn(20),
            clears: true,
            parts: [(2, PartState::default())].into(),
            ..TableState::default()
        };
        let state = DatabaseState {
            owner,
            system: "1".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            confirmed: Lsn(5),
            begins_again: false,
            filled: Default::default(),
            tables: [(1, table)].into(),
        };
        memory.put("d", state).unwrap();
        let database: Arc<str> = "d".into();
        let stores = Stores {
            memory: memory.clone(),
            flushed: [(Arc::clone(&database), watch::channel(Lsn(0)).0)].into(),
            settled: Settled::AtOnce,
            waiting: Arc::default(),
            observer: Arc::new(()),
        };
        let of_copy = |since| {
            let (database, since) = (Arc::clone(&database), Lsn(since));
            let chunk = Position::Chunk {
                database: Arc::clone(&database),
                table: 1,
                part: 2,
                chunk: None,
                since,
            };
            let copied = Position::Copied {
                database,
                table: 1,
                since,
            };
            [chunk, copied]
        };
        let state = || memory.get("d").unwrap().tables[&1].clone();
        stores.remember(&of_copy(10)).unwrap();
        assert!(!state().is_copied && !state().parts[&2].is_copied && state().clears);
        stores.remember(&of_copy(20)).unwrap();
        assert!(state().is_copied && state().parts[&2].is_copied && !state().clears);
    }
}
