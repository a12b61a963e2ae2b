//! The tasks of a service: they live and end together.
//!
//! Invariants: the first error or panic of any task cancels the token that all of them watch; it is
//! that first failure, with its task's name, that [`Tasks::join`] returns; nothing outlives `join`.

use std::{collections::HashMap, error::Error, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn Error + Send + Sync>;

/// How a task's end became the end of all.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It returned an error.
    #[error("{name} failed: {source}")]
    Failed {
        /// The task.
        name: String,
        /// Its error.
        source: BoxError,
    },
    /// It panicked.
    #[error("{name} panicked: {message}; this is a bug, please report it with the log")]
    Panicked {
        /// The task.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// They did not stop in time and were cut off.
    #[error("still busy {} s after the stop was asked for, and cut off: {}; what was not confirmed comes again at the next start", .drain.as_secs_f64(), .names.join(", "))]
    Stuck {
        /// The tasks.
        names: Vec<String>,
        /// How long they had.
        drain: Duration,
    },
}

/// A set of named tasks under one cancellation token.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, String>,
    token: CancellationToken,
}

impl Tasks {
    /// Tasks that stop when `parent` is cancelled; their own failure does not cancel `parent`.
    pub fn new(parent: &CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            names: HashMap::new(),
            token: parent.child_token(),
        }
    }

    /// The token every task has to watch.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task; its name is what an error will say.
    pub fn spawn<E, F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let handle = self
            .set
            .spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name.into());
    }

    /// Waits for all tasks. Once they are asked to stop, by the parent or by a failure, they have
    /// `drain` to end; what is left then is aborted.
    ///
    /// # Errors
    /// The first failure, or the tasks that would not end.
    pub async fn join(mut self, drain: Duration) -> Result<(), TaskError> {
        let mut first = None;
        let mut deadline: Option<Instant> = None;
        loop {
            let stopping = deadline.is_some();
            let until = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                ended = self.set.join_next_with_id() => match ended {
                    None => return first.map_or(Ok(()), Err),
                    Some(ended) => if let Some(failure) = self.failure(ended) {
                        tracing::error!(error = %failure, "a task failed, stopping the others");
                        first.get_or_insert(failure);
                        self.token.cancel();
                    },
                },
                () = self.token.cancelled(), if !stopping => {
                    deadline = Some(Instant::now() + drain);
                }
                () = sleep_until(until), if stopping => {
                    let stuck = self.abort(drain).await;
                    return Err(first.unwrap_or(stuck));
                }
            }
        }
    }

    fn failure(
        &mut self,
        ended: Result<(Id, Result<(), BoxError>), JoinError>,
    ) -> Option<TaskError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or_default();
        match ended {
            Ok((_, Ok(()))) => None,
            Ok((_, Err(source))) => Some(TaskError::Failed { name, source }),
            Err(error) if error.is_panic() => {
                let panic = error.into_panic();
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                let message = text.unwrap_or_else(|| "without a message".to_owned());
                Some(TaskError::Panicked { name, message })
            }
            // Aborted, which only `abort` and the end of the runtime do.
            Err(_) => None,
        }
    }

    async fn abort(mut self, drain: Duration) -> TaskError {
        self.set.shutdown().await;
        let mut names: Vec<String> = self.names.into_values().collect();
        names.sort();
        TaskError::Stuck { names, drain }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(10);

    async fn watch(token: CancellationToken) -> io::Result<()> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_error_stops_the_others_and_is_returned_by_name() {
        let parent = CancellationToken::new();
        let mut tasks = Tasks::new(&parent);
        tasks.spawn("reader", watch(tasks.token().clone()));
        tasks.spawn("publisher", async {
            Err::<(), _>(io::Error::other("stream is full"))
        });
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(error.to_string(), "publisher failed: stream is full");
        assert!(!parent.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_error_with_the_tasks_name() {
        let mut tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn("reader", watch(tasks.token().clone()));
        tasks.spawn("writer", async {
            let lane = 7;
            assert_eq!(lane, 8, "lanes");
            io::Result::Ok(())
        });
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert!(matches!(&error, TaskError::Panicked { name, .. } if name == "writer"));
        assert!(error.to_string().contains("lanes"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_end_well_are_no_error_and_the_parent_stops_them() {
        let parent = CancellationToken::new();
        let mut tasks = Tasks::new(&parent);
        tasks.spawn("backfill", async { io::Result::Ok(()) });
        tasks.spawn("tail", watch(tasks.token().clone()));
        parent.cancel();
        tasks.join(DRAIN).await.unwrap();
        Tasks::new(&parent).join(DRAIN).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_stop_in_time_is_cut_off_and_named() {
        let parent = CancellationToken::new();
        let mut tasks = Tasks::new(&parent);
        tasks.spawn("tail", watch(tasks.token().clone()));
        tasks.spawn("stubborn", pending::<io::Result<()>>());
        parent.cancel();
        let start = Instant::now();
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(start.elapsed(), DRAIN);
        assert!(matches!(&error, TaskError::Stuck { names, .. } if names == &["stubborn"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_hidden_by_what_gets_stuck_after_it() {
        let mut tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn("stubborn", pending::<io::Result<()>>());
        tasks.spawn("publisher", async { Err::<(), _>("stream is full") });
        let error = tasks.join(DRAIN).await.unwrap_err();
        assert_eq!(error.to_string(), "publisher failed: stream is full");
    }
}
