//! How a service is asked to stop.
//!
//! One token, cancelled by SIGINT or SIGTERM. From then on the service drains: it takes nothing
//! new, finishes, confirms, and has a deadline for that. A second signal means *now*: the process
//! exits at once, and what was not confirmed comes again at the next start.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// The wish to stop. Cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    drain: Duration,
}

/// The drain was not done by its deadline.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not drained within {} s; what was not confirmed comes again at the next start", .drain.as_secs_f64())]
pub struct DrainTimeout {
    /// How long it had.
    pub drain: Duration,
}

impl Shutdown {
    /// A wish that only [`Shutdown::trigger`] makes, for tests and for services inside another.
    pub fn manual(drain: Duration) -> Self {
        Self {
            token: CancellationToken::new(),
            drain,
        }
    }

    /// A wish that SIGINT and SIGTERM make too. Call it once, inside the runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(drain: Duration) -> io::Result<Self> {
        let shutdown = Self::manual(drain);
        let mut signals = Signals::install()?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::info!(signal = name, "stopping; a second signal stops at once");
            token.cancel();
            let name = signals.next().await;
            tracing::warn!(signal = name, "second signal, stopping at once");
            std::process::exit(i32::from(Exit::Interrupted.code()));
        });
        Ok(shutdown)
    }

    /// Asks for the stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// The token that is cancelled when the stop is asked for.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How long a drain may take.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// Waits for the wish.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Runs work that may be dropped when the stop is asked for; `None` when it was.
    pub async fn run_until<F: Future>(&self, work: F) -> Option<F::Output> {
        self.token.run_until_cancelled(work).await
    }

    /// Runs a service that drains by itself when asked to stop, and has the deadline for it.
    ///
    /// # Errors
    /// When the deadline passed; the service was dropped.
    pub async fn run<F: Future>(&self, service: F) -> Result<F::Output, DrainTimeout> {
        let late = async {
            self.requested().await;
            sleep(self.drain).await;
        };
        tokio::select! {
            biased;
            output = service => Ok(output),
            () = late => Err(DrainTimeout { drain: self.drain }),
        }
    }
}

/// Both signals that mean *stop*.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            interrupt,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const DRAIN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_service_that_drains_in_time_gives_its_result() {
        let shutdown = Shutdown::manual(DRAIN);
        let asked = shutdown.clone();
        let service = async move {
            asked.requested().await;
            sleep(DRAIN / 2).await;
            "drained"
        };
        shutdown.trigger();
        assert_eq!(shutdown.run(service).await, Ok("drained"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_is_cut_off_at_the_deadline() {
        let shutdown = Shutdown::manual(DRAIN);
        shutdown.trigger();
        let start = Instant::now();
        let error = shutdown.run(pending::<()>()).await.unwrap_err();
        assert_eq!(start.elapsed(), DRAIN);
        assert!(
            error.to_string().contains("not drained within 30 s"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_stop_there_is_no_deadline() {
        let shutdown = Shutdown::manual(DRAIN);
        let service = async {
            sleep(DRAIN * 1000).await;
            7
        };
        assert_eq!(shutdown.run(service).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_dropped_is_dropped_at_once() {
        let shutdown = Shutdown::manual(DRAIN);
        assert_eq!(shutdown.run_until(async { 1 }).await, Some(1));
        shutdown.trigger();
        assert_eq!(shutdown.run_until(pending::<()>()).await, None);
    }
}
