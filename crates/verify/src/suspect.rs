//! Documents that differ, found by joining what both sides have, and what is wrong with each. Pure.

use std::cmp::Ordering;

use model::DocumentId;

use crate::gather::Entry;

/// A document that was seen to differ, by its id and routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) id: DocumentId,
    pub(crate) routing: Option<Box<str>>,
    /// Its digest at the source, if it is there.
    pub(crate) source: Option<u128>,
    /// Its digest at the target, if it is there.
    pub(crate) target: Option<u128>,
    /// The size of the larger one; 0 where it was not read.
    pub(crate) bytes: usize,
}

impl Suspect {
    /// Whether the sides differ.
    pub(crate) fn differs(&self) -> bool {
        self.source != self.target
    }

    fn new(source: Option<Entry>, target: Option<Entry>) -> Option<Suspect> {
        let of = |entry: &Option<Entry>| entry.as_ref().map(|entry| (entry.digest, entry.bytes));
        let (at_source, at_target) = (of(&source), of(&target));
        let entry = source.or(target)?;
        Some(Suspect {
            id: entry.id,
            routing: entry.routing,
            source: at_source.map(|(digest, _)| digest),
            target: at_target.map(|(digest, _)| digest),
            bytes: at_source.max(at_target).map_or(0, |(_, bytes)| bytes),
        })
    }
}

/// The documents that are not the same on both sides, those of one id next to each other.
pub(crate) fn suspects(mut source: Vec<Entry>, mut target: Vec<Entry>) -> Vec<Suspect> {
    source.sort_unstable();
    target.sort_unstable();
    let (mut source, mut target) = (source.into_iter().peekable(), target.into_iter().peekable());
    let mut suspects: Vec<Suspect> = Vec::new();
    loop {
        let order = match (source.peek(), target.peek()) {
            (Some(one), Some(other)) => (&one.id, &one.routing).cmp(&(&other.id, &other.routing)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => {
                // One that was moved while it was read may have been met twice.
                suspects
                    .dedup_by(|one, other| (&one.id, &one.routing) == (&other.id, &other.routing));
                return suspects;
            }
        };
        let at_source = order.is_le().then(|| source.next()).flatten();
        let at_target = order.is_ge().then(|| target.next()).flatten();
        suspects.extend(Suspect::new(at_source, at_target).filter(Suspect::differs));
    }
}

/// What is wrong with a document. Each names its suspects by their place among those of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// In the source only.
    Missing(usize),
    /// In the target only.
    Extra(usize),
    /// With another content.
    Different(usize),
    /// In the source with the first one's routing, in the target with the other's.
    Misrouted(usize, usize),
}

/// What is wrong with the documents of one id.
pub(crate) fn findings(suspects: &[Suspect]) -> Vec<Finding> {
    let places = |wanted: fn(&Suspect) -> bool| {
        let all = suspects.iter().enumerate();
        all.filter(move |(_, suspect)| wanted(suspect))
            .map(|(place, _)| place)
    };
    let missing: Vec<_> = places(|s| s.source.is_some() && s.target.is_none()).collect();
    let extra: Vec<_> = places(|s| s.source.is_none() && s.target.is_some()).collect();
    let different = places(|s| s.source.is_some() && s.target.is_some() && s.differs());
    let pairs = missing.len().min(extra.len());
    let misrouted = missing.iter().zip(&extra);
    different
        .map(Finding::Different)
        .chain(misrouted.map(|(one, other)| Finding::Misrouted(*one, *other)))
        .chain(
            missing[pairs..]
                .iter()
                .map(|place| Finding::Missing(*place)),
        )
        .chain(extra[pairs..].iter().map(|place| Finding::Extra(*place)))
        .collect()
}
