//! How a connection is made.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_nats::ConnectErrorKind;
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;

use super::{
    Bus, REQUEST_TIMEOUT,
    events::{Events, Shared},
    until_answered,
};
use crate::Error;

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
            jetstream: super::context(&client, REQUEST_TIMEOUT),
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
