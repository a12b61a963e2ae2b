//! What of a rule set JetStream itself can decide, as subject filters: what they leave out never crosses
//! the network.
//!
//! JetStream knows whole tokens and nothing like "all but". So filters come of the tenants, indices and
//! operations that are named in full; a glob is decided here, and so is what depends on a document. A filter may
//! let through more than the rules do, never less.

use model::{IndexName, IndexPatterns, Operation, Tenant, token};

use crate::{
    RuleSet,
    filter::{Filter, Mode, drops_all_of},
    scope::{Part, Scope},
};

/// The most filters of one reader; with more, the server's work on each message is worth more than what is
/// saved.
pub const MOST_SUBJECTS: usize = 64;

/// Changes that may go on: those of these tenants, indices and operations. `None` means all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Area {
    tenants: Option<Vec<String>>,
    indices: Option<Vec<String>>,
    operations: Vec<Operation>,
}

impl RuleSet {
    /// The subject filters of a reader of what sources publish; none where it needs everything. No two of them mean
    /// the same subject, which JetStream would refuse.
    pub fn subjects(&self) -> Vec<String> {
        subjects(&[(Mode::All, &self.selected), (self.mode, &self.filters)])
    }

    /// The same for what flags select alone.
    pub fn selected_subjects(&self) -> Vec<String> {
        subjects(&[(Mode::All, &self.selected)])
    }
}

/// The subjects of what passes all of these chains.
fn subjects(chains: &[(Mode, &Vec<Filter>)]) -> Vec<String> {
    let everything = Area {
        tenants: None,
        indices: None,
        operations: Operation::ALL.to_vec(),
    };
    let mut areas = vec![everything];
    for (mode, filters) in chains {
        areas = narrow(areas, *mode, filters);
    }
    // Without the operations there are fewer.
    [false, true]
        .into_iter()
        .filter_map(|whole| write(&areas, chains, whole))
        .find(|subjects| subjects.len() <= MOST_SUBJECTS)
        .unwrap_or_default()
}

/// Leaves of the areas what a chain names in full.
fn narrow(areas: Vec<Area>, mode: Mode, filters: &[Filter]) -> Vec<Area> {
    let keeping = filters.iter().filter(|filter| filter.keeps);
    match mode {
        // Each of these has to be met.
        Mode::All => keeping
            .filter(|filter| filter.on == Scope::default())
            .fold(areas, |areas, filter| {
                meet(&areas, &named(&filter.condition.scope))
            }),
        Mode::First { keep: true } => areas,
        // One of these has to be met.
        Mode::First { keep: false } => {
            let kept: Vec<Area> = keeping
                .flat_map(|filter| meet(&named(&filter.on), &named(&filter.condition.scope)))
                .collect();
            meet(&areas, &kept)
        }
    }
}

/// What is in one of `these` and in one of `those`.
fn meet(these: &[Area], those: &[Area]) -> Vec<Area> {
    fn both<T: Clone + PartialEq>(one: &Option<Vec<T>>, other: &Option<Vec<T>>) -> Option<Vec<T>> {
        match (one, other) {
            (Some(one), Some(other)) => {
                let common = one.iter().filter(|name| other.contains(name));
                Some(common.cloned().collect())
            }
            (known, None) | (None, known) => known.clone(),
        }
    }
    let mut met = Vec::new();
    for (this, that) in these
        .iter()
        .flat_map(|this| those.iter().map(move |that| (this, that)))
    {
        let operations = this.operations.iter().copied();
        let area = Area {
            tenants: both(&this.tenants, &that.tenants),
            indices: both(&this.indices, &that.indices),
            operations: operations
                .filter(|one| that.operations.contains(one))
                .collect(),
        };
        if !met.contains(&area) {
            met.push(area);
        }
    }
    met
}

/// What a scope means, as far as it names it in full.
fn named(scope: &Scope) -> Vec<Area> {
    let area = Area {
        tenants: scope.tenants.clone(),
        indices: scope.indices.as_ref().and_then(names),
        operations: scope.operations.clone().unwrap_or(Operation::ALL.to_vec()),
    };
    match &scope.subjects {
        None => vec![area],
        Some(patterns) => {
            let patterns: Vec<Area> = patterns.iter().filter_map(|text| pattern(text)).collect();
            meet(&[area], &patterns)
        }
    }
}

/// The indices, if none is meant by a glob.
fn names(patterns: &IndexPatterns) -> Option<Vec<String>> {
    let names: Vec<&str> = patterns.names().collect();
    let is_all = names.len() == patterns.included().count();
    let meant = names
        .into_iter()
        .filter(|name| patterns.matches(name, false));
    is_all.then(|| meant.map(str::to_owned).collect())
}

/// What a pattern of JetStream means; `None` if that is no change.
fn pattern(text: &str) -> Option<Area> {
    let mut tokens = text.split('.');
    let mut is_open = false;
    let mut next = || match (is_open, tokens.next()) {
        (true, _) | (_, Some("*")) => Some(None),
        (false, Some(">")) => {
            is_open = true;
            Some(None)
        }
        (false, token) => Some(Some(token?)),
    };
    let (root, tenant, index, kind) = (next()?, next()?, next()?, next()?);
    let name = |token: Option<&str>| match token {
        None => Some(None),
        Some(token) => Some(Some(vec![token::decode(token)?])),
    };
    let is_change = root.is_none_or(|root| root == "es") && (is_open || tokens.next().is_none());
    is_change.then_some(Area {
        tenants: name(tenant)?,
        indices: name(index)?,
        operations: match kind {
            None => Operation::ALL.to_vec(),
            Some(kind) => vec![kind.parse().ok()?],
        },
    })
}

/// The subjects of these areas without what the chains drop in any case; `None` where it is everything. With `whole`
/// all operations of an index are meant if one is.
fn write(areas: &[Area], chains: &[(Mode, &Vec<Filter>)], whole: bool) -> Option<Vec<String>> {
    fn tokens(names: &Option<Vec<String>>) -> Vec<Option<&str>> {
        match names {
            None => vec![None],
            Some(names) => names.iter().map(|name| Some(name.as_str())).collect(),
        }
    }
    let mut subjects: Vec<[String; 3]> = Vec::new();
    'areas: for area in areas {
        let indices = tokens(&area.indices);
        for (tenant, index) in tokens(&area.tenants)
            .into_iter()
            .flat_map(|tenant| indices.iter().map(move |index| (tenant, *index)))
        {
            let goes_on = |operation: &Operation| {
                let part = Part {
                    tenant: tenant.and_then(|name| Tenant::try_from(name).ok()),
                    index: index.and_then(|name| IndexName::try_from(name).ok()),
                    operation: *operation,
                };
                !chains
                    .iter()
                    .any(|(mode, filters)| drops_all_of(*mode, filters, &part))
            };
            let operations: Vec<Operation> =
                area.operations.iter().copied().filter(goes_on).collect();
            let token = |name: Option<&str>| {
                name.map_or_else(|| "*".to_owned(), |name| token::encode(name).into_owned())
            };
            for kind in kinds(&operations, whole) {
                add(
                    &mut subjects,
                    [token(tenant), token(index), kind.to_owned()],
                );
            }
            // Too many in any case.
            if subjects.len() > 4 * MOST_SUBJECTS {
                break 'areas;
            }
        }
    }
    let everything = ["*", "*", ">"].map(str::to_owned);
    (!subjects.is_empty() && !subjects.contains(&everything)).then(|| {
        subjects.sort();
        let subjects = subjects.into_iter();
        subjects
            .map(|[tenant, index, kind]| format!("es.{tenant}.{index}.{kind}"))
            .collect()
    })
}

/// The last tokens for these operations.
fn kinds(operations: &[Operation], whole: bool) -> Vec<&'static str> {
    if operations.is_empty() {
        return Vec::new();
    }
    let named = |one: &Operation| operations.contains(one);
    if whole || Operation::ALL.iter().all(named) {
        return vec![">"];
    }
    // What an index looks like comes before its first change.
    let mut kinds = vec!["definition"];
    kinds.extend(
        Operation::ALL
            .iter()
            .filter(|one| named(one))
            .map(|one| one.as_str()),
    );
    // That an index was emptied stands for all its deletes.
    if operations.contains(&Operation::Delete) {
        kinds.push("clear");
    }
    kinds
}

/// Adds a subject. Where one of them overlaps with it, both become the narrowest that means either.
fn add(subjects: &mut Vec<[String; 3]>, mut new: [String; 3]) {
    let is_wild = |token: &str| token == "*" || token == ">";
    let overlaps = |one: &[String; 3], other: &[String; 3]| {
        let mut pairs = one.iter().zip(other);
        pairs.all(|(one, other)| one == other || is_wild(one) || is_wild(other))
    };
    while let Some(at) = subjects.iter().position(|known| overlaps(known, &new)) {
        let known = subjects.swap_remove(at);
        for ((token, other), wild) in new.iter_mut().zip(known).zip(["*", "*", ">"]) {
            if *token != other {
                *token = wild.to_owned();
            }
        }
    }
    subjects.push(new);
}

#[cfg(test)]
mod tests;
