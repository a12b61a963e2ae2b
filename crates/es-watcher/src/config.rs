//! The watcher's flags.

use std::path::PathBuf;

use ::config::{ByteSize, CommaList, Millis, Rate};
use bus::{NatsArgs, PublisherOptions, StreamSpec, stream};
use model::{IndexName, Tenant};
use search::{EsArgs, IndexPatterns};

use crate::{Deletes, SourceRefresh};

/// Watches a source cluster and publishes its changes to NATS.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to watch, instead of --es-hosts: postgres://user@host:5432/database, or hosts of a cluster.
    #[arg(long, env = "SOURCE", value_name = "URL")]
    pub source: Option<CommaList>,
    /// Elasticsearch or OpenSearch hosts (comma-separated).
    #[arg(
        long,
        env = "ES_HOSTS",
        default_value = "http://localhost:9200",
        value_name = "HOST,..."
    )]
    pub es_hosts: CommaList,
    /// Index patterns to watch (comma-separated); -NAME excludes. Hidden indices and those that
    /// begin with a dot have to be named.
    #[arg(
        long,
        env = "INDEX_PATTERNS",
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    pub index_patterns: IndexPatterns,
    /// Tenant identifier for NATS subjects.
    #[arg(long, env = "TENANT", default_value = "default", value_name = "TENANT")]
    pub tenant: Tenant,
    /// Longest pause between two looks at the source; while there is work they follow each other
    /// within milliseconds.
    #[arg(long, env = "POLL_INTERVAL", default_value = "100", value_name = "MS")]
    pub poll_interval: Millis,
    /// Folder of the checkpoint store.
    #[arg(
        long,
        env = "CHECKPOINT_PATH",
        default_value = "/data/checkpoint",
        value_name = "PATH"
    )]
    pub checkpoint_path: PathBuf,
    /// How changes become visible: force refreshes the source before each round, natural waits for
    /// the index's own refresh.
    #[arg(
        long,
        env = "SOURCE_REFRESH",
        value_enum,
        default_value = "force",
        value_name = "HOW"
    )]
    pub source_refresh: SourceRefresh,
    /// Deletes: on; off, so that what is deleted at the source stays at the target; or how often to
    /// count without a sign of any (on means 60s).
    #[arg(
        long,
        env = "DELETES",
        default_value = "on",
        value_name = "on|off|INTERVAL"
    )]
    pub deletes: Deletes,
    /// Most searches at the source at once.
    #[arg(long, env = "MAX_SEARCHES", default_value = "4", value_name = "N")]
    pub max_searches: usize,
    /// Most documents read in a second, such as 5000/s, to spare the source; no limit if not given.
    #[arg(long, env = "MAX_RATE", value_name = "N/s")]
    pub max_rate: Option<Rate>,
    /// Index to write a canary into now and then: a document that says when it was sent, by whose age the
    /// es-writer with the same --canary measures the lag from end to end. The patterns have to mean it.
    /// Needs the privilege to write it; no canary if not given.
    #[arg(long, env = "CANARY", value_name = "INDEX")]
    pub canary: Option<IndexName>,
    /// How often a canary is written.
    #[arg(
        long,
        env = "CANARY_INTERVAL",
        default_value = "10s",
        value_name = "DURATION"
    )]
    pub canary_interval: Millis,
    /// JetStream stream to publish to; created when missing.
    #[arg(long, env = "STREAM", default_value = bus::stream::ES_CHANGES, value_name = "NAME")]
    pub stream: String,
    /// Share of the server's storage that the stream gets when it is created; unlimited if not given.
    #[arg(long, env = "STREAM_MAX_BYTES", value_name = "SIZE")]
    pub stream_max_bytes: Option<ByteSize>,
    /// On how many servers the stream keeps each message when it is created.
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_name = "N")]
    pub stream_replicas: usize,
    /// Compress messages with zstd at this level (1 to 22); 0 leaves them as they are.
    #[arg(long, env = "ZSTD_LEVEL", default_value = "1", value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(0..=22))]
    pub zstd_level: i32,
    /// Name of this watcher: of several with one name, one is active and the others stand by.
    #[arg(long, env = "WATCHER_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// How long the others wait when the active watcher falls silent.
    #[arg(long, env = "LEASE", default_value = "15s", value_name = "DURATION")]
    pub lease: Millis,
    /// How to reach the source.
    #[command(flatten)]
    pub es: EsArgs,
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
}

impl Args {
    /// The hosts of the cluster to watch.
    pub fn hosts(&self) -> &CommaList {
        self.source.as_ref().unwrap_or(&self.es_hosts)
    }

    /// The name under which watchers stand by for each other.
    pub fn name(&self) -> String {
        let default = || format!("es-watcher-{}", self.tenant);
        self.name.clone().unwrap_or_else(default)
    }

    /// The stream that is published to, as it is created when missing.
    pub fn stream_spec(&self) -> StreamSpec {
        StreamSpec {
            max_bytes: self.stream_max_bytes.map(|size| size.bytes()),
            replicas: self.stream_replicas,
            ..StreamSpec::new(&self.stream, stream::ES_CHANGES_SUBJECTS)
        }
    }

    /// As whom is published, and whose changes.
    pub fn publisher(&self) -> PublisherOptions {
        PublisherOptions {
            name: self.name(),
            lease: self.lease.into(),
            tenant: self.tenant.clone(),
            zstd_level: (self.zstd_level > 0).then_some(self.zstd_level),
        }
    }
}
