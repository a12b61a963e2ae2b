//! A connection to NATS whose server has been checked.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_nats::{
    Client, ConnectErrorKind, Event,
    connection::State,
    jetstream::{self, Context, context::ContextBuilder, response::Response},
};
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use runtime::backoff::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How long a request to the server may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the server is and who we are there.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// `nats://host:port`, several separated by commas; `tls://` asks for TLS. `user:password@` or
    /// `token@` before the first host counts where the fields below say nothing.
    pub url: String,
    /// A `.creds` file with a user's JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// A user's name; needs `password`.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// A token.
    pub token: Option<String>,
    /// A file with an nkey's seed.
    pub nkey_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's, as PEM.
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate, as PEM; needs `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// Its key, as PEM.
    pub tls_key: Option<PathBuf>,
    /// What the server calls this connection in its logs.
    pub name: String,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts = self.hosts();
        f.debug_struct("ConnectOptions")
            .field("hosts", &hosts)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// Connects once.
    ///
    /// # Errors
    /// When no server answers, refuses us, is too old or has no JetStream.
    pub async fn connect(&self) -> Result<Bus, Error> {
        let (events, shared) = Shared::new(self.hosts());
        let client = self
            .client_options(events)?
            .connect(self.addresses()?)
            .await;
        let client = client.map_err(|error| self.connect_error(&error))?;
        let bus = Bus {
            jetstream: context(&client, REQUEST_TIMEOUT),
            client,
            shared,
        };
        bus.check_server().await?;
        tracing::info!(
            server = bus.server_host(),
            version = bus.server_version(),
            "connected to NATS"
        );
        Ok(bus)
    }

    /// Connects, and waits with growing pauses for a server that does not answer yet. `None` when
    /// `shutdown` is cancelled first.
    ///
    /// # Errors
    /// What waiting does not help: wrong credentials, an old server, no JetStream.
    pub async fn connect_with_retry(
        &self,
        shutdown: &CancellationToken,
    ) -> Result<Option<Bus>, Error> {
        until_answered(shutdown, || self.connect()).await
    }

    /// The hosts without the secrets that a URL can carry.
    fn hosts(&self) -> String {
        let host = |url: &str| {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            rest.rsplit_once('@')
                .map_or(rest, |(_, host)| host)
                .trim_end_matches('/')
                .to_owned()
        };
        self.url
            .split(',')
            .map(|url| host(url.trim()))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn addresses(&self) -> Result<Vec<async_nats::ServerAddr>, Error> {
        let parse = |url: &str| {
            url.trim().parse().map_err(|error| {
                Error::Configuration(format!(
                    "{} is no NATS URL ({error}); write nats://host:4222",
                    self.hosts()
                ))
            })
        };
        self.url.split(',').map(parse).collect()
    }

    fn client_options(&self, events: Arc<Events>) -> Result<async_nats::ConnectOptions, Error> {
        let mut options = async_nats::ConnectOptions::new()
            .name(&self.name)
            .request_timeout(Some(REQUEST_TIMEOUT))
            // A connection that only looks alive is found out within half a minute.
            .ping_interval(Duration::from_secs(10))
            .event_callback(move |event| {
                events.handle(event);
                std::future::ready(())
            });
        if let Some(file) = &self.credentials_file {
            let text = read(file, "the credentials file")?;
            options = options
                .credentials(&text)
                .map_err(|error| unusable("the credentials file", file, &error))?;
        }
        if let Some(file) = &self.nkey_file {
            options = options.nkey(read(file, "the nkey file")?.trim().to_owned());
        }
        match (&self.user, &self.password, &self.token) {
            (Some(user), Some(password), None) => {
                options = options.user_and_password(user.clone(), password.clone());
            }
            (None, None, Some(token)) => options = options.token(token.clone()),
            (None, None, None) => options = self.url_credentials(options),
            _ => {
                let rule =
                    "a user needs a password and the other way round, and a token stands alone";
                return Err(Error::Configuration(rule.to_owned()));
            }
        }
        self.tls(options)
    }

    /// The client itself leaves out what a URL says about the user.
    fn url_credentials(&self, options: async_nats::ConnectOptions) -> async_nats::ConnectOptions {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let first = self.url.split(',').next().unwrap_or_default();
        let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
        match rest
            .rsplit_once('@')
            .map(|(secret, _)| secret.split_once(':').ok_or(secret))
        {
            None => options,
            Some(Ok((user, password))) => options.user_and_password(decode(user), decode(password)),
            Some(Err(token)) => options.token(decode(token)),
        }
    }

    fn tls(
        &self,
        mut options: async_nats::ConnectOptions,
    ) -> Result<async_nats::ConnectOptions, Error> {
        if let Some(ca) = &self.tls_ca {
            read(ca, "the CA file")?;
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                read(cert, "the client certificate")?;
                read(key, "the client key")?;
                options = options
                    .add_client_certificate(cert.clone(), key.clone())
                    .require_tls(true);
            }
            (None, None) => {}
            _ => {
                return Err(Error::Configuration(
                    "a client certificate and its key go together".to_owned(),
                ));
            }
        }
        Ok(options)
    }

    fn connect_error(&self, error: &async_nats::ConnectError) -> Error {
        let (server, reason) = (self.hosts(), error.to_string());
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                Error::Credentials { server, reason }
            }
            ConnectErrorKind::ServerParse => Error::Configuration(reason),
            // What is wrong with a certificate, ours or the server's, comes as an I/O error.
            ConnectErrorKind::Io
                if reason.contains("certificate") || reason.contains("fatal alert") =>
            {
                Error::Configuration(format!(
                    "TLS with {server}: {reason}: check the certificates of both sides and the authority"
                ))
            }
            ConnectErrorKind::Tls => Error::Configuration(format!("TLS with {server}: {reason}")),
            ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::Dns
            | ConnectErrorKind::MaxReconnects => Error::Unreachable { server, reason },
        }
    }
}

fn read(file: &PathBuf, what: &str) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|error| unusable(what, file, &error))
}

fn unusable(what: &str, file: &std::path::Path, error: &std::io::Error) -> Error {
    Error::Configuration(format!("{what} {} cannot be used: {error}", file.display()))
}

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

/// What the connection's events leave behind.
#[derive(Debug)]
struct Shared {
    hosts: String,
    losses: watch::Sender<u64>,
    denials: watch::Sender<u64>,
    denied: Mutex<Vec<String>>,
}

impl Shared {
    fn new(hosts: String) -> (Arc<Events>, Arc<Shared>) {
        let shared = Arc::new(Shared {
            hosts,
            losses: watch::Sender::new(0),
            denials: watch::Sender::new(0),
            denied: Mutex::default(),
        });
        (Arc::new(Events(Arc::clone(&shared))), shared)
    }
}

struct Events(Arc<Shared>);

impl Events {
    /// How many denials are remembered.
    const DENIALS: usize = 16;

    fn handle(&self, event: Event) {
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
