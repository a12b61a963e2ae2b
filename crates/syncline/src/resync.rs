//! `syncline resync INDEX`: documents go down the pipeline once more.

use std::{
    io::{self, BufRead},
    time::{Duration, Instant},
};

use bus::{MOST_DOCUMENTS, Named, Resync, Resyncs, stream};
use config::SecretFileError;
use model::{IndexName, NameError, Tenant};
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};

use crate::program;

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After how long it is said that nobody answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes an index, or some of its documents, once more: after a rule on the way was changed, or where
/// the target has a hole.
///
/// The request goes to the running es-watcher of the index, which reads the documents again and publishes
/// them in order among everything else, with the versions that they have, to replace what the target
/// has under these versions. Documents named with --id that are gone from the source are deleted at the
/// target. Of a whole index, deletes come as always; what only the target has, and nobody knows of, is
/// found by `syncline verify --repair`.
///
/// `syncline sync` has no stream: there, `syncline verify --repair --yes` writes again what differs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The index.
    #[arg(value_name = "INDEX")]
    index: String,
    /// A document's id; several by repeating it, or one a line from standard input with `--id -`.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    id: Vec<String>,
    /// The routing that the documents named with --id were written with. Only needed for those that are
    /// gone.
    #[arg(long, value_name = "ROUTING", requires = "id")]
    routing: Option<String>,
    /// Do not wait until the stream has everything.
    #[arg(long)]
    no_wait: bool,
    /// Show how far the newest request for the index is, and ask for nothing.
    #[arg(long, conflicts_with_all = ["id", "no_wait", "cancel"])]
    status: bool,
    /// Take the request for the index back. What the stream has of it stays there.
    #[arg(long, conflicts_with_all = ["id", "no_wait"])]
    cancel: bool,
    /// Tenant of the es-watcher.
    #[arg(long, env = "TENANT", default_value = "default", value_name = "TENANT")]
    tenant: Tenant,
    /// Stream of the es-watcher.
    #[arg(long, env = "STREAM", default_value = stream::ES_CHANGES, value_name = "NAME")]
    stream: String,
    #[command(flatten)]
    nats: bus::NatsArgs,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
enum ResyncError {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(
        "there is no stream {0}: correct --stream. Without NATS, `syncline verify --repair --yes` writes again what differs"
    )]
    NoStream(String),
    #[error(
        "a resync of {index} that was asked for {seconds} s ago is not done: wait for it (`syncline resync {index} --status`), or take it back with --cancel"
    )]
    UnderWay { index: String, seconds: u64 },
    #[error(
        "{given} documents are too many for one request, which takes {MOST_DOCUMENTS}: leave --id out to publish the whole index"
    )]
    TooMany { given: usize },
    #[error("nobody has asked for a resync of {0}")]
    NotAsked(String),
    #[error("the resync of {0} was taken back")]
    TakenBack(String),
}

pub(crate) async fn run(args: Args) -> Exit {
    if let Err(error) = telemetry::init("error", LogFormat::Auto) {
        exit::report(&error);
        return Exit::Usage;
    }
    match act(&args).await {
        Ok(()) => Exit::Success,
        Err(error) => exit::report(&error),
    }
}

async fn act(args: &Args) -> Result<(), ResyncError> {
    let index: IndexName = args.index.parse()?;
    let documents = documents(args)?;
    let bus = args.nats.options("syncline-resync")?.connect().await?;
    if stream::info(&bus, &args.stream).await?.is_none() {
        return Err(ResyncError::NoStream(args.stream.clone()));
    }
    let requests = Resyncs::open(&bus, &args.stream, &args.tenant, 1).await?;
    let not_asked = || ResyncError::NotAsked(index.to_string());
    if args.cancel || args.status {
        let known = requests.read(&index).await?.ok_or_else(not_asked)?;
        print(&known);
        if args.cancel {
            requests.forget(&index).await?;
            println!("taken back");
        }
        return Ok(());
    }
    let request = Resync::new(&index, documents);
    if let Some(known) = requests.ask(&request).await? {
        let since = model::now_ms().saturating_sub(known.asked_ms);
        return Err(ResyncError::UnderWay {
            index: known.index,
            seconds: since / 1000,
        });
    }
    if args.no_wait {
        println!("asked; `syncline resync {index} --status` shows how far it is");
        return Ok(());
    }
    wait(&requests, &index, &request).await
}

fn documents(args: &Args) -> Result<Option<Vec<Named>>, ResyncError> {
    let mut ids = Vec::new();
    for id in &args.id {
        match id.as_str() {
            "-" => {
                for line in io::stdin().lock().lines() {
                    ids.push(line?);
                }
            }
            id => ids.push(id.to_owned()),
        }
    }
    if args.id.is_empty() {
        return Ok(None);
    }
    if ids.len() > MOST_DOCUMENTS {
        return Err(ResyncError::TooMany { given: ids.len() });
    }
    let named = ids.into_iter().map(|id| Named {
        id,
        routing: args.routing.clone(),
    });
    Ok(Some(named.collect()))
}

/// Waits until the stream has everything that was asked for. A signal ends the waiting, not the resync.
async fn wait(requests: &Resyncs, index: &IndexName, request: &Resync) -> Result<(), ResyncError> {
    let (_shutdown, stop) = program::on_signals(Duration::from_secs(10))?;
    let began = Instant::now();
    let (mut shown, mut is_warned) = (String::new(), false);
    loop {
        let known = requests.read(index).await?;
        let Some(known) = known.filter(|known| known.id == request.id) else {
            return Err(ResyncError::TakenBack(index.to_string()));
        };
        if known.is_done() {
            print(&known);
            return Ok(());
        }
        let line = progress(&known);
        if line != shown {
            eprintln!("{line}");
            shown = line;
        }
        if known.of == 0 && !is_warned && began.elapsed() > PATIENCE {
            eprintln!(
                "nobody answers yet: is an es-watcher of this tenant running, of this version, and does it watch {index}? The request waits for it"
            );
            is_warned = true;
        }
        tokio::select! {
            () = stop.cancelled() => {
                println!("it goes on; `syncline resync {index} --status` shows how far it is");
                return Ok(());
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn progress(known: &Resync) -> String {
    if known.of == 0 {
        return "waiting for the es-watcher".to_owned();
    }
    let documents: u64 = known.shards.values().map(|shard| shard.documents).sum();
    let done = known.shards.values().filter(|shard| shard.done).count();
    format!("{documents} documents, {done} of {} shards done", known.of)
}

fn print(known: &Resync) {
    println!("{}: {}", known.index, progress(known));
    for (number, shard) in &known.shards {
        let state = match shard.done {
            true => "done".to_owned(),
            false => format!("read up to {} of {}", shard.upto, shard.goal),
        };
        println!(
            "  shard {number}: {state}, {} documents and {} deletes published again",
            shard.documents, shard.deletes
        );
        for (id, why) in &shard.kept {
            println!("    {id}: not deleted, {why}");
        }
    }
    if known.is_done() {
        println!(
            "the stream has all of it; the target has it once its writer has read that far (`syncline readers`)"
        );
    }
}
