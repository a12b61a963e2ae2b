//! Between capture and log: what is published is in the ledger first.

use std::{sync::Arc, time::Duration};

use pipeline::{Captured, Fault};
use runtime::backoff::Backoff;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Book, Ledger, LedgerError, entered::Page};
use crate::{Checkpoint, source::SourceObserver};

/// How many pages are entered in one commit, if so many wait.
const PAGES: usize = 16;

/// How many batches wait for the log. Each is about a megabyte.
const WAITING: usize = 2;

/// What the capture hands on.
#[derive(Debug)]
pub(crate) enum Noted {
    /// What was read of a shard, and up to where the shard is read with it.
    Page {
        captured: Captured<Checkpoint>,
        book: Book,
        title: Arc<str>,
        upto: i64,
    },
    /// What needs no entry.
    Other(Captured<Checkpoint>),
    /// Answered once everything before it is in the ledger.
    Barrier(oneshot::Sender<()>),
}

/// The way from the capture to the log.
#[derive(Debug, Clone)]
pub(crate) struct Stage(mpsc::Sender<Noted>);

impl Stage {
    /// Starts it. Without a ledger everything goes straight through. It ends when all clones are
    /// dropped, or with the reason why the ledger cannot be written.
    pub(crate) fn start(
        ledger: Option<Ledger>,
        observer: Arc<dyn SourceObserver>,
    ) -> (Stage, Staged) {
        let (sender, noted) = mpsc::channel(1);
        let (log, batches) = mpsc::channel(WAITING);
        let task = tokio::spawn(run(ledger, noted, log, observer));
        let staged = Staged {
            batches,
            task: Some(task),
        };
        (Stage(sender), staged)
    }

    /// Hands something on. Once nobody takes it any more, the process is ending.
    pub(crate) async fn put(&self, noted: Noted) -> Result<(), Fault> {
        let taken = self.0.send(noted).await;
        taken.map_err(|_| Fault::fatal("the capture was stopped"))
    }

    /// Waits until everything that was handed on before is in the ledger.
    pub(crate) async fn settled(&self) -> Result<(), Fault> {
        let (done, settled) = oneshot::channel();
        self.put(Noted::Barrier(done)).await?;
        let settled = settled.await;
        settled.map_err(|_| Fault::fatal("the capture was stopped"))
    }
}

/// The end of the way, where the log takes what is in the ledger.
#[derive(Debug)]
pub(crate) struct Staged {
    batches: mpsc::Receiver<Captured<Checkpoint>>,
    /// Until it has ended.
    task: Option<JoinHandle<Result<(), Fault>>>,
}

impl Staged {
    /// Waits for the next batch; `None` when the capture has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Captured<Checkpoint>>, Fault> {
        if let Some(captured) = self.batches.recv().await {
            return Ok(Some(captured));
        }
        let Some(task) = &mut self.task else {
            return Ok(None);
        };
        let ended = task.await;
        self.task = None;
        ended.map_err(Fault::fatal).flatten().map(|()| None)
    }

    /// Waits until it has ended, and has let go of the ledger. Nobody may hold a [`Stage`] any more.
    pub(crate) async fn close(mut self) {
        while self.batches.recv().await.is_some() {}
        if let Some(task) = self.task.take()
            && let Err(fault) = task.await.map_err(Fault::fatal).flatten()
        {
            tracing::warn!(%fault, "the last documents were not entered in the ledger");
        }
    }
}

async fn run(
    ledger: Option<Ledger>,
    mut incoming: mpsc::Receiver<Noted>,
    log: mpsc::Sender<Captured<Checkpoint>>,
    observer: Arc<dyn SourceObserver>,
) -> Result<(), Fault> {
    let mut gathered = Vec::new();
    while incoming.recv_many(&mut gathered, PAGES).await > 0 {
        let mut noted = std::mem::take(&mut gathered);
        if let Some(ledger) = &ledger {
            noted = enter(ledger, noted, observer.as_ref()).await?;
        }
        for noted in noted {
            match noted {
                Noted::Page { captured, .. } | Noted::Other(captured) => {
                    if log.send(captured).await.is_err() {
                        return Ok(());
                    }
                }
                // Nobody waits for it any more.
                Noted::Barrier(done) => drop(done.send(())),
            }
        }
    }
    Ok(())
}

/// Enters what was read, however long that takes.
async fn enter(
    ledger: &Ledger,
    mut noted: Vec<Noted>,
    observer: &dyn SourceObserver,
) -> Result<Vec<Noted>, Fault> {
    let is_waited_for = noted.iter().any(|one| matches!(one, Noted::Barrier(_)));
    if !is_waited_for && !noted.iter().any(|one| matches!(one, Noted::Page { .. })) {
        return Ok(noted);
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let to = ledger.clone();
        let work = tokio::task::spawn_blocking(move || {
            let entered = to.enter(noted.iter().filter_map(page));
            // Whoever waits is about to look into the tables, and should not be who fills them.
            let settled = match is_waited_for {
                true => entered.and_then(|()| to.settle()),
                false => entered,
            };
            (noted, settled)
        });
        let (back, entered) = work.await.map_err(Fault::fatal)?;
        noted = back;
        match entered {
            Ok(()) => {
                if backoff.attempts() > 0 {
                    observer.recovered("ledger");
                }
                return Ok(noted);
            }
            Err(error @ LedgerError::Write { .. }) => {
                let pause = backoff.next_delay();
                observer.trouble("ledger", &error, pause);
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(Fault::fatal(error)),
        }
    }
}

fn page(noted: &Noted) -> Option<Page<'_>> {
    match noted {
        Noted::Page {
            captured,
            book,
            title,
            upto,
        } => Some(Page {
            book: *book,
            title,
            changes: captured.batch.changes(),
            upto: *upto,
        }),
        Noted::Other(_) | Noted::Barrier(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use model::{Batch, Content, Epoch, IndexName, Origin};

    use super::*;
    use crate::{History, ShardKey, ledger, lmdb};

    #[tokio::test]
    async fn a_ledger_that_has_to_be_opened_anew_ends_the_stage_and_lets_it_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let index = IndexName::try_from("movies").unwrap();
        let shard = ShardKey {
            index: index.clone(),
            shard: 0,
        };
        let history = History {
            index_uuid: "i".into(),
            history_uuid: "h".into(),
        };
        let opened = ledger.begin(&shard, &history, Epoch(0), -1).unwrap();
        lmdb::fail_headers(folder.path());
        let (stage, mut staged) = Stage::start(Some(ledger), Arc::new(()));
        let page = Noted::Page {
            captured: Captured {
                batch: Arc::new(Batch {
                    index: index.clone(),
                    origin: Origin::now("p".into()),
                    content: Content::Changes(Vec::new()),
                }),
                position: Checkpoint::none(&index),
            },
            book: opened.book,
            title: ledger::title(&shard, &history).into(),
            upto: 3,
        };
        stage.put(page).await.unwrap();
        let looking = async {
            stage.settled().await.ok();
            drop(stage);
        };
        let taking = async {
            loop {
                match staged.next().await {
                    Ok(Some(_)) => {}
                    ended => return ended,
                }
            }
        };
        let ((), ended) = tokio::join!(looking, taking);
        let Err(Fault::Fatal(cause)) = ended else {
            panic!("the stage should have ended for good, and with the reason");
        };
        let cause = cause.downcast_ref();
        assert!(matches!(cause, Some(LedgerError::Broken { .. })));
        staged.close().await;
    }
}
