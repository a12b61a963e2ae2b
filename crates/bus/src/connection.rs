//! A connection to NATS whose server has been checked.

mod events;
mod options;

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    connection::State,
    jetstream::{self, Context, context::ContextBuilder, response::Response},
};
use futures::StreamExt;
use runtime::backoff::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;
use events::Shared;
pub use options::ConnectOptions;

/// How long a request to the server may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection with JetStream. Clones share it; it reconnects by itself.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: Context,
    shared: Arc<Shared>,
}

impl Bus {
    /// JetStream's interface.
    pub fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// The largest message the server takes, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// The server's version.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The hosts this connection was made with, for messages to people.
    pub fn server_host(&self) -> &str {
        &self.shared.hosts
    }

    /// Whether the connection stands right now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// A context whose requests and acknowledgments take at most `timeout`.
    pub(crate) fn context(&self, timeout: Duration) -> Context {
        context(&self.client, timeout)
    }

    /// A place where answers arrive that somebody sends to subjects of it.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn answers(&self) -> Result<Answers, Error> {
        let inbox = self.client.new_inbox();
        let subscription = self.client.subscribe(format!("{inbox}.*")).await;
        // The server has to know of it before anybody answers.
        let flushed = self.client.flush().await;
        match (subscription, flushed) {
            (Ok(subscription), Ok(())) => Ok(Answers {
                inbox,
                subscription,
            }),
            _ => Err(Error::Disconnected(self.server_host().to_owned())),
        }
    }

    /// Sends a text to a subject that somebody may listen on; it does not matter whether anybody does.
    pub(crate) fn tell(&self, subject: &str, text: &'static str) {
        let (client, subject) = (self.client.clone(), subject.to_owned());
        tokio::spawn(async move {
            if let Err(error) = client.publish(subject, text.into()).await {
                tracing::debug!(%error, "an answer was not sent");
            }
        });
    }

    /// A number that changes whenever the connection is lost: what was under way then may be lost.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.shared.losses.subscribe()
    }

    /// Changes whenever the server denies something; see [`Bus::denied`].
    pub(crate) fn denials(&self) -> watch::Receiver<u64> {
        self.shared.denials.subscribe()
    }

    /// What the server said when it denied something about a subject that starts like this. The
    /// protocol reports that apart from the request, which itself is never answered.
    pub(crate) fn denied(&self, subject: &str) -> Option<Error> {
        let denied = self
            .shared
            .denied
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = denied
            .iter()
            .find(|text| text.contains(&format!("\"{subject}")))?;
        Some(Error::Denied(text.clone()))
    }

    async fn check_server(&self) -> Result<(), Error> {
        let server = self.server_host().to_owned();
        if !self.client.is_server_compatible(2, 10, 0) {
            return Err(Error::TooOld {
                server,
                version: self.server_version(),
            });
        }
        let answer: Result<Response<serde::de::IgnoredAny>, _> =
            self.jetstream.request("INFO", &()).await;
        match answer {
            Ok(Response::Ok(_)) => Ok(()),
            Ok(Response::Err { error }) => match error.error_code() {
                jetstream::ErrorCode::JETSTREAM_NOT_ENABLED => Err(Error::NoJetStream {
                    server,
                    account: "",
                }),
                jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                    Err(Error::NoJetStream {
                        server,
                        account: " for this account",
                    })
                }
                _ => Err(crate::error::refused(
                    &server,
                    "JetStream's account information",
                    &error,
                )),
            },
            Err(error) => match error.kind() {
                jetstream::context::RequestErrorKind::NoResponders => Err(Error::NoJetStream {
                    server,
                    account: "",
                }),
                _ => Err(self
                    .denied("$JS.API.INFO")
                    .unwrap_or_else(|| Error::Unreachable {
                        server,
                        reason: format!("JetStream: {error}"),
                    })),
            },
        }
    }
}

/// Answers to several questions, told apart by the last token of their subjects.
#[derive(Debug)]
pub struct Answers {
    inbox: String,
    subscription: async_nats::Subscriber,
}

impl Answers {
    /// Where the answer to the question of that name, which is one token, has to go.
    pub fn subject(&self, question: &str) -> String {
        format!("{}.{question}", self.inbox)
    }

    /// The next answer: the question's name and the text. Cancel safe.
    pub async fn next(&mut self) -> Option<(String, String)> {
        let message = self.subscription.next().await?;
        let question = message.subject.rsplit('.').next().unwrap_or_default();
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        Some((question.to_owned(), text))
    }
}

fn context(client: &Client, timeout: Duration) -> Context {
    ContextBuilder::new()
        .timeout(timeout)
        // Publishers bound what is under way themselves, by batches and bytes. A second bound here
        // could only make them wait for acknowledgments that they have not begun to await.
        .max_ack_inflight(1 << 20)
        .backpressure_on_inflight(false)
        .build(client.clone())
}

/// Does `operation` again, with growing pauses, for as long as NATS is not there to answer; a server
/// may go away between a connection and the first request, too. `None` when `shutdown` is cancelled
/// first.
///
/// # Errors
/// What waiting does not help.
pub async fn until_answered<T, F>(
    shutdown: &CancellationToken,
    mut operation: impl FnMut() -> F,
) -> Result<Option<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut told = false;
    loop {
        let error = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            done = operation() => match done {
                Ok(done) => return Ok(Some(done)),
                Err(error) if error.is_silence() => error,
                Err(error) => return Err(error),
            },
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "waiting for NATS");
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}
