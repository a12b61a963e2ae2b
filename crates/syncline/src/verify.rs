//! `syncline verify SOURCE TARGET`: proves that both hold the same documents, or shows which differ.

mod bar;
mod continuous;
mod metrics;
mod rules;
mod source;
mod state;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use config::{CommaList, Millis, Rate};
use model::{IndexName, Tenant};
use pg_watcher::PgArgs;
use runtime::{
    exit::{self, Exit},
    telemetry,
};
use search::{ClientConfig, IndexPatterns, SourceArgs, TargetArgs, Uncapturable};
use verify::{By, IndexReport, Repair, Report, VerifyError, VerifyOptions};

use self::{
    bar::Bar,
    rules::Rules,
    source::{Address, Source, Teller},
    state::{State, StateError},
};
use crate::{
    postgres_source,
    program::{self, Operation},
};

/// Compares a source with a target completely: every document, its content (or its version) and its routing.
/// The source is a search cluster, or a PostgreSQL server whose rows are the documents.
///
/// Exit code 0: equal, if need be after a repair; 3: different; 1: it could not be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Source hosts (comma-separated URLs), or postgres://user@host:5432/database.
    #[arg(value_name = "SOURCE_URL", required_unless_present = "source_url")]
    source: Option<CommaList>,
    /// Target hosts (comma-separated URLs).
    #[arg(value_name = "TARGET_URL", required_unless_present = "target_url")]
    target: Option<CommaList>,
    /// The same as SOURCE_URL, by name.
    #[arg(
        id = "source_url",
        long = "source",
        conflicts_with = "source",
        value_name = "URL,..."
    )]
    source_url: Option<CommaList>,
    /// The same as TARGET_URL, by name.
    #[arg(
        id = "target_url",
        long = "target",
        conflicts_with = "target",
        value_name = "URL,..."
    )]
    target_url: Option<CommaList>,
    /// Index patterns to compare (comma-separated); -NAME excludes.
    #[arg(
        long,
        env = "INDEX_PATTERNS",
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    indices: IndexPatterns,
    /// What is compared of each document: content, or version, which reads no document and tells
    /// whether the newest change of each has arrived. If not given: content, and version with
    /// --continuous.
    #[arg(long, value_name = "content|version")]
    by: Option<By>,
    /// Rule file of the gateway that the target is filled through: what the rules make of the source is what
    /// the target has to hold.
    #[arg(long, env = "RULES", value_name = "FILE", conflicts_with_all = ["state", "continuous"])]
    rules: Option<PathBuf>,
    /// Tenant of the source, as rules may name it.
    #[arg(long, env = "TENANT", default_value = "default", value_name = "TENANT")]
    tenant: Tenant,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Most differences of each kind that are listed for an index; all are counted.
    #[arg(long, default_value = "20", value_name = "N")]
    limit: usize,
    /// Say what would have to be written and deleted at the target to make it equal; with --yes, do
    /// it.
    #[arg(long, conflicts_with = "delete_extra")]
    repair: bool,
    /// Do what --repair says.
    #[arg(long)]
    yes: bool,
    /// The narrow form of --repair --yes: delete at the target what the source does not have, and
    /// leave the rest.
    #[arg(long)]
    delete_extra: bool,
    /// After how long what differs is looked at again; only what stands still then is different.
    /// Longer than changes take from source to target; 0 where nobody writes.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    lag: Millis,
    /// Most documents read on each side in a second, such as 5000/s; no limit if not given.
    #[arg(long, value_name = "N/s")]
    max_rate: Option<Rate>,
    /// File that keeps which indices were found equal, so that a run that was interrupted goes on
    /// with the others when it is started again. Removed when the run is complete.
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
    /// Compare again and again until a signal comes, and serve what is found as metrics.
    #[arg(long, conflicts_with_all = ["repair", "delete_extra", "state", "json"])]
    continuous: bool,
    /// Pause between two comparisons with --continuous.
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    interval: Millis,
    /// Compare what is visible without refreshing first.
    #[arg(long)]
    no_refresh: bool,
    /// Log level for details: error, warn, info, debug or trace. If not given: error, and info with
    /// --continuous.
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
    #[command(flatten)]
    postgres: PgArgs,
    #[command(flatten)]
    operation: Operation,
}

impl Args {
    fn source(&self) -> &CommaList {
        let source = self.source.as_ref().or(self.source_url.as_ref());
        source.expect("one of the two is required")
    }

    fn options(&self) -> VerifyOptions {
        // Rows have no versions.
        let has_versions = postgres_source::url_of(self.source()).is_none();
        let default = match self.continuous && has_versions {
            true => By::Version,
            false => By::Content,
        };
        VerifyOptions {
            by: self.by.unwrap_or(default),
            refresh: !self.no_refresh,
            limit: self.limit,
            max_rate: self.max_rate.map(Rate::per_second),
            lag: self.lag.into(),
            repair: match (self.repair, self.yes, self.delete_extra) {
                (true, true, _) => Repair::All,
                (true, false, _) => Repair::Plan,
                (false, _, true) => Repair::Extra,
                (false, _, false) => Repair::No,
            },
            ..VerifyOptions::default()
        }
    }

    fn addresses(&self) -> Result<(Address, ClientConfig), CommandError> {
        let source = match postgres_source::url_of(self.source()) {
            Some(_) if self.by == Some(By::Version) => return Err(CommandError::NoVersions),
            Some(url) => {
                let options = postgres_source::to_examine(&self.postgres, &url, &self.indices)?;
                Address::Postgres(Box::new(options))
            }
            None => {
                let config = self.source_access.client_config(self.source());
                Address::Cluster(config.map_err(CommandError::SourceArgs)?)
            }
        };
        let target = self.target.as_ref().or(self.target_url.as_ref());
        let target = target.expect("one of the two is required");
        let target = self.target_access.client_config(target);
        Ok((source, target.map_err(CommandError::TargetArgs)?))
    }
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("--yes belongs to --repair: give both to change the target, or none")]
    YesToWhat,
    #[error(
        "--rules tells what documents hold, so they are compared by content: leave out --by version"
    )]
    RulesByVersion,
    #[error(transparent)]
    Rules(#[from] nats_gateway::RulesError),
    #[error("index {index}: {error}")]
    Rule {
        index: IndexName,
        error: transform::RuleError,
    },
    #[error("source: {0}")]
    SourceArgs(search::ArgsError),
    #[error("target: {0}")]
    TargetArgs(search::ArgsError),
    #[error(
        "rows of PostgreSQL have no versions: compare the contents, and leave out --by version"
    )]
    NoVersions,
    #[error("source: {0}")]
    PostgresArgs(#[from] pg_watcher::ArgsError),
    #[error("source: {0}")]
    Postgres(#[from] pg_watcher::SourceError),
    #[error("source: {0}")]
    Source(search::Error),
    #[error("target: {0}")]
    Target(search::Error),
    #[error("no index of the source matches {0}: correct --indices")]
    NoIndex(String),
    #[error("index {index:?} of the source cannot be compared: {reason}")]
    Uncapturable { index: String, reason: Uncapturable },
    #[error(
        "the source {0} and the target are the same cluster: a repair would write over its own source"
    )]
    Same(String),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Verify(Box<VerifyError>),
}

impl From<VerifyError> for CommandError {
    fn from(error: VerifyError) -> CommandError {
        CommandError::Verify(Box::new(error))
    }
}

/// Compares once, or as a service.
pub(crate) fn start(args: Args) -> ExitCode {
    if args.yes && !args.repair {
        return program::usage(&CommandError::YesToWhat);
    }
    let log_level = args.log_level.clone();
    if args.continuous {
        let log_level = log_level.as_deref().unwrap_or("info");
        return program::service(log_level, args.operation.clone(), |tasks, shared| {
            let token = tasks.token().clone();
            tasks.spawn("verify", continuous::run(args, shared, token));
        });
    }
    let log_level = log_level.as_deref().unwrap_or("error");
    if let Err(error) = telemetry::init(log_level, args.operation.log_format) {
        return program::usage(&error);
    }
    program::command(run(args))
}

async fn run(args: Args) -> Exit {
    match compare(&args).await {
        Ok((report, resumed)) => {
            print(&report, &resumed, args.json);
            match report.equal() {
                true => Exit::Success,
                false => Exit::Different,
            }
        }
        Err(error) => exit::report(&error),
    }
}

/// Indices that an interrupted run had found equal, and when.
type Resumed = Vec<(IndexName, String)>;

async fn compare(args: &Args) -> Result<(Report, Resumed), CommandError> {
    let (source, target) = args.addresses()?;
    let source = match source {
        Address::Postgres(options) => Source::Postgres(options, Teller::default()),
        Address::Cluster(config) => {
            let source = search::connect(&config).await;
            Source::Cluster(source.map_err(CommandError::Source)?, Teller::default())
        }
    };
    let target = search::connect(&target).await;
    let target = target.map_err(CommandError::Target)?;
    if let Source::Cluster(source, _) = &source
        && source.server().cluster_uuid == target.server().cluster_uuid
        && !source.server().cluster_uuid.is_empty()
        && (args.repair || args.delete_extra)
    {
        return Err(CommandError::Same(source.server().cluster_name.clone()));
    }
    let options = args.options();
    let rules = match &args.rules {
        Some(_) if options.by == By::Version => return Err(CommandError::RulesByVersion),
        Some(file) => Some(Rules::read(file, &args.tenant)?),
        None => None,
    };
    let mut state = match &args.state {
        Some(path) => Some(State::open(path, &source.id(), &target, options.by)?),
        None => None,
    };
    let mut report = Report::default();
    let mut resumed = Resumed::new();
    let bar = Arc::new(Bar::new());
    let progress: Arc<dyn verify::Progress> = bar.clone();
    for found in source.found(&args.indices).await? {
        let index = &found.index;
        let before = match &state {
            Some(state) => state.found_equal(index, &found.uuid, &target).await?,
            None => None,
        };
        if let Some((before, at)) = before {
            resumed.push((index.clone(), at));
            report.indices.push(before);
            continue;
        }
        if let Some(rules) = &rules {
            let places = rules.places(index);
            let places = places.map_err(|error| CommandError::Rule {
                index: index.clone(),
                error,
            })?;
            if places.is_empty() {
                eprintln!("{index} is left out: the rules let nothing of it through");
            }
            for (place, lens) in places {
                let options = VerifyOptions {
                    lens: Some(lens),
                    ..options.clone()
                };
                let compared = source.compare(&found, (&target, &place), &options, &progress);
                report
                    .indices
                    .push(compared.await.inspect_err(|_| bar.finish())?);
            }
            continue;
        }
        let compared = source.compare(&found, (&target, index), &options, &progress);
        let compared = compared.await.inspect_err(|_| bar.finish())?;
        if let Some(state) = &mut state {
            state.keep(&compared)?;
        }
        report.indices.push(compared);
    }
    bar.finish();
    if let Some(state) = state {
        state.complete()?;
    }
    Ok((report, resumed))
}

fn print(report: &Report, resumed: &[(IndexName, String)], json: bool) {
    if json {
        let resumed: Vec<_> = resumed
            .iter()
            .map(|(index, at)| serde_json::json!({ "index": index, "at": at }))
            .collect();
        let report = serde_json::json!({
            "equal": report.equal(),
            "resumed": resumed,
            "indices": report.indices,
        });
        println!("{report:#}");
        return;
    }
    print!("{report}");
    for (index, at) in resumed {
        println!("{index} was found equal at {at}, before this run was interrupted");
    }
    let count = report.indices.len();
    let is_known =
        |index: &&IndexReport| !index.equal() && (index.left > 0 || !index.target_exists);
    let differing = report.indices.iter().filter(is_known).count();
    let changing: u64 = report.indices.iter().map(|i| i.changing.count).sum();
    let documents: u64 = report.indices.iter().map(|i| i.documents_source).sum();
    match (differing, changing) {
        (0, 0) => println!("equal: yes ({documents} documents, {})", plural(count)),
        (0, _) => println!(
            "equal: NOT KNOWN ({changing} documents are still changing, the others of {} are equal)",
            plural(count)
        ),
        _ => println!("equal: NO ({differing} of {} differ)", plural(count)),
    }
}

fn plural(indices: usize) -> String {
    match indices {
        1 => "1 index".to_owned(),
        count => format!("{count} indices"),
    }
}
