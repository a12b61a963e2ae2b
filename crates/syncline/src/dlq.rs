//! `syncline dlq`: the dead letters, and what to do about them.

mod print;
mod replay;
mod select;

use std::{io, io::IsTerminal, time::Duration};

use bus::{Bus, Letter, Letters, dead_letters::Contents, stream};
use config::SecretFileError;
use runtime::{
    exit::{self, Exit},
    telemetry::{self, LogFormat},
};
use tokio_util::sync::CancellationToken;

use crate::program;
use print::Totals;
use select::Selection;

/// Lists the documents that a target has refused, shows one, sends them again, or removes them.
///
/// A letter goes by itself when its document is changed or deleted at the source and the target takes
/// that. After a mapping was corrected at the target, `replay` sends the letters again: each is written
/// only if nothing newer of its document has come since.
///
/// These are the letters of es-writer; `sync` writes its own into a file (--dead-letters).
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What to do.
    #[arg(value_enum, default_value = "list", value_name = "ACTION")]
    action: Action,
    #[command(flatten)]
    selection: Selection,
    /// Most letters that are listed, sent or removed; those parked longest come first. A list without it
    /// shows 50 and counts all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Wait until each letter that was sent is settled, and say what became of it.
    #[arg(long)]
    wait: bool,
    /// Remove without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    nats: bus::NatsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    List,
    Show,
    Replay,
    Drop,
}

/// How many letters a list shows when nobody says.
const SHOWN: usize = 50;

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
enum DlqError {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the document in the letter is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no dead letter is meant by {0}: `syncline dlq list` shows what there is")]
    None(String),
    #[error(
        "{count} dead letters are meant, and one can be shown: name it with --index, --id, --routing and --reader"
    )]
    Several { count: u64 },
    #[error("the letter is gone: its document was changed, deleted or sent again meanwhile")]
    Gone,
    #[error(
        "the letters of reader {reader:?} cannot be sent again, because stream {stream:?} has no such reader: start an es-writer with --consumer {reader} once, or remove them with `syncline dlq drop --reader {reader}`"
    )]
    NoReader { stream: String, reader: String },
    #[error("nobody is there to be asked: say --yes to remove {count} dead letters for good")]
    Unasked { count: u64 },
    #[error(
        "{refused} dead letters were refused again: `syncline dlq list` has the reasons; correct the target, or the documents at the source"
    )]
    Refused { refused: u64 },
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

async fn act(args: &Args) -> Result<(), DlqError> {
    let bus = args.nats.options("syncline-dlq")?.connect().await?;
    let (_shutdown, stop) = program::on_signals(Duration::from_secs(10))?;
    let desk = Desk {
        letters: Letters::new(&bus, stream::ES_DLQ),
        bus,
        args,
        stop,
    };
    match args.action {
        Action::List => desk.list().await,
        Action::Show => desk.show().await,
        Action::Replay => desk.replay().await,
        Action::Drop => desk.remove().await,
    }
}

/// What the actions share.
struct Desk<'a> {
    bus: Bus,
    letters: Letters,
    args: &'a Args,
    /// Cancelled by a signal: what is begun is finished, and nothing more is begun.
    stop: CancellationToken,
}

impl Desk<'_> {
    /// Calls `visit` with each letter that is meant, up to the limit.
    async fn each(
        &self,
        limit: Option<usize>,
        mut visit: impl AsyncFnMut(Letter) -> Result<(), DlqError>,
    ) -> Result<(), DlqError> {
        let mut left = limit.unwrap_or(usize::MAX);
        let mut pages = self.letters.list(&self.args.selection.filter()).await?;
        let now = now_ms();
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            for letter in page {
                if self.stop.is_cancelled() {
                    eprintln!("stopped before the end");
                    return Ok(());
                }
                if !self.args.selection.means(&letter, now) {
                    continue;
                }
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                visit(letter).await?;
            }
        }
    }

    async fn list(&self) -> Result<(), DlqError> {
        let (json, shown) = (self.args.json, self.args.limit.unwrap_or(SHOWN));
        let mut totals = Totals::default();
        let mut rows = Vec::new();
        // Without a limit everything is counted, and the first of it shown.
        self.each(self.args.limit, async |letter| {
            totals.add(&letter);
            match json {
                true => println!("{}", print::json(&letter)),
                false if rows.len() < shown => rows.push(letter),
                false => {}
            }
            Ok(())
        })
        .await?;
        if !json {
            print::table(&rows, &totals, now_ms());
        }
        Ok(())
    }

    async fn show(&self) -> Result<(), DlqError> {
        let (mut first, mut count) = (None, 0);
        self.each(None, async |letter| {
            first.get_or_insert(letter);
            count += 1;
            Ok(())
        })
        .await?;
        let Some(letter) = first else {
            return Err(DlqError::None(self.args.selection.to_string()));
        };
        if count > 1 {
            return Err(DlqError::Several { count });
        }
        let contents: Contents = self.letters.read(&letter).await?.ok_or(DlqError::Gone)?;
        match self.args.json {
            true => println!("{}", print::json_with(&letter, &contents)?),
            false => print::whole(&letter, &contents, now_ms()),
        }
        Ok(())
    }

    async fn remove(&self) -> Result<(), DlqError> {
        let mut totals = Totals::default();
        self.each(self.args.limit, async |letter| {
            totals.add(&letter);
            Ok(())
        })
        .await?;
        if totals.letters == 0 {
            println!("no dead letter is meant: nothing is removed");
            return Ok(());
        }
        if !self.args.yes && !confirmed(&totals)? {
            println!("nothing is removed");
            return Ok(());
        }
        let mut removed = 0;
        self.each(self.args.limit, async |letter| {
            self.letters.remove(&letter).await?;
            removed += 1;
            Ok(())
        })
        .await?;
        println!(
            "removed {removed} dead letters; the target stays without these changes until their documents change at the source"
        );
        Ok(())
    }
}

/// Asks at the terminal.
fn confirmed(totals: &Totals) -> Result<bool, DlqError> {
    let count = totals.letters;
    if !io::stdin().is_terminal() {
        return Err(DlqError::Unasked { count });
    }
    eprint!("{totals}remove these {count} dead letters for good? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
