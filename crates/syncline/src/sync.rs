//! `syncline sync SOURCE TARGET`: source and writer joined in one process, with nothing between.

use std::{path::PathBuf, sync::Arc, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use config::{ByteSize, CommaList, Millis, Rate};
use es_watcher::{
    Checkpoints, Deletes, DiskStore, Memory, Owner, Requests, SearchSource, SourceOptions,
    SourceRefresh,
};
use es_writer::{FileDeadLetters, SearchWriter};
use futures::future::BoxFuture;
use indicatif::MultiProgress;
use model::{IndexName, Lineage};
use pg_watcher::PgArgs;
use pipeline::{ApplyOptions, Fault, PublishOptions, Registry, apply, channel, publish};
use runtime::{
    exit::{self, Exit},
    shutdown::DrainTimeout,
    telemetry::{self, LogFormat},
};
use search::{Choices, Client, IndexPatterns, SourceArgs, TargetArgs, retry};
use tokio_util::sync::CancellationToken;

use crate::{
    plan, postgres_source, program,
    progress::{Lines, Progress},
};

/// Batches that wait between source and writer.
pub(crate) const CHANNEL: usize = 4;
/// How long what is under way may take once a signal has come.
const DRAIN: Duration = Duration::from_secs(20);
/// How often `--follow` says how far it is behind.
const LAG_EVERY: Duration = Duration::from_secs(10);

/// Copies indices from one cluster to another; --follow keeps them equal.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Source hosts (comma-separated URLs), or postgres://user@host:5432/database.
    #[arg(value_name = "SOURCE_URL")]
    source: CommaList,
    /// Target hosts (comma-separated URLs).
    #[arg(value_name = "TARGET_URL")]
    target: CommaList,
    /// Index patterns to copy (comma-separated); -NAME excludes. Hidden indices and those that begin
    /// with a dot have to be named.
    #[arg(
        long,
        env = "INDEX_PATTERNS",
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    indices: IndexPatterns,
    /// Stay when everything is copied, and copy every change.
    #[arg(long)]
    follow: bool,
    /// Say what would be created and changed at the target, and what would stay as it is; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Folder to remember positions in, so that an interrupted copy goes on where it was.
    #[arg(long, env = "CHECKPOINT_PATH", value_name = "PATH")]
    checkpoint_path: Option<PathBuf>,
    /// Longest pause between two looks at the source while following.
    #[arg(long, env = "POLL_INTERVAL", default_value = "100", value_name = "MS")]
    poll_interval: Millis,
    /// How changes become visible: force refreshes the source before each round, natural waits for
    /// the index's own refresh.
    #[arg(
        long,
        env = "SOURCE_REFRESH",
        value_enum,
        default_value = "force",
        value_name = "HOW"
    )]
    source_refresh: SourceRefresh,
    /// Deletes while following, and between repeated copies with --checkpoint-path: on; off, so that
    /// what is deleted at the source stays at the target; or how often to count without a sign of any
    /// (on means 60s).
    #[arg(
        long,
        env = "DELETES",
        default_value = "on",
        value_name = "on|off|INTERVAL"
    )]
    deletes: Deletes,
    /// Most searches at the source at once.
    #[arg(long, env = "MAX_SEARCHES", default_value = "4", value_name = "N")]
    max_searches: usize,
    /// Most changes in one bulk.
    #[arg(long, env = "BATCH_SIZE", default_value = "1000", value_name = "N")]
    batch_size: usize,
    /// Size at which a bulk takes no further change.
    #[arg(long, env = "BATCH_BYTES", default_value = "5MB", value_name = "SIZE")]
    batch_bytes: ByteSize,
    /// Most bulks written side by side; fewer while the target is busy.
    #[arg(long, env = "CONCURRENCY", default_value = "4", value_name = "N")]
    concurrency: usize,
    /// Most documents copied in a second, such as 5000/s, to spare the cluster; no limit if not given.
    #[arg(long, env = "MAX_RATE", value_name = "N/s")]
    max_rate: Option<Rate>,
    /// Let the number of replicas follow the source, too; else a new index gets the source's, and it is
    /// yours from then on.
    #[arg(long, env = "FOLLOW_REPLICAS")]
    follow_replicas: bool,
    /// File for documents that the target refuses, with the reasons.
    #[arg(
        long,
        env = "DEAD_LETTERS",
        default_value = "syncline-dead-letters.ndjson",
        value_name = "PATH"
    )]
    dead_letters: PathBuf,
    /// Log level for details: error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "warn", value_name = "LEVEL")]
    log_level: String,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
    #[command(flatten)]
    postgres: PgArgs,
}

impl Args {
    fn choices(&self) -> Choices {
        Choices {
            replicas: self.follow_replicas,
        }
    }
}

/// Why a copy fails.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("source: {0}")]
    SourceArgs(search::ArgsError),
    #[error("target: {0}")]
    TargetArgs(search::ArgsError),
    #[error("source: {0}")]
    Source(search::Error),
    #[error("target: {0}")]
    Target(search::Error),
    #[error(
        "the source {0} and the target are the same cluster: a copy would overwrite its own source"
    )]
    Same(String),
    #[error(
        "source: no open index of the cluster {cluster:?} is called {name:?}; correct --indices"
    )]
    Missing { name: String, cluster: String },
    #[error(transparent)]
    Checkpoint(#[from] es_watcher::CheckpointError),
    #[error(transparent)]
    Ledger(#[from] es_watcher::LedgerError),
    #[error(transparent)]
    Postgres(#[from] postgres_source::CopyError),
    #[error(
        "--dry-run is not there for a PostgreSQL source: `syncline check --source` looks without changing anything"
    )]
    DryRun,
    #[error(transparent)]
    Pipeline(#[from] Fault),
    #[error(transparent)]
    Signals(#[from] std::io::Error),
    #[error(transparent)]
    Drain(#[from] DrainTimeout),
    #[error("{refused} documents were refused by the target and are in {file:?} with the reasons")]
    Refused { refused: u64, file: PathBuf },
}

pub(crate) async fn run(args: Args) -> Exit {
    let bars = MultiProgress::new();
    let lines = Lines(bars.clone());
    let started = telemetry::init_through(&args.log_level, LogFormat::Text, move || lines.clone());
    if let Err(error) = started {
        exit::report(&error);
        return Exit::Usage;
    }
    match copy(args, bars).await {
        Ok(()) => Exit::Success,
        Err(error) => exit::report(&error),
    }
}

async fn copy(args: Args, bars: MultiProgress) -> Result<(), SyncError> {
    if let Some(url) = postgres_source::url_of(&args.source) {
        return copy_postgres(args, url, bars).await;
    }
    let source = args
        .source_access
        .client_config(&args.source)
        .map_err(SyncError::SourceArgs)?;
    let target = args
        .target_access
        .client_config(&args.target)
        .map_err(SyncError::TargetArgs)?;
    let source = search::connect(&source).await.map_err(SyncError::Source)?;
    let target = search::connect(&target).await.map_err(SyncError::Target)?;
    let cluster = &source.server().cluster_uuid;
    if *cluster == target.server().cluster_uuid && !cluster.is_empty() {
        return Err(SyncError::Same(source.server().cluster_name.clone()));
    }
    check_names(&source, &args.indices).await?;
    if args.dry_run {
        return tell_plan(&source, &target, &args).await;
    }
    let progress = Arc::new(Progress::new(bars, &totals(&source, &args.indices).await?));
    let (shutdown, token) = program::on_signals(DRAIN)?;
    let joined = shutdown.run(join(&args, source, target, &progress, &token));
    let ended = joined.await.map_err(SyncError::from).flatten();
    conclude(&args, &progress, &token, ended)
}

/// The same from a PostgreSQL server.
async fn copy_postgres(args: Args, url: String, bars: MultiProgress) -> Result<(), SyncError> {
    if args.dry_run {
        return Err(SyncError::DryRun);
    }
    let target = args
        .target_access
        .client_config(&args.target)
        .map_err(SyncError::TargetArgs)?;
    let target = search::connect(&target).await.map_err(SyncError::Target)?;
    let copy = postgres_source::Copy {
        postgres: &args.postgres,
        url,
        indices: &args.indices,
        follow: args.follow,
        checkpoint_path: args.checkpoint_path.clone(),
        dead_letters: args.dead_letters.clone(),
        apply: apply_options(&args),
    };
    let progress = Arc::new(Progress::new(bars, &[]));
    let (shutdown, token) = program::on_signals(DRAIN)?;
    let registry = Arc::new(TargetLineages(target.clone()));
    let joined = shutdown.run(copy.join(target, registry, &progress, &token));
    let joined = joined.await.map_err(SyncError::from);
    let ended = joined.and_then(|copied| Ok(copied?));
    conclude(&args, &progress, &token, ended)
}

/// Says what was done.
fn conclude(
    args: &Args,
    progress: &Progress,
    token: &CancellationToken,
    ended: Result<(), SyncError>,
) -> Result<(), SyncError> {
    progress.finish();
    print_summary(progress);
    if token.is_cancelled() {
        eprintln!(
            "{}",
            match args.follow {
                false => "stopped before the end: the target has a part of the source",
                true => "stopped: the target stays as it is now; run it again to go on",
            }
        );
    }
    ended?;
    let refused = progress
        .summary()
        .0
        .iter()
        .map(|(_, index)| index.refused)
        .sum();
    match refused {
        0 => Ok(()),
        refused => Err(SyncError::Refused {
            refused,
            file: args.dead_letters.clone(),
        }),
    }
}

/// Checks that each index that is named is there: a slip in one of several must not go unnoticed.
async fn check_names(source: &Client, patterns: &IndexPatterns) -> Result<(), SyncError> {
    for name in patterns.names() {
        let alone = name.parse().expect("a part of a valid list is valid");
        let found = source
            .list_indices(&alone)
            .await
            .map_err(SyncError::Source)?;
        if found.is_empty() {
            return Err(SyncError::Missing {
                name: name.to_owned(),
                cluster: source.server().cluster_name.clone(),
            });
        }
    }
    Ok(())
}

/// Prints what a run would do.
async fn tell_plan(source: &Client, target: &Client, args: &Args) -> Result<(), SyncError> {
    for (index, documents) in totals(source, &args.indices).await? {
        let plan = plan::of(source, target, &index, args.choices()).await;
        let plan = plan.map_err(|(of_source, error)| match of_source {
            true => SyncError::Source(error),
            false => SyncError::Target(error),
        })?;
        for line in plan::lines(&index, &plan) {
            println!("{line}");
        }
        println!(
            "  {documents} documents are compared by version and written where they are newer"
        );
    }
    println!("nothing was changed");
    Ok(())
}

/// How many documents each index has, for the bars.
async fn totals(
    source: &Client,
    patterns: &IndexPatterns,
) -> Result<Vec<(IndexName, u64)>, SyncError> {
    let mut totals = Vec::new();
    for index in source
        .list_indices(patterns)
        .await
        .map_err(SyncError::Source)?
    {
        if index.uncapturable().is_none() {
            let count = source.count(&index.name).await.map_err(SyncError::Source)?;
            totals.push((index.name, count));
        }
    }
    Ok(totals)
}

/// Joins source and writer until the source ends or a signal comes.
async fn join(
    args: &Args,
    source: Client,
    target: Client,
    progress: &Arc<Progress>,
    shutdown: &CancellationToken,
) -> Result<(), SyncError> {
    let checkpoints = match &args.checkpoint_path {
        None => Checkpoints::in_memory(),
        Some(path) => {
            let owner = Owner {
                cluster_uuid: source.server().cluster_uuid.clone(),
                tenant: format!("sync into {}", target.server().cluster_uuid),
                stream: None,
            };
            Checkpoints::on_disk(DiskStore::open(path, &owner)?)
        }
    };
    // A copy that is neither repeated nor followed has nothing to compare with.
    let deletes = match args.follow || args.checkpoint_path.is_some() {
        true => args.deletes,
        false => Deletes::Off,
    };
    let ledger = deletes.ledger(args.checkpoint_path.as_deref())?;
    let options = SourceOptions {
        indices: args.indices.clone(),
        poll_interval: args.poll_interval.into(),
        refresh: args.source_refresh,
        searches: args.max_searches,
        max_rate: args.max_rate.map(Rate::per_second),
        follow: args.follow,
        deletes,
    };
    let memory = Memory {
        checkpoints,
        ledger,
        registry: Arc::new(TargetLineages(target.clone())),
        requests: Requests::default(),
        log: None,
    };
    let mut source = SearchSource::start(source, options, memory, progress.clone());
    let (mut sink, mut reader) = channel(CHANNEL);
    let window = PublishOptions::default();
    let publishing = async {
        let published = publish(&mut source, &mut sink, &window, progress.as_ref(), shutdown).await;
        drop(sink); // the reader comes to its end
        published
    };
    let letters = Arc::new(FileDeadLetters::new(&args.dead_letters));
    let applying = apply(
        &mut reader,
        Arc::new(SearchWriter::new(target).choosing(args.choices())),
        letters,
        progress.clone(),
        apply_options(args),
        shutdown,
    );
    let both = async { tokio::try_join!(publishing, applying).map(|_| ()) };
    let ended = tokio::select! {
        ended = both => ended,
        never = say_lag(progress, args.follow) => never,
    };
    source.close().await;
    // Stopped in the middle, one half sees the other end first: that is no failure.
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Ok(ended?)
    }
}

/// The epochs that the target holds: the writer keeps them there.
#[derive(Debug)]
struct TargetLineages(Client);

impl Registry for TargetLineages {
    fn known<'a>(
        &'a self,
        _: &'a str,
        index: &'a IndexName,
    ) -> BoxFuture<'a, Result<Option<Lineage>, Fault>> {
        Box::pin(async move {
            match self.0.lineage(index).await {
                Ok(known) => Ok(known),
                Err(search::Error::IndexNotFound { .. }) => Ok(None),
                Err(error) if retry::classify(&error) == retry::Decision::Retry => {
                    Err(Fault::retry(error))
                }
                Err(error) => Err(Fault::fatal(error)),
            }
        })
    }

    fn record<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<Lineage, Fault>> {
        Box::pin(std::future::ready(Ok(lineage.clone())))
    }
}

/// Says now and then how far a copy that is followed is behind.
pub(crate) async fn say_lag(progress: &Progress, follow: bool) -> Result<(), Fault> {
    loop {
        tokio::time::sleep(LAG_EVERY).await;
        if follow {
            progress.say_lag();
        }
    }
}

fn apply_options(args: &Args) -> ApplyOptions {
    ApplyOptions {
        lanes: args.concurrency,
        max_rate: args.max_rate.map(Rate::per_second),
        bulk_count: args.batch_size,
        bulk_bytes: args.batch_bytes.bytes() as usize,
        ..ApplyOptions::default()
    }
}

fn print_summary(progress: &Progress) {
    let (indices, started) = progress.summary();
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "index",
        "written",
        "already there",
        "refused",
        "MB",
        "seconds",
        "documents/s",
    ]);
    for (name, index) in indices {
        let seconds = index.last.duration_since(started).as_secs_f64().max(0.001);
        let done = index.applied + index.already + index.refused;
        table.add_row([
            name.to_string(),
            index.applied.to_string(),
            index.already.to_string(),
            index.refused.to_string(),
            format!("{:.1}", index.bytes as f64 / 1e6),
            format!("{seconds:.1}"),
            format!("{:.0}", done as f64 / seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}
