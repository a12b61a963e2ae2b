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

/// The flags of an access to NATS: clap has no prefixes, and two accesses in one command need names of their own.
macro_rules! access {
    ($(#[$docs:meta])* $name:ident, $heading:literal, $prefix:literal, $env:literal) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = $heading)]
        pub struct $name {
            /// Credentials file (JWT and seed).
            #[arg(id = concat!($prefix, "_credentials_file"), long = concat!($prefix, "-credentials-file"), env = concat!($env, "_CREDENTIALS_FILE"), value_name = "PATH")]
            pub credentials_file: Option<PathBuf>,
            /// User.
            #[arg(id = concat!($prefix, "_user"), long = concat!($prefix, "-user"), env = concat!($env, "_USER"), value_name = "NAME")]
            pub user: Option<String>,
            /// The user's password; prefer the environment or a file to a flag, which others can see.
            #[arg(id = concat!($prefix, "_password"), long = concat!($prefix, "-password"), env = concat!($env, "_PASSWORD"), value_name = "PASSWORD")]
            pub password: Option<Secret>,
            /// File with the user's password.
            #[arg(id = concat!($prefix, "_password_file"), long = concat!($prefix, "-password-file"), env = concat!($env, "_PASSWORD_FILE"), value_name = "PATH")]
            pub password_file: Option<PathBuf>,
            /// Token.
            #[arg(id = concat!($prefix, "_token"), long = concat!($prefix, "-token"), env = concat!($env, "_TOKEN"), value_name = "TOKEN")]
            pub token: Option<Secret>,
            /// File with an nkey's seed.
            #[arg(id = concat!($prefix, "_nkey_file"), long = concat!($prefix, "-nkey-file"), env = concat!($env, "_NKEY_FILE"), value_name = "PATH")]
            pub nkey_file: Option<PathBuf>,
            /// Authorities to trust instead of the system's, as a PEM file.
            #[arg(id = concat!($prefix, "_ca_file"), long = concat!($prefix, "-ca-file"), env = concat!($env, "_CA_FILE"), value_name = "PATH")]
            pub ca_file: Option<PathBuf>,
            /// Our client certificate, as a PEM file.
            #[arg(id = concat!($prefix, "_client_cert"), long = concat!($prefix, "-client-cert"), env = concat!($env, "_CLIENT_CERT"), value_name = "PATH", requires = concat!($prefix, "_client_key"))]
            pub client_cert: Option<PathBuf>,
            /// The client certificate's key, as a PEM file.
            #[arg(id = concat!($prefix, "_client_key"), long = concat!($prefix, "-client-key"), env = concat!($env, "_CLIENT_KEY"), value_name = "PATH", requires = concat!($prefix, "_client_cert"))]
            pub client_key: Option<PathBuf>,
        }

        impl $name {
            /// What a connection to `url` that calls itself `name` needs.
            ///
            /// # Errors
            /// When the password file cannot be read.
            pub fn options(&self, url: &str, name: &str) -> Result<ConnectOptions, SecretFileError> {
                let file = self.password_file.as_deref();
                let password = Secret::given(self.password.as_ref(), file)?;
                Ok(ConnectOptions {
                    url: url.to_owned(),
                    credentials_file: self.credentials_file.clone(),
                    user: self.user.clone(),
                    password: password.map(|password| password.expose().to_owned()),
                    token: self.token.as_ref().map(|token| token.expose().to_owned()),
                    nkey_file: self.nkey_file.clone(),
                    tls_ca: self.ca_file.clone(),
                    tls_cert: self.client_cert.clone(),
                    tls_key: self.client_key.clone(),
                    name: name.to_owned(),
                })
            }
        }
    };
}

access! {
    /// Who we are to NATS, and whom we trust.
    NatsAccess, "NATS access", "nats", "NATS"
}

access! {
    /// The same for another cluster, into which something is passed on.
    DownstreamAccess, "Downstream NATS", "downstream", "DOWNSTREAM"
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
