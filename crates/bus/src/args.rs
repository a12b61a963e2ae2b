//! The flags with which NATS is reached, the same for every service.

use std::path::PathBuf;

use config::{Secret, SecretFileError};

use crate::ConnectOptions;

/// How to reach NATS.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "NATS access")]
pub struct NatsArgs {
    /// NATS server URL; several separated by commas.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://localhost:4222",
        value_name = "URL"
    )]
    pub nats_url: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would make it the text of the heading")]
    pub access: NatsAccess,
}

/// How to reach NATS, for what does without it where no URL is given.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "NATS access")]
pub struct OptionalNatsArgs {
    /// NATS server URL; several separated by commas.
    #[arg(long, env = "NATS_URL", value_name = "URL")]
    pub nats_url: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would make it the text of the heading")]
    pub access: NatsAccess,
}

impl OptionalNatsArgs {
    /// What a connection that calls itself `name` needs; `None` without a URL.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn options(&self, name: &str) -> Result<Option<ConnectOptions>, SecretFileError> {
        let url = self.nats_url.as_deref();
        url.map(|url| self.access.options(url, name)).transpose()
    }
}

/// Who we are to NATS, and whom we trust.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "NATS access")]
pub struct NatsAccess {
    /// Credentials file (JWT and seed).
    #[arg(long, env = "NATS_CREDENTIALS_FILE", value_name = "PATH")]
    pub nats_credentials_file: Option<PathBuf>,
    /// User.
    #[arg(long, env = "NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// The user's password; prefer the environment or a file to a flag, which others can see.
    #[arg(long, env = "NATS_PASSWORD", value_name = "PASSWORD")]
    pub nats_password: Option<Secret>,
    /// File with the user's password.
    #[arg(long, env = "NATS_PASSWORD_FILE", value_name = "PATH")]
    pub nats_password_file: Option<PathBuf>,
    /// Token.
    #[arg(long, env = "NATS_TOKEN", value_name = "TOKEN")]
    pub nats_token: Option<Secret>,
    /// File with an nkey's seed.
    #[arg(long, env = "NATS_NKEY_FILE", value_name = "PATH")]
    pub nats_nkey_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's, as a PEM file.
    #[arg(long, env = "NATS_CA_FILE", value_name = "PATH")]
    pub nats_ca_file: Option<PathBuf>,
    /// Our client certificate, as a PEM file.
    #[arg(
        long,
        env = "NATS_CLIENT_CERT",
        value_name = "PATH",
        requires = "nats_client_key"
    )]
    pub nats_client_cert: Option<PathBuf>,
    /// The client certificate's key, as a PEM file.
    #[arg(
        long,
        env = "NATS_CLIENT_KEY",
        value_name = "PATH",
        requires = "nats_client_cert"
    )]
    pub nats_client_key: Option<PathBuf>,
}

impl NatsArgs {
    /// What a connection that calls itself `name` needs.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn options(&self, name: &str) -> Result<ConnectOptions, SecretFileError> {
        self.access.options(&self.nats_url, name)
    }
}

impl NatsAccess {
    /// What a connection to `url` that calls itself `name` needs.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn options(&self, url: &str, name: &str) -> Result<ConnectOptions, SecretFileError> {
        let file = self.nats_password_file.as_deref();
        let password = Secret::given(self.nats_password.as_ref(), file)?;
        Ok(ConnectOptions {
            url: url.to_owned(),
            credentials_file: self.nats_credentials_file.clone(),
            user: self.nats_user.clone(),
            password: password.map(|password| password.expose().to_owned()),
            token: self
                .nats_token
                .as_ref()
                .map(|token| token.expose().to_owned()),
            nkey_file: self.nats_nkey_file.clone(),
            tls_ca: self.nats_ca_file.clone(),
            tls_cert: self.nats_client_cert.clone(),
            tls_key: self.nats_client_key.clone(),
            name: name.to_owned(),
        })
    }
}
