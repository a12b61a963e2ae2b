//! `syncline check`: looks at everything a run needs before there is a run, and changes nothing.
//!
//! Each connection and each privilege is a finding of its own, with the remedy. A privilege is
//! proved by doing what needs it in a way that can have no effect (a write on a condition that
//! cannot hold, an index that no cluster would create), so the answer is the cluster's and not our
//! reading of its roles. The report goes on after a failure as far as that makes sense.

mod cluster;
mod folder;
mod postgres;
mod privileges;
mod report;
mod source;
mod stream;
mod target;

use std::path::PathBuf;

use bus::OptionalNatsArgs;
use config::CommaList;
use es_watcher::SourceRefresh;
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};
use search::{ArgsError, ClientConfig, IndexPatterns, SourceArgs, TargetArgs};

use pg_watcher::{PgArgs, SourceOptions};
use report::Report;

use crate::postgres_source;

/// Checks connections, privileges and storage before a run; changes nothing.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Source hosts (comma-separated URLs).
    #[arg(long, value_name = "URL")]
    source: Option<CommaList>,
    /// Target hosts (comma-separated URLs).
    #[arg(long, value_name = "URL")]
    target: Option<CommaList>,
    /// Index patterns (comma-separated); -NAME excludes.
    #[arg(
        long,
        env = "INDEX_PATTERNS",
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    indices: IndexPatterns,
    /// How the run will make changes visible at the source; natural needs no refresh privilege.
    #[arg(
        long,
        env = "SOURCE_REFRESH",
        value_enum,
        default_value = "force",
        value_name = "HOW"
    )]
    source_refresh: SourceRefresh,
    /// JetStream stream; looked at when a NATS URL is given.
    #[arg(long, env = "STREAM", default_value = bus::stream::ES_CHANGES, value_name = "NAME")]
    stream: String,
    /// Folder of the checkpoint store.
    #[arg(long, env = "CHECKPOINT_PATH", value_name = "PATH")]
    checkpoint_path: Option<PathBuf>,
    /// Create, write and delete an index syncline-check-… at the target.
    #[arg(long)]
    write_test: bool,
    /// Print the least privileges that source and target need, as role definitions.
    #[arg(long)]
    privileges: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Log level for details: error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "error", value_name = "LEVEL")]
    log_level: String,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
    #[command(flatten)]
    nats: OptionalNatsArgs,
    #[command(flatten)]
    postgres: PgArgs,
}

/// What the flags ask to look at.
struct Wanted {
    source: Option<ClientConfig>,
    postgres: Option<SourceOptions>,
    target: Option<ClientConfig>,
    nats: Option<bus::ConnectOptions>,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("source: {0}")]
    Source(ArgsError),
    #[error("target: {0}")]
    Target(ArgsError),
    #[error("source: {0}")]
    Postgres(#[from] pg_watcher::ArgsError),
    #[error(transparent)]
    Nats(#[from] config::SecretFileError),
    #[error(
        "there is nothing to check: give --source, --target, --nats-url or --checkpoint-path, or ask for --privileges"
    )]
    Nothing,
}

pub(crate) async fn run(args: Args) -> Exit {
    if let Err(error) = telemetry::init(&args.log_level, LogFormat::Auto) {
        exit::report(&error);
        return Exit::Usage;
    }
    if args.privileges {
        print!("{}", privileges::page(&args.indices, args.json));
        return Exit::Success;
    }
    let wanted = match args.wanted() {
        Ok(wanted) => wanted,
        Err(error) => {
            exit::report(&error);
            return Exit::Usage;
        }
    };
    let mut report = Report::new(args.json);
    look(&mut report, &args, wanted).await;
    report.finish()
}

impl Args {
    fn wanted(&self) -> Result<Wanted, UsageError> {
        let url = self.source.as_ref().and_then(postgres_source::url_of);
        let source = self.source.as_ref().filter(|_| url.is_none());
        let target = self.target.as_ref();
        let wanted = Wanted {
            postgres: url
                .map(|url| postgres_source::to_examine(&self.postgres, &url, &self.indices))
                .transpose()?,
            source: source
                .map(|hosts| self.source_access.client_config(hosts))
                .transpose()
                .map_err(UsageError::Source)?,
            target: target
                .map(|hosts| self.target_access.client_config(hosts))
                .transpose()
                .map_err(UsageError::Target)?,
            nats: self.nats.options("syncline check")?,
        };
        match wanted {
            Wanted {
                source: None,
                postgres: None,
                target: None,
                nats: None,
            } if self.checkpoint_path.is_none() => Err(UsageError::Nothing),
            wanted => Ok(wanted),
        }
    }
}

async fn look(report: &mut Report, args: &Args, wanted: Wanted) {
    let source = match &wanted.source {
        Some(config) => source::look(report, config, &args.indices, args.source_refresh).await,
        None => None,
    };
    if let Some(options) = &wanted.postgres {
        postgres::look(report, options).await;
    }
    if let Some(config) = &wanted.target {
        let plan = target::Plan {
            source: source.as_ref(),
            patterns: &args.indices,
            write_test: args.write_test,
        };
        target::look(report, config, &plan).await;
    }
    if let Some(options) = &wanted.nats {
        stream::look(report, options, &args.stream).await;
    }
    if let Some(path) = &args.checkpoint_path {
        let cluster = source.map(|source| source.client.server().cluster_uuid.clone());
        folder::look(report, path, cluster.as_deref());
    }
}
