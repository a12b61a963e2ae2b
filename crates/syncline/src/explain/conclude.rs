//! From what was found to one sentence. Pure.

use bus::{Letter, Mention};
use model::{Operation, Version};

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

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) floor: u64,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) source: Option<AtSource>,
    pub(super) target: Option<AtTarget>,
    /// The newest change of it in the log, apart from dead letters that were sent again.
    pub(super) newest: Option<Mention>,
    /// Those who read its subject.
    pub(super) readers: Vec<Reader>,
    pub(super) letter: Option<Letter>,
}

impl Facts {
    pub(super) fn conclusion(&self) -> String {
        if let Some(letter) = &self.letter {
            let reader = letter.reader().unwrap_or("-");
            return format!(
                "dead letter: the target of reader {reader} refuses it: {}",
                letter.reason
            );
        }
        match (self.source, self.target) {
            (None, None) => "neither side has it: it was deleted, never there, or has a routing of its own (--routing)".to_owned(),
            (Some(source), Some(target)) => self.on_both(source, target),
            (Some(_), None) => self.on_the_way().unwrap_or_else(|| match &self.newest {
                Some(newest) => format!(
                    "lost at the target: every reader has settled message {}, which has its newest change; somebody has deleted it there, or no reader writes this index to this target: `syncline verify` names all such documents",
                    newest.sequence
                ),
                None => "not at the target, and not in what was looked at of the log: the watcher has not published it yet, or it was published long ago and somebody has deleted it at the target".to_owned(),
            }),
            (None, Some(_)) => self.on_the_way().unwrap_or_else(|| {
                "deleted at the source, and the delete is not found yet: the watcher counts every minute; one that it never knew of is named by `syncline verify`, and deleted by its --delete-extra".to_owned()
            }),
        }
    }

    fn on_both(&self, source: AtSource, target: AtTarget) -> String {
        let (seq_no, position) = (source.seq_no, target.version.position());
        if position == seq_no && target.same == Some(true) {
            return "equal: the target has the source's newest change".to_owned();
        }
        if let Some(on_the_way) = self.on_the_way() {
            return on_the_way;
        }
        let version = target.version;
        if position == seq_no {
            return format!(
                "the target has version {version} of the source's newest change with another content: somebody else wrote it there, or its index was created anew; `syncline verify` compares all of it"
            );
        }
        if position > seq_no {
            return format!(
                "somebody else wrote it at the target: version {version} is not ours, because the source's newest change of it has _seq_no {seq_no}; or it comes from an earlier index of this name"
            );
        }
        match &self.newest {
            Some(newest) if newest.version.position() >= seq_no => format!(
                "every reader has settled message {} with its newest change, and the target still has version {version}: no reader writes this index to this target",
                newest.sequence
            ),
            _ => "behind: its newest change is not in what was looked at of the log, so the watcher has not published it yet".to_owned(),
        }
    }

    /// When the newest change is in the log and a reader has not settled it.
    fn on_the_way(&self) -> Option<String> {
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
            return Some(format!(
                "on its way: {what} message {at} of the log, which nobody reads"
            ));
        }
        let unsettled = self.readers.iter().filter(|reader| reader.floor < at);
        let last = unsettled.min_by_key(|reader| reader.floor)?;
        let (name, behind) = (&last.name, at - last.floor);
        Some(format!(
            "on its way: {what} message {at} of the log, and reader {name} is behind by {behind} messages"
        ))
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
        let conclusion = facts.conclusion();
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
            letter: None,
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
}
