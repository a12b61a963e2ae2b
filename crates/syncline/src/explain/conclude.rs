//! From what was found to one sentence. Pure.

use bus::{Letter, Mention};
use model::{Operation, Version};
use serde::Serialize;

/// What follows: one word for programs, one sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Conclusion {
    pub(super) state: State,
    pub(super) text: String,
}

/// The word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// The target has the source's newest change.
    Equal,
    /// The log has its newest change, and a reader has not settled it.
    OnTheWay,
    /// Its newest change, or its first, is not published yet.
    NotPublished,
    /// Nobody writes it to this target, or somebody has deleted it there.
    NotWritten,
    /// The target refuses it.
    DeadLetter,
    /// Somebody else has written it at the target.
    Foreign,
    /// It was deleted at the source, and the watcher has yet to find that.
    DeleteNotFound,
    /// It was deleted at the source, and no watcher will find that.
    DeleteUnknown,
    /// Neither side has it.
    Nowhere,
}

impl State {
    fn because(self, text: impl Into<String>) -> Conclusion {
        Conclusion {
            state: self,
            text: text.into(),
        }
    }
}

/// A document at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtSource {
    pub(super) seq_no: u64,
}

/// A document at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtTarget {
    pub(super) version: Version,
    /// Whether its content is the source's; `None` where the source has none.
    pub(super) same: Option<bool>,
}

/// What the watcher's ledger has of it, in the history that the source has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InLedger {
    /// It was read last at this number, and has been published or is about to be.
    Known {
        seq_no: u64,
        routing: Option<String>,
    },
    /// Its delete was published in the last minutes.
    Forgotten,
    Unknown,
}

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) floor: u64,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The routing that was asked for.
    pub(super) routing: Option<String>,
    pub(super) source: Option<AtSource>,
    pub(super) target: Option<AtTarget>,
    /// `None` where nobody has looked into it.
    pub(super) ledger: Option<InLedger>,
    /// The newest change of it in the log, apart from dead letters that were sent again.
    pub(super) newest: Option<Mention>,
    /// Those who read its subject.
    pub(super) readers: Vec<Reader>,
    pub(super) letter: Option<Letter>,
}

impl Facts {
    pub(super) fn conclusion(&self) -> Conclusion {
        if let Some(letter) = &self.letter {
            let reader = letter.reader().unwrap_or("-");
            return State::DeadLetter.because(format!(
                "dead letter: the target of reader {reader} refuses it: {}",
                letter.reason
            ));
        }
        match (self.source, self.target) {
            (None, None) => self.on_neither(),
            (Some(source), Some(target)) => self.on_both(source, target),
            (Some(source), None) => self
                .on_the_way()
                .unwrap_or_else(|| self.only_at_source(source)),
            (None, Some(_)) => self.on_the_way().unwrap_or_else(|| self.only_at_target()),
        }
    }

    fn on_neither(&self) -> Conclusion {
        State::Nowhere.because(match &self.ledger {
            Some(InLedger::Known {
                routing: Some(routing),
                ..
            }) if self.routing.as_ref() != Some(routing) => {
                format!("neither side has it under this routing: it was written with --routing {routing}")
            }
            _ => "neither side has it: it was deleted, never there, or has a routing of its own (--routing)".to_owned(),
        })
    }

    fn only_at_source(&self, source: AtSource) -> Conclusion {
        if let Some(newest) = &self.newest {
            return State::NotWritten.because(format!(
                "lost at the target: every reader has settled message {}, which has its newest change; somebody has deleted it there, or no reader writes this index to this target: `syncline verify` names all such documents",
                newest.sequence
            ));
        }
        match &self.ledger {
            None => State::NotPublished.because("not at the target, and not in what was looked at of the log: the watcher has not published it yet, or it was published long ago and somebody has deleted it at the target"),
            Some(InLedger::Known { seq_no, .. }) if *seq_no >= source.seq_no => State::NotWritten.because(
                "not at the target, though the watcher has read its newest change: it is about to be published, or it was published before what was looked at of the log and somebody has deleted it at the target",
            ),
            Some(_) => State::NotPublished.because("the watcher has not read it yet"),
        }
    }

    fn only_at_target(&self) -> Conclusion {
        match &self.ledger {
            None => State::DeleteNotFound.because("deleted at the source, and the delete is not found yet: the watcher counts every minute; one that it never knew of is named by `syncline verify`, and deleted by its --delete-extra"),
            Some(InLedger::Known { .. }) => State::DeleteNotFound.because(
                "deleted at the source, and the delete is not found yet: the watcher still knows the document, and counts every minute",
            ),
            Some(InLedger::Forgotten) => State::NotWritten.because(
                "its delete was published, and every reader has settled what was looked at of the log: no reader writes this index to this target, or somebody has written it there again",
            ),
            Some(InLedger::Unknown) => State::DeleteUnknown.because(
                "not at the source, and the watcher does not know it: it was deleted where no ledger could know, or somebody else wrote it at the target. No watcher will delete it there: `syncline verify` names it, and its --delete-extra deletes it",
            ),
        }
    }

    fn on_both(&self, source: AtSource, target: AtTarget) -> Conclusion {
        let (seq_no, position) = (source.seq_no, target.version.position());
        if position == seq_no && target.same == Some(true) {
            return State::Equal.because("equal: the target has the source's newest change");
        }
        if let Some(on_the_way) = self.on_the_way() {
            return on_the_way;
        }
        let version = target.version;
        if position == seq_no {
            return State::Foreign.because(format!(
                "the target has version {version} of the source's newest change with another content: somebody else wrote it there, or its index was created anew; `syncline verify` compares all of it"
            ));
        }
        if position > seq_no {
            return State::Foreign.because(format!(
                "somebody else wrote it at the target: version {version} is not ours, because the source's newest change of it has _seq_no {seq_no}; or it comes from an earlier index of this name"
            ));
        }
        match (&self.newest, &self.ledger) {
            (Some(newest), _) if newest.version.position() >= seq_no => State::NotWritten.because(format!(
                "every reader has settled message {} with its newest change, and the target still has version {version}: no reader writes this index to this target",
                newest.sequence
            )),
            (_, Some(InLedger::Known { seq_no: known, .. })) if *known >= seq_no => State::NotPublished.because(
                "behind: the watcher has read its newest change, and is about to publish it, or has done so before what was looked at of the log",
            ),
            (_, Some(_)) => State::NotPublished.because("behind: the watcher has not read its newest change yet"),
            (_, None) => State::NotPublished.because("behind: its newest change is not in what was looked at of the log, so the watcher has not published it yet"),
        }
    }

    /// When the newest change is in the log and a reader has not settled it.
    fn on_the_way(&self) -> Option<Conclusion> {
        let newest = self.newest.as_ref()?;
        if self
            .target
            .is_some_and(|target| target.version > newest.version)
        {
            return None;
        }
        let what = match newest.operation {
            Operation::Delete => "its delete is",
            Operation::Index | Operation::Update => "its newest change is",
        };
        let at = newest.sequence;
        if self.readers.is_empty() {
            return Some(State::OnTheWay.because(format!(
                "on its way: {what} message {at} of the log, which nobody reads"
            )));
        }
        let unsettled = self.readers.iter().filter(|reader| reader.floor < at);
        let last = unsettled.min_by_key(|reader| reader.floor)?;
        let (name, behind) = (&last.name, at - last.floor);
        Some(State::OnTheWay.because(format!(
            "on its way: {what} message {at} of the log, and reader {name} is behind by {behind} messages"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(position: u64) -> Version {
        Version::new(model::Epoch(0), position).unwrap()
    }

    fn source(seq_no: u64) -> Option<AtSource> {
        Some(AtSource { seq_no })
    }

    fn target(position: u64, same: bool) -> Option<AtTarget> {
        let version = version(position);
        let same = Some(same);
        Some(AtTarget { version, same })
    }

    fn mention(sequence: u64, position: u64, operation: Operation) -> Option<Mention> {
        Some(Mention {
            sequence,
            subject: "es.t.i.index".to_owned(),
            operation,
            version: version(position),
            replay: None,
        })
    }

    fn concludes(facts: &Facts, beginning: &str) {
        let conclusion = facts.conclusion().text;
        assert!(
            conclusion.starts_with(beginning),
            "{beginning:?}: {conclusion}"
        );
    }

    #[test]
    fn every_state_of_a_document_has_its_sentence() {
        let readers = vec![Reader {
            name: "w".to_owned(),
            floor: 10,
        }];
        let facts = |source, target, newest| Facts {
            source,
            target,
            newest,
            readers: readers.clone(),
            ..Facts::default()
        };
        let index = Operation::Index;
        concludes(&facts(source(5), target(5, true), None), "equal");
        concludes(
            &facts(source(5), target(5, false), None),
            "the target has version 5",
        );
        concludes(
            &facts(source(5), target(9, true), None),
            "somebody else wrote it",
        );
        concludes(&facts(source(5), target(3, false), None), "behind: ");
        concludes(
            &facts(source(5), target(3, false), mention(14, 5, index)),
            "on its way: its newest change is message 14 of the log, and reader w is behind by 4 messages",
        );
        concludes(
            &facts(source(5), target(3, false), mention(9, 5, index)),
            "every reader has settled",
        );
        concludes(&facts(source(5), None, mention(14, 5, index)), "on its way");
        concludes(
            &facts(source(5), None, mention(9, 5, index)),
            "lost at the target",
        );
        concludes(&facts(source(5), None, None), "not at the target");
        concludes(
            &facts(None, target(5, false), None),
            "deleted at the source",
        );
        concludes(
            &facts(None, target(5, false), mention(14, 6, Operation::Delete)),
            "on its way: its delete",
        );
        concludes(
            &facts(None, target(5, false), mention(9, 6, Operation::Delete)),
            "deleted at the source",
        );
        concludes(&facts(None, None, None), "neither side");
        // A foreign version hides what is on its way: it will not be written.
        concludes(
            &facts(source(5), target(9, false), mention(14, 5, index)),
            "somebody else wrote it",
        );
        let unread = Facts {
            readers: Vec::new(),
            ..facts(source(5), None, mention(14, 5, index))
        };
        concludes(
            &unread,
            "on its way: its newest change is message 14 of the log, which nobody reads",
        );
        let parked = Facts {
            letter: Some(Letter {
                reason: "too large".to_owned(),
                ..Letter::default()
            }),
            ..facts(source(5), None, None)
        };
        concludes(
            &parked,
            "dead letter: the target of reader - refuses it: too large",
        );
    }

    #[test]
    fn what_the_ledger_knows_tells_apart_what_looks_alike() {
        let known = |seq_no| InLedger::Known {
            seq_no,
            routing: None,
        };
        let says = |source, target, ledger, state, words: &str| {
            let facts = Facts {
                source,
                target,
                ledger: Some(ledger),
                ..Facts::default()
            };
            let said = facts.conclusion();
            assert_eq!(said.state, state, "{said:?}");
            assert!(said.text.contains(words), "{words:?}: {said:?}");
        };
        let (here, old, none) = (source(5), target(3, false), None);
        says(
            here,
            none,
            InLedger::Unknown,
            State::NotPublished,
            "has not read it yet",
        );
        says(
            here,
            none,
            known(4),
            State::NotPublished,
            "has not read it yet",
        );
        says(
            here,
            none,
            known(5),
            State::NotWritten,
            "somebody has deleted it at the target",
        );
        says(
            here,
            old,
            known(3),
            State::NotPublished,
            "has not read its newest change",
        );
        says(
            here,
            old,
            known(5),
            State::NotPublished,
            "about to publish it",
        );
        says(
            None,
            old,
            known(3),
            State::DeleteNotFound,
            "still knows the document",
        );
        says(
            None,
            old,
            InLedger::Unknown,
            State::DeleteUnknown,
            "--delete-extra",
        );
        says(
            None,
            old,
            InLedger::Forgotten,
            State::NotWritten,
            "its delete was published",
        );
        let routed = InLedger::Known {
            seq_no: 5,
            routing: Some("de".to_owned()),
        };
        says(None, None, routed, State::Nowhere, "--routing de");
    }
}
