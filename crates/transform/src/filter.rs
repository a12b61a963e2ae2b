//! The chain of filters: what goes on.

use crate::{
    json::Node,
    predicate::Predicate,
    scope::{At, Part, Scope},
};

/// How the filters of a chain work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A change goes on if every filter lets it.
    All,
    /// The first filter that a change meets decides; what none decides is kept, or dropped.
    First { keep: bool },
}

/// A filter.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) name: String,
    /// What it is about; everything else passes it by.
    pub(crate) on: Scope,
    /// Whether it keeps what meets the condition, or drops it.
    pub(crate) keeps: bool,
    pub(crate) condition: Condition,
}

/// A condition on a change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Condition {
    pub(crate) scope: Scope,
    pub(crate) document: Option<Predicate>,
}

/// Whether a condition is met, as far as that is known: a delete has no document to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Yes,
    No,
    Perhaps,
}

impl Condition {
    fn met(&self, at: &At, document: Option<&mut Node<'_>>) -> Met {
        if !self.scope.holds(at) {
            return Met::No;
        }
        match (&self.document, document) {
            (None, _) => Met::Yes,
            (Some(_), None) => Met::Perhaps,
            (Some(predicate), Some(document)) => match predicate.holds(document) {
                true => Met::Yes,
                false => Met::No,
            },
        }
    }
}

/// Which filter drops a change, if any does. Without a document it is dropped only if it would be whatever
/// its document: so a delete passes every condition on fields, as the document may be at the target.
pub(crate) fn dropped_by(
    mode: Mode,
    filters: &[Filter],
    at: &At,
    mut document: Option<&mut Node<'_>>,
) -> Option<Dropped> {
    for (number, filter) in filters.iter().enumerate() {
        if !filter.on.holds(at) {
            continue;
        }
        let met = filter.condition.met(at, document.as_deref_mut());
        match (mode, filter.keeps, met) {
            (Mode::All, true, Met::No) | (_, false, Met::Yes) => return Some(Dropped::By(number)),
            (Mode::First { .. }, true, Met::Yes | Met::Perhaps) => return None,
            _ => {}
        }
    }
    match mode {
        Mode::All | Mode::First { keep: true } => None,
        Mode::First { keep: false } => Some(Dropped::ByDefault),
    }
}

/// Whether the chain drops every change of which no more is known, whatever else it says.
pub(crate) fn drops_all_of(mode: Mode, filters: &[Filter], part: &Part) -> bool {
    for filter in filters {
        let (on, condition) = (
            part.within(&filter.on),
            part.within(&filter.condition.scope),
        );
        // A condition on the document may be met or not.
        let is_met = condition.filter(|met| !*met || filter.condition.document.is_none());
        match (mode, filter.keeps, on, is_met) {
            (_, _, Some(false), _) => {}
            (Mode::All, true, Some(true), Some(false)) => return true,
            (_, false, Some(true), Some(true)) => return true,
            (Mode::First { .. }, true, _, Some(true) | None) => return false,
            _ => {}
        }
    }
    matches!(mode, Mode::First { keep: false })
}

/// What drops a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    By(usize),
    ByDefault,
}

/// Whether the fate of a change depends on its document.
pub(crate) fn looks(filters: &[Filter], at: &At) -> bool {
    filters.iter().any(|filter| {
        filter.condition.document.is_some()
            && filter.on.holds(at)
            && filter.condition.scope.holds(at)
    })
}
