//! What operators ask for again, between the bucket and the readers of shards.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Answered, Resync, Resyncs};
use futures::StreamExt;
use model::IndexName;
use tokio::sync::Notify;

/// How often answers are written down.
const ANSWER_EVERY: Duration = Duration::from_millis(300);
/// How long after a watch of the bucket has failed the next one begins.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// The requests that are open. Cheap to clone; without a bucket there are none.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<HashMap<String, Arc<Resync>>>,
    /// What is answered and not written down yet.
    answers: Mutex<HashMap<String, Resync>>,
    answered: Notify,
}

/// An answer of a shard that holds as soon as the log has what came before it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) requests: Requests,
    pub(crate) request: Arc<Resync>,
    pub(crate) shard: u32,
    pub(crate) of: u32,
    pub(crate) answered: Answered,
}

impl Ticket {
    /// The log has it.
    pub(crate) fn redeem(&self) {
        let answered = Answered {
            done: true,
            ..self.answered.clone()
        };
        tracing::info!(
            index = self.request.index,
            shard = self.shard,
            documents = answered.documents,
            deletes = answered.deletes,
            "published again as asked for"
        );
        self.requests
            .answer(&self.request, self.shard, self.of, answered);
    }
}

impl Requests {
    /// What is asked for of an index.
    pub(crate) fn of(&self, index: &IndexName) -> Option<Arc<Resync>> {
        lock(&self.0.open).get(index.as_str()).cloned()
    }

    /// Says how far a shard is.
    pub(crate) fn answer(&self, request: &Resync, shard: u32, of: u32, answered: Answered) {
        let mut answers = lock(&self.0.answers);
        let answer = answers.entry(request.index.clone());
        let answer = answer.or_insert_with(|| request.clone());
        if answer.id != request.id {
            *answer = request.clone();
        }
        answer.of = of;
        answer.shards.insert(shard, answered);
        self.0.answered.notify_one();
    }

    /// Takes requests from the bucket and writes answers there, for ever.
    pub(crate) async fn attend(&self, bucket: &Resyncs, watcher: &str) {
        loop {
            if let Ok(mut requests) = bucket.watch().await {
                loop {
                    tokio::select! {
                        request = requests.next() => match request {
                            Some((index, request)) => self.take(index, request),
                            None => break,
                        },
                        () = self.0.answered.notified() => {
                            self.write_down(bucket, watcher).await;
                            tokio::time::sleep(ANSWER_EVERY).await;
                        }
                    }
                }
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    fn take(&self, index: String, request: Option<Resync>) {
        let mut open = lock(&self.0.open);
        match request.filter(|request| !request.is_done()) {
            Some(request) => {
                let known = open.insert(index, Arc::new(request.clone()));
                if known.is_none_or(|known| known.id != request.id) {
                    let documents = request.documents.as_ref().map_or(0, Vec::len);
                    tracing::info!(
                        index = request.index,
                        documents,
                        "asked to publish again: the whole index where no documents are named"
                    );
                }
            }
            None => drop(open.remove(&index)),
        }
    }

    /// What cannot be written down now is written with the next answer, or again after a restart.
    async fn write_down(&self, bucket: &Resyncs, watcher: &str) {
        let answers: Vec<Resync> = lock(&self.0.answers)
            .drain()
            .map(|(_, answer)| answer)
            .collect();
        for mut answer in answers {
            watcher.clone_into(&mut answer.watcher);
            if let Err(error) = bucket.answer(&answer).await {
                tracing::warn!(%error, "how far a resync is could not be written down");
                let mut answers = lock(&self.0.answers);
                let newer = answers.entry(answer.index.clone());
                newer
                    .and_modify(|newer| {
                        for (shard, answered) in &answer.shards {
                            newer
                                .shards
                                .entry(*shard)
                                .or_insert_with(|| answered.clone());
                        }
                    })
                    .or_insert(answer);
                self.0.answered.notify_one();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
