//! What a client is told: plain values, already read from flags and files by others.

use std::{fmt, path::PathBuf, time::Duration};

use url::Url;

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The hosts of one cluster, at least one. A path is kept as a prefix. `user:password@` counts
    /// as basic authentication for that host.
    pub hosts: Vec<Url>,
    /// Who we are.
    pub auth: Auth,
    /// Certificates; matters for `https` hosts only.
    pub tls: Tls,
    /// Compress requests above 1 KiB and ask for compressed answers. It costs CPU on both sides, so
    /// it pays only where the network is slow or billed.
    pub gzip: bool,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How long a request may take from its first byte to the answer's last, all hosts together.
    pub request_timeout: Duration,
}

impl ClientConfig {
    /// The given hosts with defaults for everything else: no authentication, the system's roots, no
    /// compression, 5 s to connect and 60 s a request.
    pub fn new(hosts: Vec<Url>) -> ClientConfig {
        ClientConfig {
            hosts,
            auth: Auth::None,
            tls: Tls::default(),
            gzip: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// How a client shows who it is. `Debug` hides the secrets.
#[derive(Clone, Default)]
pub enum Auth {
    /// Not at all, or by `user:password@` in a host's URL.
    #[default]
    None,
    /// User and password.
    Basic {
        /// The user's name.
        user: String,
        /// The password in plain text.
        password: String,
    },
    /// An Elasticsearch API key in its encoded form (`id:key` in base64).
    ApiKey(String),
    /// A token for `Authorization: Bearer`.
    Bearer(String),
    /// Requests signed with AWS credentials from the usual chain: environment, profile, web
    /// identity, container, instance. They are renewed before they expire.
    SigV4 {
        /// Such as `eu-central-1`.
        region: String,
        /// Which of the two services answers.
        service: AwsService,
        /// A profile of the shared configuration files; the default one otherwise.
        profile: Option<String>,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Basic { user, .. } => write!(f, "Basic({user:?}, …)"),
            Auth::ApiKey(_) => f.write_str("ApiKey(…)"),
            Auth::Bearer(_) => f.write_str("Bearer(…)"),
            Auth::SigV4 {
                region, service, ..
            } => write!(f, "SigV4({region}, {})", service.name()),
        }
    }
}

/// The AWS services that speak this API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsService {
    /// Amazon OpenSearch Service domains.
    Es,
    /// Amazon OpenSearch Serverless collections.
    Aoss,
}

impl AwsService {
    /// The name that goes into the signature.
    pub fn name(self) -> &'static str {
        match self {
            AwsService::Es => "es",
            AwsService::Aoss => "aoss",
        }
    }
}

/// Certificates of an encrypted connection.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate and its intermediates, for mutual TLS.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    pub client_key_file: Option<PathBuf>,
    /// Accept any certificate. Anybody on the way can then read and change everything.
    pub insecure: bool,
}
