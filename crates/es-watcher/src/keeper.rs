//! Stores what the log has confirmed, several positions at a time.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Acknowledged, Stored};
use pipeline::{Fault, Registry};
use runtime::backoff::Backoff;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    checkpoint::{Checkpoint, Checkpoints, ShardKey},
    ledger::{Gone, Ledger},
    resync::Requests,
    source::SourceObserver,
};

/// How long confirmed positions are gathered before they are stored together.
const STORE_EVERY: Duration = Duration::from_millis(100);
/// The longest pause before what could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

type Positions = HashMap<Arc<ShardKey>, Checkpoint>;
type Waiting = Arc<Mutex<Vec<Arc<Gone>>>>;

/// What a watcher remembers of what it has published.
#[derive(Debug, Clone)]
pub struct Memory {
    /// How far each shard is published.
    pub checkpoints: Checkpoints,
    /// Which documents; deletes are noticed with it only.
    pub ledger: Option<Ledger>,
    /// Where else epochs are known.
    pub registry: Arc<dyn Registry>,
    /// What the log has acknowledged, where it may lose its end.
    pub log: Option<Arc<Acknowledged>>,
    /// What operators ask for again, where they can.
    pub requests: Requests,
}

/// Takes confirmed positions and stores them a little later.
#[derive(Debug)]
pub(crate) struct Keeper {
    positions: watch::Sender<Positions>,
    /// Deletes the log has; the ledger forgets them then and not before.
    gone: Waiting,
    task: Option<JoinHandle<Result<(), Fault>>>,
}

impl Keeper {
    pub(crate) fn start(memory: Memory, observer: Arc<dyn SourceObserver>) -> Keeper {
        let (positions, changes) = watch::channel(HashMap::new());
        let gone = Waiting::default();
        let stores = Stores {
            memory,
            gone: Arc::clone(&gone),
        };
        Keeper {
            positions,
            gone,
            task: Some(tokio::spawn(stores.keep(changes, observer))),
        }
    }

    /// Takes a position. Fails with the reason why earlier ones cannot be stored, if they never can.
    pub(crate) async fn confirm(&mut self, mut position: Checkpoint) -> Result<(), Fault> {
        if let Some(ended) = self.task.take_if(|task| task.is_finished()) {
            ended.await.map_err(Fault::fatal)??;
        }
        if let Some(ticket) = position.ticket.take() {
            ticket.redeem();
        }
        let gone = position.gone.take();
        if position.position < 0 && gone.is_none() {
            return Ok(());
        }
        self.gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(gone);
        self.positions.send_modify(|positions| {
            if position.position >= 0 {
                positions.insert(Arc::clone(&position.shard), position);
            }
        });
        Ok(())
    }

    /// Stores the last positions.
    pub(crate) async fn close(self) {
        drop(self.positions);
        let Some(task) = self.task else {
            return; // why it ended was told
        };
        if let Err(fault) = task.await.map_err(Fault::fatal).flatten() {
            tracing::error!(%fault, "the last positions could not be stored");
        }
    }
}

#[derive(Clone)]
struct Stores {
    memory: Memory,
    gone: Waiting,
}

impl Stores {
    /// Stores until nobody confirms any more. What cannot be stored now is tried again: what is stored is
    /// older then, and a restart reads some changes and finds some deletes twice.
    async fn keep(
        self,
        mut confirmed: watch::Receiver<Positions>,
        observer: Arc<dyn SourceObserver>,
    ) -> Result<(), Fault> {
        let mut backoff = Backoff::new(STORE_EVERY, STORE_AGAIN);
        let mut open = true;
        while open {
            open = confirmed.changed().await.is_ok();
            let newest: Vec<Checkpoint> = confirmed.borrow_and_update().values().cloned().collect();
            let stores = self.clone();
            let stored = tokio::task::spawn_blocking(move || stores.store(&newest)).await;
            let pause = match stored.map_err(Fault::fatal).flatten() {
                Ok(()) => {
                    if backoff.attempts() > 0 {
                        observer.recovered("checkpoint");
                        backoff.reset();
                    }
                    STORE_EVERY
                }
                Err(fault @ Fault::Fatal(_)) => return Err(fault),
                Err(fault) => {
                    let pause = backoff.next_delay();
                    observer.trouble("checkpoint", &fault, pause);
                    confirmed.mark_changed();
                    pause
                }
            };
            if open {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    fn store(&self, positions: &[Checkpoint]) -> Result<(), Fault> {
        let waiting = || self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = mem::take(&mut *waiting());
        // Asked for after they were confirmed: nothing of them is above it.
        let newest = self.memory.log.as_ref().and_then(|log| log.newest());
        let stored = self.store_with(positions, &gone, newest.as_ref());
        if stored.is_err() {
            waiting().extend(gone);
        }
        stored
    }

    /// What the log had is stored before anything is forgotten because of it: a lost end is recognised by
    /// the newest message that is stored.
    fn store_with(
        &self,
        positions: &[Checkpoint],
        gone: &[Arc<Gone>],
        newest: Option<&Stored>,
    ) -> Result<(), Fault> {
        let stored = self.memory.checkpoints.commit(positions, newest);
        stored?;
        match &self.memory.ledger {
            Some(ledger) if !gone.is_empty() => {
                let forgotten = ledger.forget(gone, newest.map(|newest| newest.sequence));
                Ok(forgotten?)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::IndexName;

    use super::*;
    use crate::{DiskStore, Owner, checkpoint::CheckpointError, lmdb};

    fn owner() -> Owner {
        Owner {
            cluster_uuid: "c".into(),
            tenant: "t".into(),
            stream: None,
        }
    }

    #[tokio::test]
    async fn whoever_confirms_is_told_of_a_store_that_has_to_be_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        let newest = Stored {
            sequence: 20,
            message_id: "newest".into(),
        };
        let memory = Memory {
            checkpoints: Checkpoints::on_disk(store),
            ledger: None,
            registry: Arc::new(()),
            log: Some(Arc::new(Acknowledged::new("S", Some(newest)))),
            requests: Requests::default(),
        };
        let mut keeper = Keeper::start(memory, Arc::new(()));
        lmdb::fail_headers(folder.path());
        let index = IndexName::try_from("movies").unwrap();
        let at = |position| Checkpoint {
            position,
            ..Checkpoint::none(&index)
        };
        let told = async {
            for position in 0.. {
                if let Err(fault) = keeper.confirm(at(position)).await {
                    return fault;
                }
                tokio::task::yield_now().await;
            }
            unreachable!("there is always another position")
        };
        let told = tokio::time::timeout(Duration::from_secs(30), told).await;
        let Ok(Fault::Fatal(cause)) = told else {
            panic!("it should have been told, and for good");
        };
        let cause = cause.downcast_ref();
        assert!(matches!(cause, Some(CheckpointError::Broken { .. })));
        keeper.close().await;
        // Opened anew it is whole, and takes positions again.
        DiskStore::open(folder.path(), &owner()).unwrap();
    }

    #[test]
    fn the_newest_message_is_stored_even_where_no_position_moves_with_a_delete() {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), &owner()).unwrap();
        let delete = Stored {
            sequence: 20,
            message_id: "delete".into(),
        };
        let stores = Stores {
            memory: Memory {
                checkpoints: Checkpoints::on_disk(store.clone()),
                ledger: Some(Ledger::temporary().unwrap()),
                registry: Arc::new(()),
                log: Some(Arc::new(Acknowledged::new("S", Some(delete.clone())))),
                requests: Requests::default(),
            },
            gone: Waiting::default(),
        };
        stores.store(&[]).unwrap();
        assert_eq!(store.newest().unwrap(), Some(delete));
    }
}
