//! `syncline verify SOURCE TARGET`: proves that both hold the same documents, or shows which differ.

use std::sync::Arc;

use config::CommaList;
use indicatif::{ProgressBar, ProgressStyle};
use model::IndexName;
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};
use search::{Client, IndexPatterns, SourceArgs, TargetArgs, Uncapturable};
use verify::{Pass, Report, Side, VerifyError, VerifyOptions};

/// Compares two clusters completely: every document, its content and its routing.
///
/// Exit code 0: equal; 3: different; 1: it could not be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Source hosts (comma-separated URLs).
    #[arg(value_name = "SOURCE_URL")]
    source: CommaList,
    /// Target hosts (comma-separated URLs).
    #[arg(value_name = "TARGET_URL")]
    target: CommaList,
    /// Index patterns to compare (comma-separated); -NAME excludes.
    #[arg(
        long,
        env = "INDEX_PATTERNS",
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    indices: IndexPatterns,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Most differences of each kind that are listed for an index; all are counted.
    #[arg(long, default_value = "20", value_name = "N")]
    limit: usize,
    /// Delete at the target what the source does not have: documents that were deleted where no
    /// watcher could know. Without this flag they are only listed.
    #[arg(long)]
    delete_extra: bool,
    /// Compare what is visible without refreshing first.
    #[arg(long)]
    no_refresh: bool,
    /// Log level for details: error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "error", value_name = "LEVEL")]
    log_level: String,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("source: {0}")]
    SourceArgs(search::ArgsError),
    #[error("target: {0}")]
    TargetArgs(search::ArgsError),
    #[error("source: {0}")]
    Source(search::Error),
    #[error("target: {0}")]
    Target(search::Error),
    #[error("no index of the source matches {0}: correct --indices")]
    NoIndex(String),
    #[error("index {index:?} of the source cannot be compared: {reason}")]
    Uncapturable { index: String, reason: Uncapturable },
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

pub(crate) async fn run(args: Args) -> Exit {
    if let Err(error) = telemetry::init(&args.log_level, LogFormat::Auto) {
        exit::report(&error);
        return Exit::Usage;
    }
    match compare(&args).await {
        Ok(report) => {
            print(&report, args.json);
            match report.equal() {
                true => Exit::Success,
                false => Exit::Different,
            }
        }
        Err(error) => exit::report(&error),
    }
}

async fn compare(args: &Args) -> Result<Report, CommandError> {
    let source = args.source_access.client_config(&args.source);
    let target = args.target_access.client_config(&args.target);
    let source = source.map_err(CommandError::SourceArgs)?;
    let target = target.map_err(CommandError::TargetArgs)?;
    let source = search::connect(&source)
        .await
        .map_err(CommandError::Source)?;
    let target = search::connect(&target)
        .await
        .map_err(CommandError::Target)?;
    let pairs = pairs(&source, &args.indices).await?;
    let options = VerifyOptions {
        refresh: !args.no_refresh,
        limit: args.limit,
        delete_extra: args.delete_extra,
        ..VerifyOptions::default()
    };
    let bar = Arc::new(Bar::new());
    let progress: Arc<dyn verify::Progress> = bar.clone();
    let report = verify::verify(&source, &target, &pairs, &options, &progress).await;
    bar.0.finish_and_clear();
    Ok(report?)
}

/// The source's indices, each with the target's of the same name.
async fn pairs(
    source: &Client,
    patterns: &IndexPatterns,
) -> Result<Vec<(IndexName, IndexName)>, CommandError> {
    let found = source.list_indices(patterns).await;
    let mut pairs = Vec::new();
    for index in found.map_err(CommandError::Source)? {
        let reason = index.uncapturable();
        let name = index.name;
        match reason {
            None => pairs.push((name.clone(), name)),
            Some(reason) if patterns.names().any(|named| named == name.as_str()) => {
                let index = name.to_string();
                return Err(CommandError::Uncapturable { index, reason });
            }
            Some(reason) => eprintln!("{name} is left out: {reason}"),
        }
    }
    match pairs.is_empty() {
        true => Err(CommandError::NoIndex(patterns.to_string())),
        false => Ok(pairs),
    }
}

fn print(report: &Report, json: bool) {
    if json {
        let report = serde_json::json!({ "equal": report.equal(), "indices": report.indices });
        println!("{report:#}");
        return;
    }
    print!("{report}");
    let count = report.indices.len();
    let differing = report.indices.iter().filter(|index| !index.equal()).count();
    let documents: u64 = report.indices.iter().map(|i| i.documents_source).sum();
    match differing {
        0 => println!("equal: yes ({documents} documents, {})", indices(count)),
        _ => println!("equal: NO ({differing} of {} differ)", indices(count)),
    }
}

fn indices(count: usize) -> String {
    match count {
        1 => "1 index".to_owned(),
        count => format!("{count} indices"),
    }
}

/// Documents compared so far, drawn on a terminal only.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template(
            "{prefix:24!} {msg:14} {wide_bar} {human_pos:>10}/{human_len} {per_sec:>12} {eta:>6}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

impl verify::Progress for Bar {
    fn begin(&self, index: &IndexName, pass: Pass, documents: u64) {
        self.0.reset();
        self.0.set_length(documents);
        self.0.set_prefix(index.to_string());
        self.0.set_message(match pass {
            Pass::Compare => "comparing",
            Pass::Narrow => "narrowing down",
            Pass::Find => "finding",
        });
    }

    fn advance(&self, _side: Side, documents: u64, _bytes: u64) {
        self.0.inc(documents);
    }
}
