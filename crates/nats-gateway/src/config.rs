//! The gateway's flags.

use std::{net::SocketAddr, path::PathBuf};

use ::config::{ByteSize, CommaList, Millis, Secret, SecretFileError};
use bus::{ConnectOptions, DownstreamAccess, NatsAccess, stream};
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
    /// How much memory a process of jq expressions may take; there is one for each core, four at most.
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
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would make it the text of the heading")]
    pub access: DownstreamAccess,
}

impl DownstreamArgs {
    /// What a connection there needs; `None` where the output is where the input is.
    pub(crate) fn options(&self, name: &str) -> Result<Option<ConnectOptions>, SecretFileError> {
        let url = self.downstream_url.as_deref();
        url.map(|url| self.access.options(url, name)).transpose()
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
