//! The gateway's flags.

use std::{net::SocketAddr, path::PathBuf};

use ::config::{ByteSize, CommaList, Millis, Secret, SecretFileError};
use bus::{ConnectOptions, NatsAccess, stream};
use model::{IndexPatterns, Operation};
use transform::Selection;

/// Filters and transforms between two streams.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The nats-server that this process runs itself.
    #[command(flatten)]
    pub embedded: EmbeddedArgs,
    /// Upstream NATS URL: where the changes come from; several separated by commas.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://localhost:4222",
        value_name = "URL",
        help_heading = "External mode"
    )]
    pub upstream_url: String,
    /// Where they go.
    #[command(flatten)]
    pub downstream: DownstreamArgs,
    /// Include indices (comma-separated names and globs); everything if not given.
    #[arg(
        long,
        env = "INCLUDE_INDICES",
        value_name = "LIST",
        help_heading = "Filtering"
    )]
    pub include_indices: Option<IndexPatterns>,
    /// Exclude patterns (comma-separated names and globs).
    #[arg(
        long,
        env = "EXCLUDE_PATTERNS",
        value_name = "LIST",
        help_heading = "Filtering"
    )]
    pub exclude_patterns: Option<IndexPatterns>,
    /// Include operations (index,update,delete). What is left out is missing at the target: see
    /// docs/gateway.md.
    #[arg(
        long,
        env = "INCLUDE_OPERATIONS",
        value_name = "LIST",
        help_heading = "Filtering"
    )]
    pub include_operations: Option<CommaList>,
    /// File of filters and transforms; read again when it changes, and on SIGHUP.
    #[arg(long, env = "RULES", value_name = "FILE", help_heading = "Filtering")]
    pub rules: Option<PathBuf>,
    /// How long a jq expression may take on one document.
    #[arg(
        long,
        env = "JQ_TIMEOUT",
        default_value = "250ms",
        value_name = "DURATION",
        help_heading = "Filtering"
    )]
    pub jq_timeout: Millis,
    /// How much memory jq expressions may take.
    #[arg(
        long,
        env = "JQ_MEMORY",
        default_value = "64MB",
        value_name = "SIZE",
        help_heading = "Filtering"
    )]
    pub jq_memory: ByteSize,
    /// JetStream stream to read.
    #[arg(long, env = "STREAM", default_value = stream::ES_CHANGES, value_name = "NAME")]
    pub stream: String,
    /// JetStream stream to publish to; created when missing.
    #[arg(long, env = "OUTPUT_STREAM", default_value = stream::ES_GATEWAY, value_name = "NAME")]
    pub output_stream: String,
    /// Share of the server's storage that the output gets when it is created; with --embedded two fifths
    /// of --js-max-file, otherwise unlimited if not given.
    #[arg(long, env = "OUTPUT_MAX_BYTES", value_name = "SIZE")]
    pub output_max_bytes: Option<ByteSize>,
    /// On how many servers streams keep each message when they are created.
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_name = "N")]
    pub stream_replicas: usize,
    /// Name of this gateway: its position in the stream goes by it. Of several with one name, one is
    /// active and the others stand by.
    #[arg(
        long,
        env = "CONSUMER",
        default_value = "nats-gateway",
        value_name = "NAME"
    )]
    pub consumer: String,
    /// How long the others wait when the active gateway falls silent.
    #[arg(long, env = "LEASE", default_value = "15s", value_name = "DURATION")]
    pub lease: Millis,
    /// Compress messages that were changed with zstd at this level (1 to 22); 0 leaves them as they are.
    #[arg(long, env = "ZSTD_LEVEL", default_value = "1", value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(0..=22))]
    pub zstd_level: i32,
    /// Token that admin requests need which change something; without one they are off.
    #[arg(
        long,
        env = "ADMIN_TOKEN",
        value_name = "TOKEN",
        help_heading = "Operation"
    )]
    pub admin_token: Option<Secret>,
    /// File with that token.
    #[arg(
        long,
        env = "ADMIN_TOKEN_FILE",
        value_name = "PATH",
        help_heading = "Operation"
    )]
    pub admin_token_file: Option<PathBuf>,
    /// How to reach the upstream NATS.
    #[command(flatten)]
    pub nats: NatsAccess,
}

/// The embedded server.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Embedded mode")]
pub struct EmbeddedArgs {
    /// Run with embedded NATS server.
    #[arg(long, env = "EMBEDDED")]
    pub embedded: bool,
    /// Path to nats-server binary.
    #[arg(
        long,
        env = "NATS_BINARY",
        default_value = "/usr/bin/nats-server",
        value_name = "PATH"
    )]
    pub nats_binary: PathBuf,
    /// NATS listen address.
    #[arg(
        long,
        env = "NATS_LISTEN",
        default_value = "0.0.0.0:4222",
        value_name = "ADDR"
    )]
    pub nats_listen: SocketAddr,
    /// JetStream storage directory.
    #[arg(
        long,
        env = "STORE_DIR",
        default_value = "/data/jetstream",
        value_name = "PATH"
    )]
    pub store_dir: PathBuf,
    /// JetStream max memory (e.g., 64MB).
    #[arg(
        long,
        env = "JS_MAX_MEMORY",
        default_value = "64MB",
        value_name = "SIZE"
    )]
    pub js_max_memory: ByteSize,
    /// JetStream max file storage.
    #[arg(long, env = "JS_MAX_FILE", default_value = "1GB", value_name = "SIZE")]
    pub js_max_file: ByteSize,
}

/// Another cluster that the output is in.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Downstream NATS")]
pub struct DownstreamArgs {
    /// Downstream NATS URL (defaults to upstream).
    #[arg(long, env = "DOWNSTREAM_URL", value_name = "URL")]
    pub downstream_url: Option<String>,
    /// Credentials file there (JWT and seed).
    #[arg(long, env = "DOWNSTREAM_CREDENTIALS_FILE", value_name = "PATH")]
    pub downstream_credentials_file: Option<PathBuf>,
    /// User there.
    #[arg(long, env = "DOWNSTREAM_USER", value_name = "NAME")]
    pub downstream_user: Option<String>,
    /// The user's password; prefer the environment or a file to a flag, which others can see.
    #[arg(long, env = "DOWNSTREAM_PASSWORD", value_name = "PASSWORD")]
    pub downstream_password: Option<Secret>,
    /// File with the user's password.
    #[arg(long, env = "DOWNSTREAM_PASSWORD_FILE", value_name = "PATH")]
    pub downstream_password_file: Option<PathBuf>,
    /// Token there.
    #[arg(long, env = "DOWNSTREAM_TOKEN", value_name = "TOKEN")]
    pub downstream_token: Option<Secret>,
    /// File with an nkey's seed.
    #[arg(long, env = "DOWNSTREAM_NKEY_FILE", value_name = "PATH")]
    pub downstream_nkey_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's, as a PEM file.
    #[arg(long, env = "DOWNSTREAM_CA_FILE", value_name = "PATH")]
    pub downstream_ca_file: Option<PathBuf>,
    /// Our client certificate there, as a PEM file.
    #[arg(
        long,
        env = "DOWNSTREAM_CLIENT_CERT",
        value_name = "PATH",
        requires = "downstream_client_key"
    )]
    pub downstream_client_cert: Option<PathBuf>,
    /// The client certificate's key, as a PEM file.
    #[arg(
        long,
        env = "DOWNSTREAM_CLIENT_KEY",
        value_name = "PATH",
        requires = "downstream_client_cert"
    )]
    pub downstream_client_key: Option<PathBuf>,
}

impl DownstreamArgs {
    /// What a connection there needs; `None` where the output is where the input is.
    pub(crate) fn options(&self, name: &str) -> Result<Option<ConnectOptions>, SecretFileError> {
        let Some(url) = &self.downstream_url else {
            return Ok(None);
        };
        let access = NatsAccess {
            nats_credentials_file: self.downstream_credentials_file.clone(),
            nats_user: self.downstream_user.clone(),
            nats_password: self.downstream_password.clone(),
            nats_password_file: self.downstream_password_file.clone(),
            nats_token: self.downstream_token.clone(),
            nats_nkey_file: self.downstream_nkey_file.clone(),
            nats_ca_file: self.downstream_ca_file.clone(),
            nats_client_cert: self.downstream_client_cert.clone(),
            nats_client_key: self.downstream_client_key.clone(),
        };
        access.options(url, name).map(Some)
    }
}

impl Args {
    /// What the flags select.
    ///
    /// # Errors
    /// When an operation is none.
    pub fn selection(&self) -> Result<Selection, model::UnknownOperation> {
        let operations = self.include_operations.as_ref();
        let parse = |list: &CommaList| list.iter().map(|name| name.parse()).collect();
        Ok(Selection {
            include_indices: self.include_indices.clone(),
            exclude_patterns: self.exclude_patterns.clone(),
            include_operations: operations
                .map(parse)
                .transpose()?
                .map(|operations: Vec<Operation>| operations),
        })
    }

    pub(crate) fn admin_token(&self) -> Result<Option<Secret>, SecretFileError> {
        Secret::given(self.admin_token.as_ref(), self.admin_token_file.as_deref())
    }
}
