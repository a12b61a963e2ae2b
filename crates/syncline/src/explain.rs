//! `syncline explain INDEX ID`: where one document is, from the source to the target.

mod conclude;

use bus::{Bus, Letters, Trail, dead_letters::Address, stream};
use config::{CommaList, SecretFileError};
use model::{DocumentId, IndexName, NameError, Version};
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};
use search::{Client, Found, MgetOptions, SourceArgs, TargetArgs};
use serde_json::Value;

use conclude::{AtSource, AtTarget, Facts, Reader};

/// Follows one document: what the source has of it, what the log, how far its readers are, what the target
/// has, and whether it is a dead letter.
///
/// It reads and changes nothing. The checkpoint folder of a watcher is not looked at: it belongs to the
/// process that has it open.
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
    /// How many of the stream's newest messages are looked at.
    #[arg(long, default_value = "2000", value_name = "N")]
    messages: u64,
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

    let mut facts = Facts::default();
    let at_source = wanted
        .look_up(&source)
        .await
        .map_err(ExplainError::Source)?;
    match &at_source {
        Some(found) => {
            let shard = source.shard_of(&wanted.index, wanted.routing.unwrap_or(&args.id));
            println!("source  {}", describe(found, shard.await.ok()));
        }
        None => println!("source  not found"),
    }
    facts.source = at_source.as_ref().and_then(|found| {
        let seq_no = found.seq_no?;
        Some(AtSource { seq_no })
    });
    if let Some(options) = args.nats.options("syncline-explain")? {
        let bus = options.connect().await?;
        wanted.look_into_log(&bus, args, &mut facts).await?;
        wanted.look_for_letter(&bus, args, &mut facts).await?;
    } else {
        println!("log     not looked at: give --nats-url");
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
    match facts.target {
        Some(at) => println!(
            "target  found: version {} (epoch {}, _seq_no {})",
            at.version,
            at.version.epoch(),
            at.version.position()
        ),
        None => println!("target  not found"),
    }
    println!("\n{}", facts.conclusion());
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

    async fn look_into_log(
        &self,
        bus: &Bus,
        args: &Args,
        facts: &mut Facts,
    ) -> Result<(), ExplainError> {
        let name = &args.stream;
        let document = (self.id.as_str(), self.routing);
        let trail = bus::trail(bus, name, self.index.as_str(), document, args.messages).await?;
        let (Some(trail), Some(info)) = (trail, stream::info(bus, name).await?) else {
            println!("log     there is no stream {name}");
            return Ok(());
        };
        print_trail(name, &trail);
        let own = trail
            .mentions
            .into_iter()
            .filter(|mention| mention.replay.is_none());
        facts.newest = own.max_by_key(|mention| (mention.version, mention.sequence));
        for reader in bus::readers(bus, &info).await? {
            let newest = facts.newest.as_ref();
            if newest.is_some_and(|newest| !reader.reads(&newest.subject)) {
                println!("reader  {}: does not read it", reader.consumer);
                continue;
            }
            let behind = info.last_sequence.saturating_sub(reader.floor);
            let state = if reader.held { "" } else { ", not running" };
            println!(
                "reader  {}: everything up to message {} is settled, {behind} are not{state}",
                reader.consumer, reader.floor
            );
            facts.readers.push(Reader {
                name: reader.consumer,
                floor: reader.floor,
            });
        }
        Ok(())
    }

    async fn look_for_letter(
        &self,
        bus: &Bus,
        args: &Args,
        facts: &mut Facts,
    ) -> Result<(), ExplainError> {
        let letters = Letters::new(bus, stream::ES_DLQ);
        let filter = Address::filter_about(self.index.as_str(), self.id.as_str(), self.routing);
        let mut pages = letters.list(&filter).await?;
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            for letter in page
                .into_iter()
                .filter(|letter| letter.stream == args.stream)
            {
                println!(
                    "letter  of reader {}, refused {} ×: {}",
                    letter.reader().unwrap_or("-"),
                    letter.attempts,
                    letter.reason
                );
                facts.letter = Some(letter);
            }
        }
    }
}

fn describe(found: &Found, shard: Option<u32>) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    format!(
        "found: _seq_no {}, _primary_term {}, _version {}, shard {}",
        number(found.seq_no),
        number(found.primary_term),
        number(found.version),
        number(shard.map(u64::from)),
    )
}

fn print_trail(name: &str, trail: &Trail) {
    let older = if trail.more {
        "; older ones were not looked at (--messages)"
    } else {
        ""
    };
    let looked = match trail.from > trail.to {
        true => "it holds no messages".to_owned(),
        false => format!("looked at messages {} to {}{older}", trail.from, trail.to),
    };
    println!("log     {name}: {looked}");
    if trail.mentions.is_empty() && trail.from <= trail.to {
        println!("        none of them is about it");
    }
    for mention in &trail.mentions {
        let replay = mention.replay.as_ref();
        let replay = replay.map_or(String::new(), |reader| {
            format!(", a dead letter sent again for {reader}")
        });
        println!(
            "        message {}: {} at version {} (epoch {}, _seq_no {}){replay}",
            mention.sequence,
            mention.operation,
            mention.version,
            mention.version.epoch(),
            mention.version.position(),
        );
    }
}

/// Whether both hold the same value. Numbers that are written differently count as different here;
/// `verify` knows better, and this is only asked where the versions agree.
fn same_content(source: &Found, target: &Found) -> bool {
    let parse = |found: &Found| serde_json::from_slice::<Value>(found.source.as_ref()?).ok();
    source.source == target.source || parse(source) == parse(target)
}
