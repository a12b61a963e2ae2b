//! `syncline readers`: who reads a stream, how far, and who holds it back.

use bus::{Bus, ReaderStatus, StreamInfo, forget_reader, stream};
use comfy_table::{CellAlignment, Table, presets};
use config::SecretFileError;
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};

/// Lists the readers of a stream, or forgets one that will never come back.
///
/// A stream keeps what any registered reader has not settled. One that is gone for good therefore fills
/// it up, until it is forgotten.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What to do.
    #[arg(value_enum, default_value = "list", value_name = "ACTION")]
    action: Action,
    /// The reader to forget: the `--consumer` of an es-writer.
    #[arg(value_name = "NAME", required_if_eq("action", "forget"))]
    name: Option<String>,
    /// The stream.
    #[arg(long, env = "STREAM", default_value = stream::ES_CHANGES, value_name = "NAME")]
    stream: String,
    /// Forget a reader that says that it is reading.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    nats: bus::NatsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    List,
    Forget,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
enum ReadersError {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error("there is no stream {0}: correct --stream")]
    NoStream(String),
    #[error("stream {stream} has no reader {name:?}; it has {known}")]
    NoReader {
        stream: String,
        name: String,
        known: String,
    },
    #[error(
        "reader {name:?} says that it is reading, as {holder}: stop it first, or, where that process is dead, say --force"
    )]
    Reading { name: String, holder: String },
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

async fn act(args: &Args) -> Result<(), ReadersError> {
    let bus: Bus = args.nats.options("syncline-readers")?.connect().await?;
    let Some(info) = stream::info(&bus, &args.stream).await? else {
        return Err(ReadersError::NoStream(args.stream.clone()));
    };
    let readers = bus::readers(&bus, &info).await?;
    match (&args.action, &args.name) {
        (Action::Forget, Some(name)) => {
            let reader = find(&info, &readers, name)?;
            if reader.held && !args.force {
                return Err(ReadersError::Reading {
                    name: name.clone(),
                    holder: reader.holder.clone(),
                });
            }
            forget_reader(&bus, &info.name, name).await?;
            println!(
                "forgot reader {name}; what it had not read is removed once the other readers have settled it"
            );
        }
        _ => print(&info, &readers),
    }
    Ok(())
}

fn find<'a>(
    info: &StreamInfo,
    readers: &'a [ReaderStatus],
    name: &str,
) -> Result<&'a ReaderStatus, ReadersError> {
    let mut found = readers.iter().filter(|reader| reader.consumer == name);
    found.next().ok_or_else(|| {
        let names: Vec<&str> = readers.iter().map(|r| r.consumer.as_str()).collect();
        ReadersError::NoReader {
            stream: info.name.clone(),
            name: name.to_owned(),
            known: match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            },
        }
    })
}

fn print(info: &StreamInfo, readers: &[ReaderStatus]) {
    let room = match info.max_bytes {
        Some(most) => format!("{} % of {} MB", info.bytes * 100 / most.max(1), most >> 20),
        None => format!("{} MB, without a limit of its own", info.bytes >> 20),
    };
    println!("stream {}: {} messages, {room}", info.name, info.messages);
    if readers.is_empty() {
        println!("it has no reader, so it keeps everything");
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["reader", "floor", "unread", "reads", "state", "holder"]);
    for reader in readers {
        let silent = reader.silent_for.as_secs();
        let state = match reader.held {
            true => format!("reading, {silent} s ago"),
            false => format!("stopped {silent} s ago"),
        };
        let filter = match reader.filter_subjects.is_empty() {
            true => "everything".to_owned(),
            false => reader.filter_subjects.join("\n"),
        };
        table.add_row([
            reader.consumer.clone(),
            reader.floor.to_string(),
            info.last_sequence.saturating_sub(reader.floor).to_string(),
            filter,
            state,
            reader.holder.clone(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    let slowest = readers.iter().min_by_key(|reader| reader.floor);
    if let Some(slowest) = slowest.filter(|slowest| slowest.floor < info.last_sequence) {
        println!(
            "the stream keeps what {} has not settled; if it never comes back: syncline readers forget {}",
            slowest.consumer, slowest.consumer
        );
    }
}
