//! A watcher's way into the log: the stream is there, and of all watchers of one name this is the active one.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use model::{Root, Tenant};
use runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, Error, Lease, LeaseOptions, Role, SinkOptions, Stored, StreamInfo, StreamSpec, stream,
    until_answered,
};

/// How long the stream may take to acknowledge a batch.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long at least a watcher that was replaced has to let go of its folder.
const LET_GO: Duration = Duration::from_secs(30);

/// What a publisher is called, and whose changes it publishes.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// The name under which publishers stand by for each other.
    pub name: String,
    /// How long the others wait when the active one falls silent.
    pub lease: Duration,
    /// Whom the changes belong to.
    pub tenant: Tenant,
    /// The zstd level of messages; `None` leaves them as they are.
    pub zstd_level: Option<i32>,
}

/// The active publisher of its name.
#[derive(Debug)]
pub struct Publisher {
    /// The stream that it publishes to.
    pub info: StreamInfo,
    /// That it is the active one.
    pub lease: Lease,
    options: PublisherOptions,
}

impl Publisher {
    /// Makes sure of the stream, and waits until no other of the name is active; `None` when told to stop.
    ///
    /// # Errors
    /// When the stream cannot be used, or NATS refuses.
    pub async fn enter(
        bus: &Bus,
        spec: &StreamSpec,
        options: PublisherOptions,
        shutdown: &CancellationToken,
    ) -> Result<Option<Publisher>, Error> {
        let ensured = until_answered(shutdown, || stream::ensure(bus, spec)).await?;
        let Some(info) = ensured else {
            return Ok(None);
        };
        let wanted = LeaseOptions {
            role: Role::Publisher(options.name.clone()),
            holder: runtime::process_name("es-watcher"),
            lease: options.lease,
        };
        let acquired = until_answered(shutdown, || {
            Lease::acquire(bus, &info, wanted.clone(), shutdown)
        });
        let lease = acquired.await?.flatten();
        Ok(lease.map(|lease| Publisher {
            info,
            lease,
            options,
        }))
    }

    /// How its batches are sent. `newest` is what the stream is known to hold of it.
    pub fn sink_options(&self, newest: Option<Stored>) -> SinkOptions {
        SinkOptions {
            stream: self.info.name.clone(),
            root: Root::Changes,
            tenant: self.options.tenant.clone(),
            zstd_level: self.options.zstd_level,
            token: self.lease.token(),
            tenure: self.lease.tenure(),
            ack_timeout: ACK_TIMEOUT,
            newest,
        }
    }

    /// Opens what publishers of one name may share on a disk: the one that was replaced holds it until it notices.
    /// It may have been paused, or the machine be busy. `None` when told to stop.
    ///
    /// # Errors
    /// What `open` says, unless that is `in_use` and the other may still let go; that the lease was lost.
    pub async fn open<T, E>(
        &self,
        shutdown: &CancellationToken,
        mut open: impl FnMut() -> Result<T, E>,
        in_use: impl Fn(&E) -> bool,
    ) -> Result<Option<T>, E>
    where
        E: Display + From<Error>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let until = Instant::now() + LET_GO.max(self.options.lease * 3);
        loop {
            match open() {
                Err(error) if in_use(&error) && Instant::now() < until => {
                    if backoff.attempts() == 0 {
                        tracing::warn!(%error, "waiting");
                    }
                }
                opened => return opened.map(Some),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                lost = self.lease.lost() => return Err(lost.into()),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Gives the lease back.
    pub async fn leave(mut self) {
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "the lease could not be given back; a successor waits until it has run out");
        }
    }
}
