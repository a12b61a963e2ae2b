//! What the events of a connection tell.

use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::Event;
use tokio::sync::watch;

/// What the connection's events leave behind.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hosts: String,
    pub(super) losses: watch::Sender<u64>,
    pub(super) denials: watch::Sender<u64>,
    pub(super) denied: Mutex<Vec<String>>,
}

impl Shared {
    pub(super) fn new(hosts: String) -> (Arc<Events>, Arc<Shared>) {
        let shared = Arc::new(Shared {
            hosts,
            losses: watch::Sender::new(0),
            denials: watch::Sender::new(0),
            denied: Mutex::default(),
        });
        (Arc::new(Events(Arc::clone(&shared))), shared)
    }
}

pub(super) struct Events(Arc<Shared>);

impl Events {
    /// How many denials are remembered.
    const DENIALS: usize = 16;

    pub(super) fn handle(&self, event: Event) {
        let server = &self.0.hosts;
        match event {
            Event::Disconnected => {
                self.0.losses.send_modify(|losses| *losses += 1);
                tracing::warn!(server, "lost the connection to NATS");
            }
            Event::Connected if *self.0.losses.borrow() > 0 => {
                tracing::info!(server, "connected to NATS again");
                // Permissions can be others now.
                self.denied().clear();
            }
            Event::ServerError(error) => self.server_error(&error.to_string()),
            Event::LameDuckMode => tracing::info!(server, "the NATS server is about to shut down"),
            Event::SlowConsumer(_) => {
                tracing::debug!(server, "messages arrive faster than they are read")
            }
            Event::ClientError(error) => tracing::debug!(server, %error, "NATS client"),
            Event::Connected | Event::Draining | Event::Closed => {}
        }
    }

    fn denied(&self) -> MutexGuard<'_, Vec<String>> {
        self.0
            .denied
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn server_error(&self, text: &str) {
        if !text.to_lowercase().contains("permissions violation") {
            tracing::warn!(
                server = self.0.hosts,
                error = text,
                "the NATS server reports an error"
            );
            return;
        }
        let mut denied = self.denied();
        if !denied.iter().any(|known| known == text) {
            tracing::warn!(
                server = self.0.hosts,
                error = text,
                "the NATS server denies a permission"
            );
            denied.truncate(Self::DENIALS - 1);
            denied.insert(0, text.to_owned());
        }
        drop(denied);
        self.0.denials.send_modify(|denials| *denials += 1);
    }
}
