//! A rule set, and what becomes of a change under it.

mod apply;
mod places;

use std::fmt;

use config::{Issue, tree::Issues};
use model::{Change, IndexName, IndexPatterns, Operation};
use smallvec::SmallVec;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    KeySource, RunJq,
    filter::{self, Condition, Dropped, Filter, Mode},
    json::Node,
    read::{File, read},
    route::{Route, Target},
    scope::{At, Scope},
    step::Action,
};
use apply::{Advance, Applying, Desk};

/// What flags select, in front of all rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The indices that go on.
    pub include_indices: Option<IndexPatterns>,
    /// The indices that do not.
    pub exclude_patterns: Option<IndexPatterns>,
    /// The operations that go on.
    pub include_operations: Option<Vec<Operation>>,
}

/// A change of a document, if what it is about is meant.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) on: Condition,
    pub(crate) action: Action,
}

/// Rules that were read and are right.
pub struct RuleSet {
    hash: String,
    text: String,
    pub(crate) mode: Mode,
    /// What flags select; these have to let a change through whatever the mode is.
    pub(crate) selected: Vec<Filter>,
    pub(crate) filters: Vec<Filter>,
    steps: Vec<Step>,
    routes: Vec<(Scope, Route)>,
    programs: Vec<String>,
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// What is decided about all changes of one kind, before any of them is seen.
#[derive(Debug, Clone)]
pub struct Plan {
    at: At,
    /// Who drops all of them.
    dropped: Option<Dropper>,
    /// Whether the filters look into documents.
    looks: bool,
    /// The steps that may be about them.
    steps: Vec<usize>,
    target: Result<Target, String>,
}

/// A filter or a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropper {
    Selected(usize),
    Filter(usize),
    Default,
    Step(usize),
}

/// What becomes of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on as these changes, each of an index.
    Changed(Changes),
    /// Nothing of it goes on, because of the rule of that name.
    Dropped(String),
    /// The document does not belong to the target, because of the rule of that name: these deletes take away
    /// what may be there.
    Removed(String, Changes),
}

/// Changes, each of an index; one, unless a field decides where documents go.
pub type Changes = SmallVec<[(IndexName, Change); 1]>;

/// Why a change cannot go on; it is the document's or the rule's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {reason}")]
pub struct RuleError {
    /// The rule.
    pub rule: String,
    /// Why.
    pub reason: String,
}

impl RuleSet {
    /// Reads a rule file, which goes by a name such as its path. `keys` gets the keys of hashes.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn read(
        selection: &Selection,
        file: Option<(&str, &str)>,
        keys: &dyn Fn(&KeySource) -> Result<Vec<u8>, String>,
    ) -> Result<RuleSet, Vec<Issue>> {
        let issues = Issues::of(file.map_or("rules", |(name, _)| name));
        let text = file.map_or("", |(_, text)| text);
        let root = issues.parse(text);
        let nothing = File {
            mode: Mode::All,
            filters: Vec::new(),
            steps: Vec::new(),
            routes: Vec::new(),
            programs: Vec::new(),
        };
        let file = root.map_or(nothing, |root| read(&root, &issues, keys));
        let rules = RuleSet {
            hash: hash(selection, text, &file.steps),
            text: text.to_owned(),
            mode: file.mode,
            selected: selection.filters(),
            filters: file.filters,
            steps: file.steps,
            routes: file.routes,
            programs: file.programs,
        };
        match issues.is_empty() {
            true => Ok(rules),
            false => Err(issues.into_vec()),
        }
    }

    /// Tells this rule set from every other: 16 hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its jq programs, by number.
    pub fn programs(&self) -> &[String] {
        &self.programs
    }

    /// The operations that no flag keeps out.
    pub fn operations(&self) -> Vec<Operation> {
        let scopes = self.selected.iter().map(|filter| &filter.condition.scope);
        let named = scopes.filter_map(|scope| scope.operations.clone()).next();
        named.unwrap_or_else(|| Operation::ALL.to_vec())
    }

    /// The names of all filters and transforms, in their order.
    pub fn names(&self) -> Vec<&str> {
        let filters = self.selected.iter().chain(&self.filters);
        let names = filters.map(|filter| filter.name.as_str());
        names
            .chain(self.steps.iter().map(|step| step.name.as_str()))
            .collect()
    }

    /// What is decided about the changes of one kind.
    pub fn plan(&self, at: &At) -> Plan {
        let steps = self.steps.iter().enumerate();
        let steps = steps.filter(|(_, step)| step.on.scope.holds(at));
        Plan {
            at: at.clone(),
            dropped: self.dropped_by(at, None),
            looks: at.operation != Operation::Delete && filter::looks(&self.filters, at),
            steps: steps.map(|(number, _)| number).collect(),
            target: self.target(at),
        }
    }

    fn dropped_by(&self, at: &At, mut document: Option<&mut Node<'_>>) -> Option<Dropper> {
        let selected = filter::dropped_by(Mode::All, &self.selected, at, document.as_deref_mut());
        if let Some(Dropped::By(number)) = selected {
            return Some(Dropper::Selected(number));
        }
        match filter::dropped_by(self.mode, &self.filters, at, document)? {
            Dropped::By(number) => Some(Dropper::Filter(number)),
            Dropped::ByDefault => Some(Dropper::Default),
        }
    }

    fn name_of(&self, dropper: Dropper) -> String {
        let name = match dropper {
            Dropper::Selected(number) => self.selected.get(number).map(|filter| &filter.name),
            Dropper::Filter(number) => self.filters.get(number).map(|filter| &filter.name),
            Dropper::Step(number) => self.steps.get(number).map(|step| &step.name),
            Dropper::Default => None,
        };
        name.map_or("default", String::as_str).to_owned()
    }

    /// Which rule keeps all changes of a plan from going on, if one does.
    pub fn dropper(&self, plan: &Plan) -> Option<String> {
        plan.dropped.map(|dropper| self.name_of(dropper))
    }

    /// What becomes of a change of that plan.
    ///
    /// # Errors
    /// When the document is not JSON, or a rule does not work on it.
    pub fn apply(
        &self,
        plan: &Plan,
        change: &Change,
        jq: &mut dyn RunJq,
    ) -> Result<Outcome, RuleError> {
        let mut applying = Applying::new(self, plan, change);
        let (mut answer, mut desk) = (None, Desk::default());
        loop {
            match applying.advance(answer, &mut desk) {
                Advance::Asks(question) => answer = Some(jq.run(&question)),
                Advance::Done(outcome) => return outcome,
            }
        }
    }

    /// The same for many changes, of which a jq program gets all documents at once. Gives `each` what becomes of them, in
    /// their order and with their numbers.
    pub fn apply_all(
        &self,
        plan: &Plan,
        changes: &[Change],
        jq: &mut dyn RunJq,
        mut each: impl FnMut(usize, Result<Outcome, RuleError>),
    ) {
        let mut desk = Desk::default();
        // From the first one on that has asked for something.
        let mut held = Vec::new();
        for (number, change) in changes.iter().enumerate() {
            let mut applying = Applying::new(self, plan, change);
            match applying.advance(None, &mut desk) {
                Advance::Done(outcome) if held.is_empty() => each(number, outcome),
                advance => held.push((applying, advance)),
            }
        }
        let first = changes.len() - held.len();
        loop {
            let asking = held.iter_mut().filter_map(|(applying, advance)| {
                let question = advance.question()?;
                Some((question, (applying, advance)))
            });
            let (asked, asking): (Vec<_>, Vec<_>) = asking.unzip();
            if asked.is_empty() {
                break;
            }
            let unanswered = || Some(Err("it was not answered".to_owned()));
            let answers = jq.run_all(&asked).into_iter().map(Some);
            let answers = answers.chain(std::iter::repeat_with(unanswered));
            for ((applying, advance), answer) in asking.into_iter().zip(answers) {
                *advance = applying.advance(answer, &mut desk);
            }
        }
        for (number, (_, advance)) in (first..).zip(held) {
            if let Advance::Done(outcome) = advance {
                each(number, outcome);
            }
        }
    }
}

impl Plan {
    /// Whether changes go on as they are, or not at all: then nobody need look at them. Gives the index they
    /// go to.
    pub fn passes_whole(&self) -> Option<&IndexName> {
        match &self.target {
            Ok(Target::One(index))
                if self.dropped.is_none() && !self.looks && self.steps.is_empty() =>
            {
                Some(index)
            }
            _ => None,
        }
    }

    /// Whether whatever goes on goes to one index.
    pub fn has_one_place(&self) -> bool {
        matches!(self.target, Ok(Target::One(_)))
    }

    /// Whether none of them goes on.
    pub fn drops_all(&self) -> bool {
        self.dropped.is_some()
    }

    /// Whether a jq program may be run on them.
    pub fn runs_jq(&self, rules: &RuleSet) -> bool {
        let steps = self
            .steps
            .iter()
            .filter_map(|number| rules.steps.get(*number));
        steps
            .into_iter()
            .any(|step| matches!(step.action, Action::Jq(_)))
    }
}

impl Selection {
    fn filters(&self) -> Vec<Filter> {
        let filter = |name: &str, keeps, scope| Filter {
            name: name.to_owned(),
            on: Scope::default(),
            keeps,
            condition: Condition {
                scope,
                document: None,
            },
        };
        let by_index = |patterns: &IndexPatterns| Scope {
            indices: Some(patterns.clone()),
            ..Scope::default()
        };
        let include = self.include_indices.as_ref();
        let exclude = self.exclude_patterns.as_ref();
        let operations = self.include_operations.as_ref();
        let filters = [
            include.map(|patterns| filter("include-indices", true, by_index(patterns))),
            exclude.map(|patterns| filter("exclude-patterns", false, by_index(patterns))),
            operations.map(|operations| {
                let scope = Scope {
                    operations: Some(operations.clone()),
                    ..Scope::default()
                };
                filter("include-operations", true, scope)
            }),
        ];
        filters.into_iter().flatten().collect()
    }
}

fn hash(selection: &Selection, text: &str, steps: &[Step]) -> String {
    let mut digest = Xxh3::new();
    let mut part = |text: &str| {
        digest.update(&(text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    };
    part(&format!("{selection:?}"));
    part(text);
    for step in steps {
        // Another key makes other hashes of the same rules.
        if let Action::Hash { key, .. } = &step.action {
            part(&key.hash("syncline rule set"));
        }
    }
    format!("{:016x}", digest.digest())
}
