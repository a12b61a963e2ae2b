//! The service's flags.

use std::path::PathBuf;

use ::config::{ByteSize, CommaList, Millis, Rate, Secret};
use search::EsArgs;

/// Answers searches of a cluster's indices over REST, each key within its scope.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Hosts of the cluster that is searched (comma-separated).
    #[arg(
        long,
        env = "ES_HOSTS",
        default_value = "http://localhost:9200",
        value_name = "HOST,..."
    )]
    pub es_hosts: CommaList,
    /// Address the API is served at.
    #[arg(
        long,
        env = "LISTEN",
        default_value = "127.0.0.1:8090",
        value_name = "ADDR"
    )]
    pub listen: String,
    /// Indices and aliases that are served (comma-separated; * stands for any text, - takes one away);
    /// those of the system only when they are named.
    #[arg(
        long,
        env = "INDICES",
        default_value = "*",
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub indices: CommaList,
    /// File with the API keys; it is read again when it changes. `syncline query-key` makes keys.
    #[arg(long, env = "KEYS_FILE", value_name = "PATH")]
    pub keys_file: Option<PathBuf>,
    /// No keys: whoever reaches the address may search all that is served.
    #[arg(long, env = "ANONYMOUS", conflicts_with = "keys_file")]
    pub anonymous: bool,
    /// Secret that cursors are sealed with, the same for all processes that share the work; without it a
    /// cursor is good for the process that gave it.
    #[arg(long, env = "CURSOR_SECRET", value_name = "SECRET")]
    pub cursor_secret: Option<Secret>,
    /// File with that secret.
    #[arg(
        long,
        env = "CURSOR_SECRET_FILE",
        value_name = "PATH",
        conflicts_with = "cursor_secret"
    )]
    pub cursor_secret_file: Option<PathBuf>,
    /// How long a snapshot that a list is read from is kept after each page.
    #[arg(
        long,
        env = "SNAPSHOT_TIME",
        default_value = "1m",
        value_name = "DURATION"
    )]
    pub snapshot_time: Millis,
    /// Most snapshots that the lists of a key are read from at once; 0 switches them off.
    #[arg(long, env = "MAX_SNAPSHOTS", default_value = "20", value_name = "N")]
    pub max_snapshots: usize,
    /// Queries in the cluster's own language for keys that may use them; only those kinds that cannot look
    /// past a filter.
    #[arg(long, env = "RAW_QUERIES")]
    pub raw_queries: bool,
    /// How long a search may take.
    #[arg(
        long,
        env = "SEARCH_TIMEOUT",
        default_value = "5s",
        value_name = "DURATION"
    )]
    pub search_timeout: Millis,
    /// How long a search waits at most for the position it was given.
    #[arg(
        long,
        env = "POSITION_TIMEOUT",
        default_value = "5s",
        value_name = "DURATION"
    )]
    pub position_timeout: Millis,
    /// Most searches at the cluster at once; more are told to come back.
    #[arg(long, env = "CONCURRENCY", default_value = "64", value_name = "N")]
    pub concurrency: usize,
    /// Most connections of callers.
    #[arg(long, env = "CONNECTIONS", default_value = "1024", value_name = "N")]
    pub connections: usize,
    /// Requests a second of a key that has no rate of its own, such as 50/s; no limit if not given.
    #[arg(long, env = "RATE", value_name = "N/s")]
    pub rate: Option<Rate>,
    /// Most documents in an answer.
    #[arg(long, env = "MAX_LIMIT", default_value = "1000", value_name = "N")]
    pub max_limit: u64,
    /// Documents in an answer if the caller does not say.
    #[arg(long, env = "DEFAULT_LIMIT", default_value = "10", value_name = "N")]
    pub default_limit: u64,
    /// Most conditions in a filter; each value of a list is one.
    #[arg(long, env = "MAX_CLAUSES", default_value = "256", value_name = "N")]
    pub max_clauses: usize,
    /// Most brackets within brackets in a filter.
    #[arg(long, env = "MAX_DEPTH", default_value = "8", value_name = "N")]
    pub max_depth: usize,
    /// Most conditions with like and ilike.
    #[arg(long, env = "MAX_PATTERNS", default_value = "4", value_name = "N")]
    pub max_patterns: usize,
    /// Most facets in a search.
    #[arg(long, env = "MAX_FACETS", default_value = "10", value_name = "N")]
    pub max_facets: usize,
    /// Most values of a facet.
    #[arg(
        long,
        env = "MAX_FACET_VALUES",
        default_value = "100",
        value_name = "N"
    )]
    pub max_facet_values: u64,
    /// Most searches in one request.
    #[arg(long, env = "MAX_SEARCHES", default_value = "10", value_name = "N")]
    pub max_searches: usize,
    /// Largest body.
    #[arg(long, env = "MAX_BODY", default_value = "64KB", value_name = "SIZE")]
    pub max_body: ByteSize,
    /// Longest URL.
    #[arg(long, env = "MAX_URL", default_value = "8KB", value_name = "SIZE")]
    pub max_url: ByteSize,
    /// Largest answer of the cluster that is taken.
    #[arg(long, env = "MAX_ANSWER", default_value = "16MB", value_name = "SIZE")]
    pub max_answer: ByteSize,
    /// Origins whose pages may ask (comma-separated, such as https://shop.example; * for all); none if
    /// not given.
    #[arg(long, env = "CORS_ORIGINS", value_name = "LIST")]
    pub cors_origins: Option<CommaList>,
    /// How long a browser may use an answer without asking again.
    #[arg(long, env = "CACHE_TIME", default_value = "0", value_name = "DURATION")]
    pub cache_time: Millis,
    /// How often the indices' fields are looked at.
    #[arg(
        long,
        env = "SCHEMA_INTERVAL",
        default_value = "10s",
        value_name = "DURATION"
    )]
    pub schema_interval: Millis,
    /// Searches that take longer are logged, without what they looked for.
    #[arg(
        long,
        env = "SLOW_SEARCH",
        default_value = "1s",
        value_name = "DURATION"
    )]
    pub slow_search: Millis,
    /// How to reach the cluster.
    #[command(flatten)]
    pub es: EsArgs,
}
