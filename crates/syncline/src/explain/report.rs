//! What was found, as it is printed: lines for people, or one JSON object whose shape is in
//! docs/operations.md.

use bus::{Letter, Mention, Trail};
use es_watcher::Remembered;
use model::Version;
use search::Found;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

use super::conclude::Conclusion;

/// All that was found. Members are added to it in later versions, and none is taken away.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) index: String,
    pub(super) id: String,
    pub(super) routing: Option<String>,
    /// `None` where the source has none.
    pub(super) source: Option<AtSource>,
    pub(super) ledger: LedgerView,
    pub(super) log: LogView,
    pub(super) readers: Vec<ReaderView>,
    pub(super) letters: Vec<LetterView>,
    /// `None` where the target has none.
    pub(super) target: Option<AtTarget>,
    pub(super) conclusion: Conclusion,
}

/// The document at the source.
#[derive(Debug, Clone, Serialize)]
pub(super) struct AtSource {
    pub(super) seq_no: Option<u64>,
    pub(super) primary_term: Option<u64>,
    pub(super) version: Option<u64>,
    pub(super) shard: Option<u32>,
}

impl AtSource {
    pub(super) fn new(found: &Found, shard: Option<u32>) -> AtSource {
        AtSource {
            seq_no: found.seq_no,
            primary_term: found.primary_term,
            version: found.version,
            shard,
        }
    }
}

/// What a watcher remembers of it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum LedgerView {
    /// Nobody has said where it is.
    NotLookedAt,
    /// There is none in the folder.
    Missing { folder: String },
    /// It was read.
    Read {
        folder: String,
        histories: Vec<HistoryView>,
    },
}

/// What the ledger has of it in one history of a shard.
#[derive(Debug, Clone, Serialize)]
pub(super) struct HistoryView {
    pub(super) shard: u32,
    pub(super) index_uuid: String,
    pub(super) history_uuid: String,
    pub(super) epoch: u8,
    /// Whether the source still has this history; `None` where that could not be found out.
    pub(super) current: Option<bool>,
    /// Everything of the shard up to here was read; -1 is nothing.
    pub(super) read_upto: i64,
    /// Whether the ledger knows all that was published of the history.
    pub(super) whole: bool,
    /// Where the document stands in it; `None` where it is not known.
    pub(super) seq_no: Option<u64>,
    pub(super) routing: Option<String>,
    pub(super) forgotten: Option<ForgottenView>,
}

/// A delete that was published lately.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ForgottenView {
    pub(super) seq_no: u64,
    pub(super) at_ms: u64,
}

impl HistoryView {
    pub(super) fn new(remembered: Remembered, current: Option<bool>) -> HistoryView {
        let (seq_no, routing) = match remembered.standing {
            Some(stood) => (Some(stood.seq_no), stood.routing.map(String::from)),
            None => (None, None),
        };
        HistoryView {
            shard: remembered.shard,
            index_uuid: remembered.index_uuid,
            history_uuid: remembered.history_uuid,
            epoch: remembered.epoch.0,
            current,
            read_upto: remembered.read_upto,
            whole: remembered.whole,
            seq_no,
            routing,
            forgotten: remembered.forgotten.map(|forgotten| ForgottenView {
                seq_no: forgotten.seq_no,
                at_ms: forgotten.at_ms,
            }),
        }
    }
}

/// What the log has of it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum LogView {
    /// Nobody has said where it is.
    NotLookedAt,
    /// There is no such stream.
    Missing { stream: String },
    /// It was read.
    Read {
        stream: String,
        /// The first message that was looked at; above `to` where there is none.
        from: u64,
        to: u64,
        /// Whether there are older ones, which were not looked at.
        older: bool,
        changes: Vec<ChangeView>,
    },
}

/// A change of it in the log.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ChangeView {
    pub(super) message: u64,
    pub(super) operation: String,
    #[serde(flatten)]
    pub(super) version: VersionView,
    /// The reader for which it is a dead letter that was sent again.
    pub(super) replay_for: Option<String>,
}

/// A version, and what it is made of.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct VersionView {
    version: u64,
    epoch: u8,
    seq_no: u64,
}

impl From<Version> for VersionView {
    fn from(version: Version) -> VersionView {
        VersionView {
            version: version.into(),
            epoch: version.epoch().0,
            seq_no: version.position(),
        }
    }
}

impl LogView {
    pub(super) fn read(stream: &str, trail: &Trail) -> LogView {
        let change = |mention: &Mention| ChangeView {
            message: mention.sequence,
            operation: mention.operation.to_string(),
            version: mention.version.into(),
            replay_for: mention.replay.clone(),
        };
        LogView::Read {
            stream: stream.to_owned(),
            from: trail.from,
            to: trail.to,
            older: trail.more,
            changes: trail.mentions.iter().map(change).collect(),
        }
    }
}

/// How far a reader of the log is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ReaderView {
    pub(super) name: String,
    /// Whether it reads the document's subject.
    pub(super) reads: bool,
    /// Everything up to this message is settled.
    pub(super) floor: u64,
    pub(super) behind: u64,
    pub(super) running: bool,
}

/// A dead letter of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LetterView {
    pub(super) reader: Option<String>,
    pub(super) attempts: u32,
    pub(super) reason: String,
    pub(super) version: Option<u64>,
}

impl From<&Letter> for LetterView {
    fn from(letter: &Letter) -> LetterView {
        LetterView {
            reader: letter.reader().map(str::to_owned),
            attempts: letter.attempts,
            reason: letter.reason.clone(),
            version: letter.version.map(u64::from),
        }
    }
}

/// The document at the target.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct AtTarget {
    #[serde(flatten)]
    pub(super) version: VersionView,
    /// Whether its content is the source's; `None` where the source has none.
    pub(super) same_content: Option<bool>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(at) => writeln!(
                f,
                "source  found: _seq_no {}, _primary_term {}, _version {}, shard {}",
                number(at.seq_no),
                number(at.primary_term),
                number(at.version),
                number(at.shard.map(u64::from)),
            )?,
            None => writeln!(f, "source  not found")?,
        }
        self.ledger.fmt(f)?;
        self.log.fmt(f)?;
        self.readers.iter().try_for_each(|reader| reader.fmt(f))?;
        for letter in &self.letters {
            let reader = letter.reader.as_deref().unwrap_or("-");
            let (attempts, reason) = (letter.attempts, &letter.reason);
            writeln!(
                f,
                "letter  of reader {reader}, refused {attempts} ×: {reason}"
            )?;
        }
        match self.target {
            Some(at) => writeln!(f, "target  found: {}", at.version)?,
            None => writeln!(f, "target  not found")?,
        }
        writeln!(f, "\n{}", self.conclusion.text)
    }
}

impl Display for LedgerView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (folder, histories) = match self {
            LedgerView::NotLookedAt => {
                return writeln!(
                    f,
                    "ledger  not looked at: give the watcher's --checkpoint-path, on the machine it runs on"
                );
            }
            LedgerView::Missing { folder } => {
                return writeln!(
                    f,
                    "ledger  there is none in {folder:?}: ask on the machine where the watcher runs, with its --checkpoint-path"
                );
            }
            LedgerView::Read { folder, histories } => (folder, histories),
        };
        if histories.is_empty() {
            writeln!(
                f,
                "ledger  {folder:?} has never read a shard of this index that could hold it"
            )?;
        }
        for history in histories {
            history.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for HistoryView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = match self.current {
            Some(true) => String::new(),
            Some(false) => format!(" of an earlier history, {}", self.history_uuid),
            None => format!(" of history {}", self.history_uuid),
        };
        let (shard, epoch) = (self.shard, self.epoch);
        write!(
            f,
            "ledger  shard {shard}{of} (epoch {epoch}), read up to {}: ",
            self.read_upto
        )?;
        match (self.seq_no, &self.routing, &self.forgotten) {
            (Some(seq_no), None, _) => writeln!(f, "known at _seq_no {seq_no}")?,
            (Some(seq_no), Some(routing), _) => {
                writeln!(
                    f,
                    "known at _seq_no {seq_no}, written with the routing {routing:?}"
                )?;
            }
            (None, _, Some(forgotten)) => {
                let ago = model::now_ms().saturating_sub(forgotten.at_ms) / 1000;
                let seq_no = forgotten.seq_no;
                writeln!(
                    f,
                    "it stood at _seq_no {seq_no}; its delete was published {ago} s ago"
                )?;
            }
            (None, _, None) => writeln!(f, "not known")?,
        }
        match self.whole {
            true => Ok(()),
            false => writeln!(
                f,
                "        it is younger than what was published: not all of that is in it"
            ),
        }
    }
}

impl Display for LogView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (stream, from, to, older, changes) = match self {
            LogView::NotLookedAt => return writeln!(f, "log     not looked at: give --nats-url"),
            LogView::Missing { stream } => {
                return writeln!(f, "log     there is no stream {stream}");
            }
            LogView::Read {
                stream,
                from,
                to,
                older,
                changes,
            } => (stream, from, to, older, changes),
        };
        let older = match older {
            true => "; older ones were not looked at (--messages)",
            false => "",
        };
        match from > to {
            true => writeln!(f, "log     {stream}: it holds no messages")?,
            false => writeln!(
                f,
                "log     {stream}: looked at messages {from} to {to}{older}"
            )?,
        }
        if changes.is_empty() && from <= to {
            writeln!(f, "        none of them is about it")?;
        }
        for change in changes {
            let replay = change.replay_for.as_ref();
            let replay = replay.map_or(String::new(), |reader| {
                format!(", a dead letter sent again for {reader}")
            });
            let (message, operation) = (change.message, &change.operation);
            writeln!(
                f,
                "        message {message}: {operation} at {}{replay}",
                change.version
            )?;
        }
        Ok(())
    }
}

impl Display for VersionView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let VersionView {
            version,
            epoch,
            seq_no,
        } = self;
        write!(f, "version {version} (epoch {epoch}, _seq_no {seq_no})")
    }
}

impl Display for ReaderView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (name, floor, behind) = (&self.name, self.floor, self.behind);
        if !self.reads {
            return writeln!(f, "reader  {name}: does not read it");
        }
        let state = if self.running { "" } else { ", not running" };
        writeln!(
            f,
            "reader  {name}: everything up to message {floor} is settled, {behind} are not{state}"
        )
    }
}

fn number(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::conclude::State, *};

    /// The example of docs/operations.md.
    fn example() -> Report {
        let version = Version::new(model::Epoch(0), 5).unwrap();
        Report {
            index: "assets".to_owned(),
            id: "7".to_owned(),
            routing: None,
            source: Some(AtSource {
                seq_no: Some(5),
                primary_term: Some(1),
                version: Some(2),
                shard: Some(0),
            }),
            ledger: LedgerView::Read {
                folder: "/data/checkpoint".to_owned(),
                histories: vec![HistoryView {
                    shard: 0,
                    index_uuid: "wEkqTjBuS0ymKBU4bFtpvQ".to_owned(),
                    history_uuid: "Yl0P3jQxTdG5nbhXcPZDLg".to_owned(),
                    epoch: 0,
                    current: Some(true),
                    read_upto: 5,
                    whole: true,
                    seq_no: Some(5),
                    routing: None,
                    forgotten: None,
                }],
            },
            log: LogView::Read {
                stream: "ES_CHANGES".to_owned(),
                from: 1,
                to: 4,
                older: false,
                changes: vec![ChangeView {
                    message: 4,
                    operation: "update".to_owned(),
                    version: version.into(),
                    replay_for: None,
                }],
            },
            readers: vec![ReaderView {
                name: "es-writer".to_owned(),
                reads: true,
                floor: 3,
                behind: 1,
                running: false,
            }],
            letters: Vec::new(),
            target: Some(AtTarget {
                version: Version::new(model::Epoch(0), 2).unwrap().into(),
                same_content: Some(false),
            }),
            conclusion: Conclusion {
                state: State::OnTheWay,
                text: "on its way: its newest change is message 4 of the log, and reader es-writer is behind by 1 messages".to_owned(),
            },
        }
    }

    #[test]
    fn the_operations_guide_shows_what_is_printed() {
        let guide = include_str!("../../../../docs/operations.md");
        let report = example();
        let text = report.to_string();
        assert!(guide.contains(&text), "not in docs/operations.md:\n{text}");
        let json = serde_json::to_string_pretty(&report).unwrap();
        assert!(guide.contains(&json), "not in docs/operations.md:\n{json}");
    }
}
