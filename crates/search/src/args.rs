//! The flags with which a cluster is reached, the same for every command that reaches one.
//!
//! A command with one cluster has them as `--es-user` and so on ([`EsArgs`]); one with two as
//! `--source-user` and `--target-user` ([`SourceArgs`], [`TargetArgs`]).

use std::{path::PathBuf, time::Duration};

use ::config::{CommaList, Millis, Secret, SecretFileError};
use runtime::{
    backoff::{Backoff, sleep_or_cancelled},
    health::Health,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{Auth, AwsService, Client, ClientConfig, Error, Tls, retry};

/// Which AWS service signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AwsServiceArg {
    /// Amazon OpenSearch Service domains.
    Es,
    /// Amazon OpenSearch Serverless collections.
    Aoss,
}

/// Why flags do not say how to reach a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// A host is no URL.
    #[error("{host:?} is no URL of a host: {reason}; write it as http://host:9200")]
    Host {
        /// The text.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// No host is given.
    #[error("no host of the cluster is given")]
    NoHost,
    /// A secret file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// More than one way to authenticate.
    #[error("give one way to authenticate, not both {0} and {1}")]
    TwoWays(&'static str, &'static str),
    /// A user without a password.
    #[error("the user {0:?} has no password; give one in the environment or as a password file")]
    NoPassword(String),
}

/// The flags' values, whatever they are called.
struct Values<'a> {
    user: &'a Option<String>,
    password: &'a Option<Secret>,
    password_file: &'a Option<PathBuf>,
    api_key: &'a Option<Secret>,
    bearer_token: &'a Option<Secret>,
    aws_region: &'a Option<String>,
    aws_service: AwsServiceArg,
    aws_profile: &'a Option<String>,
    tls: Tls,
    gzip: bool,
    timeout: Duration,
}

impl Values<'_> {
    fn config(self, hosts: &[String]) -> Result<ClientConfig, ArgsError> {
        let hosts = hosts
            .iter()
            .map(|host| parse_host(host))
            .collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(ArgsError::NoHost);
        }
        Ok(ClientConfig {
            auth: self.auth()?,
            tls: self.tls,
            gzip: self.gzip,
            request_timeout: self.timeout,
            ..ClientConfig::new(hosts)
        })
    }

    fn auth(&self) -> Result<Auth, ArgsError> {
        let mut ways: Vec<(&'static str, Auth)> = Vec::new();
        if let Some(user) = self.user {
            let password = Secret::given(self.password.as_ref(), self.password_file.as_deref())?
                .ok_or_else(|| ArgsError::NoPassword(user.clone()))?;
            let password = password.expose().to_owned();
            ways.push((
                "a user",
                Auth::Basic {
                    user: user.clone(),
                    password,
                },
            ));
        }
        if let Some(key) = self.api_key {
            ways.push(("an API key", Auth::ApiKey(key.expose().to_owned())));
        }
        if let Some(token) = self.bearer_token {
            ways.push(("a bearer token", Auth::Bearer(token.expose().to_owned())));
        }
        if let Some(region) = self.aws_region {
            let service = match self.aws_service {
                AwsServiceArg::Es => AwsService::Es,
                AwsServiceArg::Aoss => AwsService::Aoss,
            };
            let (region, profile) = (region.clone(), self.aws_profile.clone());
            ways.push((
                "an AWS region",
                Auth::SigV4 {
                    region,
                    service,
                    profile,
                },
            ));
        }
        match ways.as_slice() {
            [] => Ok(Auth::None),
            [(_, auth)] => Ok(auth.clone()),
            [(one, _), (other, _), ..] => Err(ArgsError::TwoWays(one, other)),
        }
    }
}

fn parse_host(host: &str) -> Result<Url, ArgsError> {
    let refuse = |reason: String| ArgsError::Host {
        host: ::config::mask_urls(host),
        reason,
    };
    let url = Url::parse(host).map_err(|error| refuse(error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(refuse(
            "it does not begin with http:// or https://".to_owned(),
        )),
    }
}

/// Connects as the cluster's kind asks for it: Serverless has no `GET /` to find the version by.
///
/// # Errors
/// When the cluster cannot be reached or refuses us.
pub async fn connect(config: &ClientConfig) -> Result<Client, Error> {
    match config.auth {
        Auth::SigV4 {
            service: AwsService::Aoss,
            ..
        } => Client::serverless(config).await,
        _ => Client::connect(config).await,
    }
}

/// Connects, and waits with growing pauses for a cluster that does not answer yet; meanwhile the
/// condition `what` of `health` says why. `None` when `shutdown` is cancelled first.
///
/// # Errors
/// What waiting does not help: wrong credentials, a certificate that does not fit.
pub async fn connect_with_retry(
    config: &ClientConfig,
    what: &str,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<Option<Client>, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let connected = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            connected = connect(config) => connected,
        };
        match connected {
            Ok(client) => {
                health.readiness.set(what, Ok(()));
                return Ok(Some(client));
            }
            Err(error) if retry::classify(&error) == retry::Decision::Retry => {
                let pause = backoff.next_delay();
                health.readiness.set(what, Err(error.to_string()));
                tracing::warn!(cluster = what, %error, ?pause, "the cluster does not answer; trying again");
                if !sleep_or_cancelled(pause, shutdown).await {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

macro_rules! cluster_args {
    ($(#[$doc:meta])* $name:ident, $flag:literal, $env:literal, $heading:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, clap::Args)]
        #[command(next_help_heading = $heading)]
        pub struct $name {
            /// User for basic authentication (or user:password@ in the host's URL).
            #[arg(id = concat!($flag, "-user"), long = concat!($flag, "-user"), env = concat!($env, "_USER"), value_name = "NAME")]
            user: Option<String>,
            /// The user's password; prefer the environment or a file to a flag, which others can see.
            #[arg(id = concat!($flag, "-password"), long = concat!($flag, "-password"), env = concat!($env, "_PASSWORD"), value_name = "PASSWORD")]
            password: Option<Secret>,
            /// File with the user's password.
            #[arg(id = concat!($flag, "-password-file"), long = concat!($flag, "-password-file"), env = concat!($env, "_PASSWORD_FILE"), value_name = "PATH")]
            password_file: Option<PathBuf>,
            /// Elasticsearch API key in its encoded form.
            #[arg(id = concat!($flag, "-api-key"), long = concat!($flag, "-api-key"), env = concat!($env, "_API_KEY"), value_name = "KEY")]
            api_key: Option<Secret>,
            /// Bearer token.
            #[arg(id = concat!($flag, "-bearer-token"), long = concat!($flag, "-bearer-token"), env = concat!($env, "_BEARER_TOKEN"), value_name = "TOKEN")]
            bearer_token: Option<Secret>,
            /// Sign requests for this AWS region with credentials from the usual chain.
            #[arg(id = concat!($flag, "-aws-region"), long = concat!($flag, "-aws-region"), env = concat!($env, "_AWS_REGION"), value_name = "REGION")]
            aws_region: Option<String>,
            /// The AWS service to sign for: es (domains) or aoss (Serverless).
            #[arg(id = concat!($flag, "-aws-service"), long = concat!($flag, "-aws-service"), env = concat!($env, "_AWS_SERVICE"), value_enum, default_value = "es", value_name = "SERVICE")]
            aws_service: AwsServiceArg,
            /// Profile of the AWS configuration files.
            #[arg(id = concat!($flag, "-aws-profile"), long = concat!($flag, "-aws-profile"), env = concat!($env, "_AWS_PROFILE"), value_name = "NAME")]
            aws_profile: Option<String>,
            /// Authorities to trust instead of the system's, as a PEM file.
            #[arg(id = concat!($flag, "-ca-file"), long = concat!($flag, "-ca-file"), env = concat!($env, "_CA_FILE"), value_name = "PATH")]
            ca_file: Option<PathBuf>,
            /// Our client certificate, as a PEM file.
            #[arg(id = concat!($flag, "-client-cert"), long = concat!($flag, "-client-cert"), env = concat!($env, "_CLIENT_CERT"), value_name = "PATH", requires = concat!($flag, "-client-key"))]
            client_cert: Option<PathBuf>,
            /// The client certificate's key, as a PEM file.
            #[arg(id = concat!($flag, "-client-key"), long = concat!($flag, "-client-key"), env = concat!($env, "_CLIENT_KEY"), value_name = "PATH", requires = concat!($flag, "-client-cert"))]
            client_key: Option<PathBuf>,
            /// Accept any certificate: anybody on the way can then read and change everything.
            #[arg(id = concat!($flag, "-tls-insecure"), long = concat!($flag, "-tls-insecure"), env = concat!($env, "_TLS_INSECURE"))]
            insecure: bool,
            /// Compress requests and answers; pays where the network is slow or billed.
            #[arg(id = concat!($flag, "-gzip"), long = concat!($flag, "-gzip"), env = concat!($env, "_GZIP"))]
            gzip: bool,
            /// How long a request may take.
            #[arg(id = concat!($flag, "-timeout"), long = concat!($flag, "-timeout"), env = concat!($env, "_TIMEOUT"), default_value = "60s", value_name = "DURATION")]
            timeout: Millis,
        }

        impl $name {
            /// What a client of the cluster behind `hosts` needs.
            ///
            /// # Errors
            /// When a host is no URL, a secret file cannot be read, or two ways of authentication
            /// are given.
            pub fn client_config(&self, hosts: &CommaList) -> Result<ClientConfig, ArgsError> {
                let values = Values {
                    user: &self.user,
                    password: &self.password,
                    password_file: &self.password_file,
                    api_key: &self.api_key,
                    bearer_token: &self.bearer_token,
                    aws_region: &self.aws_region,
                    aws_service: self.aws_service,
                    aws_profile: &self.aws_profile,
                    tls: Tls {
                        ca_file: self.ca_file.clone(),
                        client_cert_file: self.client_cert.clone(),
                        client_key_file: self.client_key.clone(),
                        insecure: self.insecure,
                    },
                    gzip: self.gzip,
                    timeout: self.timeout.into(),
                };
                values.config(hosts)
            }
        }
    };
}

cluster_args!(
    /// How to reach the cluster of a command that has one.
    EsArgs, "es", "ES", "Cluster access"
);
cluster_args!(
    /// How to reach the source of a command that has two clusters.
    SourceArgs, "source", "SOURCE", "Source access"
);
cluster_args!(
    /// How to reach the target of a command that has two clusters.
    TargetArgs, "target", "TARGET", "Target access"
);
