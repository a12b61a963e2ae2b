//! Stores what the log has confirmed, several positions at a time.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pipeline::Fault;
use runtime::backoff::Backoff;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    checkpoint::{Checkpoint, Checkpoints, ShardKey},
    ledger::{Gone, Ledger},
    source::SourceObserver,
};

/// How long confirmed positions are gathered before they are stored together.
const STORE_EVERY: Duration = Duration::from_millis(100);
/// The longest pause before what could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

type Positions = HashMap<Arc<ShardKey>, Checkpoint>;
type Waiting = Arc<Mutex<Vec<Arc<Gone>>>>;

/// Takes confirmed positions and stores them a little later.
#[derive(Debug)]
pub(crate) struct Keeper {
    positions: watch::Sender<Positions>,
    /// Deletes the log has; the ledger forgets them then and not before.
    gone: Waiting,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(
        checkpoints: Checkpoints,
        ledger: Option<Ledger>,
        observer: Arc<dyn SourceObserver>,
    ) -> Keeper {
        let (positions, changes) = watch::channel(HashMap::new());
        let gone = Waiting::default();
        let stores = Stores {
            checkpoints,
            ledger,
            gone: Arc::clone(&gone),
        };
        Keeper {
            positions,
            gone,
            task: tokio::spawn(stores.keep(changes, observer)),
        }
    }

    pub(crate) fn confirm(&self, mut position: Checkpoint) {
        let gone = position.gone.take();
        if position.position < 0 && gone.is_none() {
            return;
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
    }

    /// Stores the last positions.
    pub(crate) async fn close(self) {
        drop(self.positions);
        if let Err(panic) = self.task.await {
            tracing::error!(%panic, "the last positions could not be stored");
        }
    }
}

#[derive(Clone)]
struct Stores {
    checkpoints: Checkpoints,
    ledger: Option<Ledger>,
    gone: Waiting,
}

impl Stores {
    /// Stores until nobody confirms any more. What cannot be stored is tried again: what is stored is
    /// older then, and a restart reads some changes and finds some deletes twice.
    async fn keep(
        self,
        mut confirmed: watch::Receiver<Positions>,
        observer: Arc<dyn SourceObserver>,
    ) {
        let mut backoff = Backoff::new(STORE_EVERY, STORE_AGAIN);
        let mut open = true;
        while open {
            open = confirmed.changed().await.is_ok();
            let newest: Vec<Checkpoint> = confirmed.borrow_and_update().values().cloned().collect();
            let stores = self.clone();
            let stored = tokio::task::spawn_blocking(move || stores.store(&newest)).await;
            let stored = stored.unwrap_or_else(|panic| Err(Fault::retry(panic)));
            let pause = match stored {
                Ok(()) => {
                    if backoff.attempts() > 0 {
                        observer.recovered("checkpoint");
                        backoff.reset();
                    }
                    STORE_EVERY
                }
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
    }

    fn store(&self, positions: &[Checkpoint]) -> Result<(), Fault> {
        let waiting = || self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = mem::take(&mut *waiting());
        if let Some(ledger) = self.ledger.as_ref().filter(|_| !gone.is_empty())
            && let Err(error) = ledger.forget(&gone)
        {
            waiting().extend(gone);
            return Err(Fault::retry(error));
        }
        self.checkpoints.commit(positions).map_err(Fault::retry)
    }
}
