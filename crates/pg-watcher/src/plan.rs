//! Which tables have to be copied. Pure.

use std::collections::{BTreeMap, BTreeSet};

use model::Epoch;
use postgres::Part;

use crate::state::{PartState, TableState};

/// What has to be copied of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Everything; what the target has from before is out of date.
    Everything(Why),
    /// What an earlier copy has left, or a partition that is new.
    Rest,
}

/// Why a table is copied as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is new to us.
    New,
    /// Its columns or its key are not what they were: rows change with that, and the stream says nothing.
    Altered,
    /// Its rows were written anew (ALTER TABLE, TRUNCATE, VACUUM FULL), which the stream does not tell.
    Rewritten,
    /// The target holds higher versions than ours.
    Outdated,
    /// A partition is gone with its rows, which the stream does not tell.
    PartitionGone,
}

impl Why {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Why::New => "it is new here",
            Why::Altered => "its columns or its key have changed",
            Why::Outdated => "the target was filled under a higher epoch",
            Why::Rewritten => "its rows were written anew",
            Why::PartitionGone => "a partition was detached or dropped",
        }
    }
}

/// What has to be done for a table that looks like this now.
pub(crate) fn plan(
    known: Option<&TableState>,
    fingerprint: u64,
    epoch: Epoch,
    parts: &[Part],
) -> Option<Task> {
    let Some(known) = known else {
        return Some(Task::Everything(Why::New));
    };
    if known.epoch != epoch {
        return Some(Task::Everything(Why::Outdated));
    }
    if known.fingerprint != fingerprint {
        return Some(Task::Everything(Why::Altered));
    }
    let mut is_whole = known.is_copied;
    for (oid, state) in &known.parts {
        match parts.iter().find(|part| part.oid == *oid) {
            None => return Some(Task::Everything(Why::PartitionGone)),
            Some(part) if part.filenode != state.filenode => {
                return Some(Task::Everything(Why::Rewritten));
            }
            Some(_) => is_whole &= state.is_copied,
        }
    }
    is_whole &= parts.iter().all(|part| known.parts.contains_key(&part.oid));
    (!is_whole).then_some(Task::Rest)
}

/// The state of a table when its copy begins: what is done of it stays done.
pub(crate) fn begin(
    known: Option<&TableState>,
    task: &Task,
    parts: &[Part],
) -> BTreeMap<u32, PartState> {
    let old = match task {
        Task::Everything(_) => None,
        Task::Rest => known,
    };
    parts
        .iter()
        .map(|part| {
            let done = old.and_then(|old| old.parts.get(&part.oid)).cloned();
            let fresh = PartState {
                filenode: part.filenode,
                chunks: BTreeSet::new(),
                is_copied: false,
            };
            (part.oid, done.unwrap_or(fresh))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(oid: u32, filenode: u32) -> Part {
        Part {
            oid,
            name: String::new(),
            filenode,
        }
    }

    fn known(is_copied: bool, parts: &[(u32, u32, bool)]) -> TableState {
        let parts = parts.iter().map(|(oid, filenode, is_copied)| {
            let state = PartState {
                filenode: *filenode,
                chunks: [1, 2].into(),
                is_copied: *is_copied,
            };
            (*oid, state)
        });
        TableState {
            fingerprint: 7,
            is_copied,
            parts: parts.collect(),
            ..TableState::default()
        }
    }

    #[test]
    fn a_table_is_copied_when_the_stream_alone_would_not_keep_it_equal() {
        let whole = known(true, &[(1, 10, true)]);
        assert_eq!(
            plan(None, 7, Epoch(0), &[part(1, 10)]),
            Some(Task::Everything(Why::New))
        );
        assert_eq!(plan(Some(&whole), 7, Epoch(0), &[part(1, 10)]), None);
        assert_eq!(
            plan(Some(&whole), 8, Epoch(0), &[part(1, 10)]),
            Some(Task::Everything(Why::Altered))
        );
        assert_eq!(
            plan(Some(&whole), 7, Epoch(0), &[part(1, 11)]),
            Some(Task::Everything(Why::Rewritten))
        );
        assert_eq!(
            plan(Some(&whole), 7, Epoch(1), &[part(1, 10)]),
            Some(Task::Everything(Why::Outdated))
        );
        assert_eq!(
            plan(Some(&whole), 7, Epoch(0), &[part(2, 10)]),
            Some(Task::Everything(Why::PartitionGone))
        );
        assert_eq!(
            plan(Some(&whole), 7, Epoch(0), &[part(1, 10), part(2, 20)]),
            Some(Task::Rest)
        );
        let torn = known(false, &[(1, 10, false)]);
        assert_eq!(
            plan(Some(&torn), 7, Epoch(0), &[part(1, 10)]),
            Some(Task::Rest)
        );
    }

    #[test]
    fn what_is_copied_is_not_copied_again_unless_the_table_has_changed() {
        let torn = known(false, &[(1, 10, false)]);
        let parts = [part(1, 10), part(2, 20)];
        let rest = begin(Some(&torn), &Task::Rest, &parts);
        assert_eq!(rest[&1].chunks, [1, 2].into());
        assert_eq!(rest[&2].chunks, [].into());
        let anew = begin(Some(&torn), &Task::Everything(Why::Altered), &parts);
        assert_eq!(anew[&1].chunks, [].into());
    }
}
