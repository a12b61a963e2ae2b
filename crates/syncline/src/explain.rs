//! `syncline explain INDEX ID`: where one document is, from the source to the target.

mod conclude;
mod report;

use std::path::{Path, PathBuf};

use bus::{Bus, Letters, dead_letters::Address, stream};
use config::{CommaList, SecretFileError};
use es_watcher::{LedgerError, Remembered};
use model::{DocumentId, IndexName, NameError, Version};
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};
use search::{Client, Found, MgetOptions, SourceArgs, TargetArgs};
use serde_json::Value;

use conclude::{AtSource, AtTarget, Facts, InLedger, Reader};
use report::{HistoryView, LedgerView, LogView, ReaderView, Report};

/// Follows one document: what the source has of it, what the watcher's ledger, what the log, how far its
/// readers are, what the target has, and whether it is a dead letter.
///
/// It reads and changes nothing. The watcher may run meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The index.
    #[arg(value_name = "INDEX")]
    index: String,
    /// The document's id.
    #[arg(value_name = "ID")]
    id: String,
    /// The routing it was written with: without it a routed document seems not to be there.
    #[arg(long, value_name = "ROUTING")]
    routing: Option<String>,
    /// Source hosts (comma-separated URLs).
    #[arg(long, value_name = "URL")]
    source: CommaList,
    /// Target hosts (comma-separated URLs).
    #[arg(long, value_name = "URL")]
    target: CommaList,
    /// JetStream stream; looked at when a NATS URL is given.
    #[arg(long, env = "STREAM", default_value = stream::ES_CHANGES, value_name = "NAME")]
    stream: String,
    /// The watcher's folder, on the machine where it runs: what its ledger knows of the document. Not looked
    /// at when it is not given.
    #[arg(long, env = "CHECKPOINT_PATH", value_name = "PATH")]
    checkpoint_path: Option<PathBuf>,
    /// How many of the stream's newest messages are looked at.
    #[arg(long, default_value = "2000", value_name = "N")]
    messages: u64,
    /// Print one JSON object; its shape is in docs/operations.md.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
    #[command(flatten)]
    nats: bus::OptionalNatsArgs,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("source: {0}")]
    SourceArgs(search::ArgsError),
    #[error("target: {0}")]
    TargetArgs(search::ArgsError),
    #[error("source: {0}")]
    Source(search::Error),
    #[error("target: {0}")]
    Target(search::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot print the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

pub(crate) async fn run(args: Args) -> Exit {
    if let Err(error) = telemetry::init("error", LogFormat::Auto) {
        exit::report(&error);
        return Exit::Usage;
    }
    match explain(&args).await {
        Ok(()) => Exit::Success,
        Err(error) => exit::report(&error),
    }
}

/// A document that is asked for.
struct Wanted<'a> {
    index: IndexName,
    id: DocumentId,
    routing: Option<&'a str>,
}

async fn explain(args: &Args) -> Result<(), ExplainError> {
    let wanted = Wanted {
        index: args.index.parse()?,
        id: DocumentId::try_from(args.id.as_str())?,
        routing: args.routing.as_deref(),
    };
    let source = args.source_access.client_config(&args.source);
    let source = source.map_err(ExplainError::SourceArgs)?;
    let target = args.target_access.client_config(&args.target);
    let target = target.map_err(ExplainError::TargetArgs)?;
    let source = search::connect(&source)
        .await
        .map_err(ExplainError::Source)?;
    let target = search::connect(&target)
        .await
        .map_err(ExplainError::Target)?;

    let at_source = wanted
        .look_up(&source)
        .await
        .map_err(ExplainError::Source)?;
    let shard = source.shard_of(&wanted.index, wanted.routing.unwrap_or(&args.id));
    let shard = shard.await.ok(); // it needs a privilege that nothing else does
    let mut facts = Facts {
        routing: args.routing.clone(),
        ..Facts::default()
    };
    facts.source = at_source.as_ref().and_then(|found| {
        let seq_no = found.seq_no?;
        Some(AtSource { seq_no })
    });
    let ledger = match &args.checkpoint_path {
        None => LedgerView::NotLookedAt,
        Some(folder) => {
            wanted
                .look_into_ledger(&source, folder, shard, &mut facts)
                .await?
        }
    };
    let mut report = Report {
        index: args.index.clone(),
        id: args.id.clone(),
        routing: args.routing.clone(),
        source: at_source
            .as_ref()
            .map(|found| report::AtSource::new(found, shard)),
        ledger,
        log: LogView::NotLookedAt,
        readers: Vec::new(),
        letters: Vec::new(),
        target: None,
        conclusion: facts.conclusion(),
    };
    if let Some(options) = args.nats.options("syncline-explain")? {
        let bus = options.connect().await?;
        report.log = wanted
            .look_into_log(&bus, args, &mut facts, &mut report.readers)
            .await?;
        report.letters = wanted.look_for_letters(&bus, args, &mut facts).await?;
    }
    let at_target = wanted
        .look_up(&target)
        .await
        .map_err(ExplainError::Target)?;
    facts.target = at_target.as_ref().and_then(|found| {
        let version = Version::try_from(found.version?).ok()?;
        let same = at_source.as_ref().map(|source| same_content(source, found));
        Some(AtTarget { version, same })
    });
    report.target = facts.target.map(|at| report::AtTarget {
        version: at.version.into(),
        same_content: at.same,
    });
    report.conclusion = facts.conclusion();
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

impl Wanted<'_> {
    /// The document as it is now, refreshed or not.
    async fn look_up(&self, client: &Client) -> Result<Option<Found>, search::Error> {
        let options = MgetOptions {
            source: true,
            routing: false,
            node: None,
        };
        let found = client
            .mget(&self.index, &[(&self.id, self.routing)], options)
            .await;
        match found {
            Ok(found) => Ok(found
                .into_iter()
                .find(|found| found.found && found.routing.as_deref() == self.routing)),
            Err(search::Error::IndexNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the watcher's ledger has of it. An earlier history is told only where it knows the document.
    async fn look_into_ledger(
        &self,
        source: &Client,
        folder: &Path,
        shard: Option<u32>,
        facts: &mut Facts,
    ) -> Result<LedgerView, ExplainError> {
        let folder_name = folder.display().to_string();
        let Some(remembered) = es_watcher::remembered(folder, &self.index, &self.id)? else {
            return Ok(LedgerView::Missing {
                folder: folder_name,
            });
        };
        // Where the statistics are denied, or the index is gone, nobody can say which history it is.
        let stats = source.shard_stats(&[&self.index]).await.ok();
        let is_current = |known: &Remembered| {
            let stats = stats.as_ref()?;
            let has = stats.iter().any(|stats| {
                stats.shard == known.shard
                    && stats.index_uuid == known.index_uuid
                    && stats.history_uuid == known.history_uuid
            });
            Some(has && !known.over)
        };
        facts.ledger = Some(InLedger::Unknown);
        let mut histories = Vec::new();
        for known in remembered {
            let current = is_current(&known);
            let has_it = known.standing.is_some() || known.forgotten.is_some();
            let would_have_it =
                current != Some(false) && shard.is_none_or(|shard| shard == known.shard);
            if !has_it && !would_have_it {
                continue;
            }
            if current != Some(false) {
                match (&known.standing, &facts.ledger) {
                    (Some(stood), _) => {
                        facts.ledger = Some(InLedger::Known {
                            seq_no: stood.seq_no,
                            routing: stood.routing.as_deref().map(str::to_owned),
                        });
                    }
                    (None, Some(InLedger::Unknown)) if known.forgotten.is_some() => {
                        facts.ledger = Some(InLedger::Forgotten);
                    }
                    (None, _) => {}
                }
            }
            histories.push(HistoryView::new(known, current));
        }
        Ok(LedgerView::Read {
            folder: folder_name,
            histories,
        })
    }

    async fn look_into_log(
        &self,
        bus: &Bus,
        args: &Args,
        facts: &mut Facts,
        readers: &mut Vec<ReaderView>,
    ) -> Result<LogView, ExplainError> {
        let name = &args.stream;
        let document = (self.id.as_str(), self.routing);
        let trail = bus::trail(bus, name, self.index.as_str(), document, args.messages).await?;
        let (Some(trail), Some(info)) = (trail, stream::info(bus, name).await?) else {
            return Ok(LogView::Missing {
                stream: name.clone(),
            });
        };
        let view = LogView::read(name, &trail);
        let own = trail
            .mentions
            .into_iter()
            .filter(|mention| mention.replay.is_none());
        facts.newest = own.max_by_key(|mention| (mention.version, mention.sequence));
        for reader in bus::readers(bus, &info).await? {
            let newest = facts.newest.as_ref();
            let reads = newest.is_none_or(|newest| reader.reads(&newest.subject));
            readers.push(ReaderView {
                name: reader.consumer.clone(),
                reads,
                floor: reader.floor,
                behind: info.last_sequence.saturating_sub(reader.floor),
                running: reader.held,
            });
            if reads {
                facts.readers.push(Reader {
                    name: reader.consumer,
                    floor: reader.floor,
                });
            }
        }
        Ok(view)
    }

    async fn look_for_letters(
        &self,
        bus: &Bus,
        args: &Args,
        facts: &mut Facts,
    ) -> Result<Vec<report::LetterView>, ExplainError> {
        let letters = Letters::new(bus, stream::ES_DLQ);
        let filter = Address::filter_about(self.index.as_str(), self.id.as_str(), self.routing);
        let mut pages = letters.list(&filter).await?;
        let mut found = Vec::new();
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(found);
            }
            for letter in page
                .into_iter()
                .filter(|letter| letter.stream == args.stream)
            {
                found.push((&letter).into());
                facts.letter = Some(letter);
            }
        }
    }
}

/// Whether both hold the same value. Numbers that are written differently count as different here;
/// `verify` knows better, and this is only asked where the versions agree.
fn same_content(source: &Found, target: &Found) -> bool {
    let parse = |found: &Found| serde_json::from_slice::<Value>(found.source.as_ref()?).ok();
    source.source == target.source || parse(source) == parse(target)
}
