//! The writer's flags.

use ::config::{ByteSize, CommaList, Millis, Rate};
use bus::NatsArgs;
use model::IndexName;
use search::EsArgs;

/// Reads changes from NATS and writes them into a target cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Target hosts (comma-separated).
    #[arg(
        long,
        env = "ES_HOSTS",
        default_value = "http://localhost:9200",
        value_name = "HOST,..."
    )]
    pub es_hosts: CommaList,
    /// JetStream stream to read.
    #[arg(long, env = "STREAM", default_value = bus::stream::ES_CHANGES, value_name = "NAME")]
    pub stream: String,
    /// Wait for a gateway before this writer, and never read what has not gone through it. Without this, a
    /// writer that is there first reads unfiltered until it sees that a gateway has marked the stream.
    #[arg(long, env = "EXPECT_GATEWAY")]
    pub expect_gateway: bool,
    /// Name of this reader: its position in the stream goes by it. Of several with one name, one is
    /// active and the others stand by.
    #[arg(
        long,
        env = "CONSUMER",
        default_value = "es-writer",
        value_name = "NAME"
    )]
    pub consumer: String,
    /// Subjects to read (comma-separated), such as es.iconik.assets; everything if not given.
    #[arg(long, env = "FILTER_SUBJECTS", value_name = "LIST")]
    pub filter_subjects: Option<CommaList>,
    /// Most changes in one bulk.
    #[arg(long, env = "BATCH_SIZE", default_value = "1000", value_name = "N", value_parser = at_least_one)]
    pub batch_size: usize,
    /// Size at which a bulk takes no further change; keep it below the target's limit for a request
    /// (10 MiB on small Amazon instances).
    #[arg(long, env = "BATCH_BYTES", default_value = "5MB", value_name = "SIZE")]
    pub batch_bytes: ByteSize,
    /// How long a bulk that is not full waits for more.
    #[arg(long, env = "BATCH_DELAY", default_value = "0", value_name = "MS")]
    pub batch_delay: Millis,
    /// Most bulks written side by side; fewer while the target is busy.
    #[arg(long, env = "CONCURRENCY", default_value = "4", value_name = "N", value_parser = at_least_one)]
    pub concurrency: usize,
    /// Most documents written in a second, such as 5000/s, to spare the cluster; no limit if not given.
    #[arg(long, env = "MAX_RATE", value_name = "N/s")]
    pub max_rate: Option<Rate>,
    /// Most bytes read and not yet written.
    #[arg(
        long,
        env = "IN_FLIGHT_BYTES",
        default_value = "8MB",
        value_name = "SIZE"
    )]
    pub in_flight_bytes: ByteSize,
    /// Let the number of replicas follow the source, too; else a new index gets the source's, and it is
    /// yours from then on.
    #[arg(long, env = "FOLLOW_REPLICAS")]
    pub follow_replicas: bool,
    /// Index whose documents are canaries of an es-watcher (its --canary): their age is exported when they
    /// are written.
    #[arg(long, env = "CANARY", value_name = "INDEX")]
    pub canary: Option<IndexName>,
    /// How long the others wait when the active reader falls silent; a bulk may not take longer.
    #[arg(long, env = "LEASE", default_value = "15s", value_name = "DURATION")]
    pub lease: Millis,
    /// Share of the server's storage that the stream gets when it is created, as the es-watcher's flag of
    /// this name; unlimited if not given.
    #[arg(long, env = "STREAM_MAX_BYTES", value_name = "SIZE")]
    pub stream_max_bytes: Option<ByteSize>,
    /// Share of the server's storage for dead letters when their stream is created.
    #[arg(long, env = "DLQ_MAX_BYTES", value_name = "SIZE")]
    pub dlq_max_bytes: Option<ByteSize>,
    /// On how many servers a dead letter is kept when their stream is created.
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_name = "N")]
    pub stream_replicas: usize,
    /// How to reach the target.
    #[command(flatten)]
    pub es: EsArgs,
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("is no number: {error}")),
    }
}
