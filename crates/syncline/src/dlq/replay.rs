//! Sending letters again, and waiting for what becomes of them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bus::{Letter, ReaderStatus, stream};
use serde_json::json;

use super::{Desk, DlqError};

/// How often the readers' floors are looked at while waiting.
const LOOK: Duration = Duration::from_secs(2);

/// A stream and a reader of it.
type Reader = (String, String);

/// A letter that was sent, and not heard of yet.
struct Sent {
    subject: String,
    /// The letter's number when it was sent.
    at: u64,
    reader: Reader,
    /// The number of what was sent, in the reader's stream.
    sequence: u64,
    /// Whether its reader was past it when it was looked at last: then the answer should have come.
    passed: bool,
}

#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    gone: u64,
    /// They hold no change that could be read, or come from an early build.
    unfit: u64,
    written: u64,
    refused: u64,
    superseded: u64,
    /// Settled, and the answer was lost: their letters are gone, so either written or superseded.
    unknown: u64,
}

impl Desk<'_> {
    pub(super) async fn replay(&self) -> Result<(), DlqError> {
        let mut tally = Tally::default();
        let mut readers: BTreeMap<Reader, ReaderStatus> = BTreeMap::new();
        let mut waiting = HashMap::new();
        let answers = match self.args.wait {
            true => Some(self.bus.answers().await?),
            false => None,
        };
        self.each(self.args.limit, async |letter| {
            if letter.version.is_none() || letter.address.is_none() {
                tally.unfit += 1;
                return Ok(());
            }
            let reader = self.known(&mut readers, &letter).await?;
            let question = tally.sent.to_string();
            let reply = answers.as_ref().map(|answers| answers.subject(&question));
            match self.letters.replay(&letter, reply.as_deref()).await? {
                None => tally.gone += 1,
                Some(sequence) => {
                    tally.sent += 1;
                    if answers.is_some() {
                        let (subject, at) = (letter.subject, letter.at);
                        let sent = Sent {
                            subject,
                            at,
                            reader,
                            sequence,
                            passed: false,
                        };
                        waiting.insert(question, sent);
                    }
                }
            }
            Ok(())
        })
        .await?;
        if !self.args.json {
            self.say_sent(&tally, &readers);
        }
        if let Some(answers) = answers {
            self.wait(answers, waiting, &mut tally).await?;
        }
        self.say_outcome(&tally);
        match tally.refused {
            0 => Ok(()),
            refused => Err(DlqError::Refused { refused }),
        }
    }

    /// The reader of a letter, which has to be there: nobody else takes what is sent.
    async fn known(
        &self,
        readers: &mut BTreeMap<Reader, ReaderStatus>,
        letter: &Letter,
    ) -> Result<Reader, DlqError> {
        let name = letter.reader().unwrap_or_default().to_owned();
        let reader = (letter.stream.clone(), name);
        if readers.contains_key(&reader) {
            return Ok(reader);
        }
        match self.status(&reader).await? {
            Some(status) => {
                readers.insert(reader.clone(), status);
                Ok(reader)
            }
            None => Err(DlqError::NoReader {
                stream: reader.0,
                reader: reader.1,
            }),
        }
    }

    async fn status(&self, (stream, name): &Reader) -> Result<Option<ReaderStatus>, DlqError> {
        let Some(info) = stream::info(&self.bus, stream).await? else {
            return Ok(None);
        };
        let readers = bus::readers(&self.bus, &info).await?;
        Ok(readers.into_iter().find(|reader| reader.consumer == *name))
    }

    fn say_sent(&self, tally: &Tally, readers: &BTreeMap<Reader, ReaderStatus>) {
        if tally.unfit > 0 {
            println!(
                "{} cannot be sent again, because they hold no change that could be read: `syncline dlq show` has what they hold",
                tally.unfit
            );
        }
        if tally.sent == 0 {
            println!("no dead letter is meant: nothing is sent");
            return;
        }
        println!("sent {} dead letters again", tally.sent);
        for ((stream, name), reader) in readers {
            let when = match reader.held {
                true => "writes them in their turn",
                false => "is not running; it writes them when it is started",
            };
            println!("reader {name} of {stream} {when}");
        }
        if !self.args.wait {
            println!(
                "what is refused again is a dead letter again, with one more attempt: `syncline dlq list`; --wait waits and says what became of each"
            );
        }
    }

    /// Waits until every letter that was sent is written, refused or superseded.
    async fn wait(
        &self,
        mut answers: bus::Answers,
        mut waiting: HashMap<String, Sent>,
        tally: &mut Tally,
    ) -> Result<(), DlqError> {
        let mut look = tokio::time::interval(LOOK);
        while !waiting.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    eprintln!("stopped waiting; {} letters are not settled yet", waiting.len());
                    return Ok(());
                }
                Some((question, outcome)) = answers.next() => {
                    if waiting.remove(&question).is_some() {
                        tally.count(&outcome);
                    }
                }
                _ = look.tick() => self.look(&mut waiting, tally).await?,
            }
        }
        Ok(())
    }

    /// Settles what readers have passed without an answer that has reached us: a writer can be killed
    /// between the two.
    async fn look(
        &self,
        waiting: &mut HashMap<String, Sent>,
        tally: &mut Tally,
    ) -> Result<(), DlqError> {
        let mut floors: BTreeMap<Reader, u64> = BTreeMap::new();
        let mut settled = Vec::new();
        for (question, sent) in waiting.iter_mut() {
            let floor = match floors.get(&sent.reader) {
                Some(floor) => *floor,
                None => {
                    let status = self.status(&sent.reader).await?;
                    let floor = status.map_or(0, |status| status.floor);
                    floors.insert(sent.reader.clone(), floor);
                    floor
                }
            };
            // An answer may be a moment behind the floor.
            if floor >= sent.sequence && std::mem::replace(&mut sent.passed, true) {
                settled.push(question.clone());
            }
        }
        for question in settled {
            let Some(sent) = waiting.remove(&question) else {
                continue;
            };
            match self.letters.find(&sent.subject).await? {
                Some(letter) if letter.at > sent.at => tally.refused += 1,
                _ => tally.unknown += 1,
            }
        }
        Ok(())
    }

    fn say_outcome(&self, tally: &Tally) {
        if self.args.json {
            println!(
                "{}",
                json!({
                    "sent": tally.sent, "gone": tally.gone, "unfit": tally.unfit, "written": tally.written,
                    "refused": tally.refused, "superseded": tally.superseded,
                    "written_or_superseded": tally.unknown,
                })
            );
            return;
        }
        if tally.gone > 0 {
            println!("{} were gone before they could be sent", tally.gone);
        }
        if !self.args.wait || tally.sent == 0 {
            return;
        }
        println!(
            "written: {}, refused again: {}, superseded by a newer change: {}",
            tally.written, tally.refused, tally.superseded
        );
        if tally.unknown > 0 {
            println!(
                "{} are settled, written or superseded: the writer was restarted before it could say which",
                tally.unknown
            );
        }
    }
}

impl Tally {
    fn count(&mut self, outcome: &str) {
        let count = match outcome {
            "written" => &mut self.written,
            "refused" => &mut self.refused,
            "superseded" => &mut self.superseded,
            _ => &mut self.unknown,
        };
        *count += 1;
    }
}
