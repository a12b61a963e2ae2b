//! A rule set, and what becomes of a change under it.

mod places;

use std::fmt;

use bytes::Bytes;
use config::{Issue, tree::Issues};
use model::{Action as Does, Change, Document, IndexName, IndexPatterns, Operation};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    KeySource, RunJq,
    filter::{self, Condition, Dropped, Filter, Mode},
    json::Node,
    read::{File, read},
    route::{Route, Target},
    scope::{At, Scope},
    step::{Action, Done},
};

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
    Changed(Vec<(IndexName, Change)>),
    /// Nothing of it goes on, because of the rule of that name.
    Dropped(String),
    /// The document does not belong to the target, because of the rule of that name: these deletes take away
    /// what may be there.
    Removed(String, Vec<(IndexName, Change)>),
}

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
        if let Some(dropper) = plan.dropped {
            return Ok(Outcome::Dropped(self.name_of(dropper)));
        }
        let target = plan.target.as_ref().map_err(|reason| RuleError {
            rule: "route".to_owned(),
            reason: reason.clone(),
        })?;
        let Some(document) = change.document() else {
            return Ok(Outcome::Changed(everywhere(target, change)));
        };
        let is_plain = matches!(target, Target::One(_));
        if !plan.looks && plan.steps.is_empty() && is_plain {
            return Ok(Outcome::Changed(vec![(
                target.places()[0].clone(),
                change.clone(),
            )]));
        }
        let failed = |rule: &str, reason: &dyn fmt::Display| RuleError {
            rule: rule.to_owned(),
            reason: reason.to_string(),
        };
        let mut bytes = document.as_bytes().to_vec();
        let mut dropper = None;
        let mut next = plan.steps.iter();
        let mut place = None;
        let mut is_first = true;
        // A jq program gives a new text, of which the rest is done anew.
        loop {
            let mut rewritten = None;
            {
                let mut node =
                    Node::document(&bytes).map_err(|error| failed("document", &error))?;
                if std::mem::take(&mut is_first) {
                    if plan.looks {
                        dropper = self.dropped_by(&plan.at, Some(&mut node));
                    }
                    // The place is that of the document as the source has it.
                    if !is_plain && dropper.is_none() {
                        let found = target.of(&mut node);
                        place = Some(found.map_err(|error| failed("route", &error))?.clone());
                    }
                }
                while dropper.is_none() && rewritten.is_none() {
                    let Some(&number) = next.next() else { break };
                    let step = &self.steps[number];
                    if let Some(predicate) = &step.on.document
                        && !predicate.holds(&mut node)
                    {
                        continue;
                    }
                    let done = step.action.run(&mut node, jq, &mut rewritten);
                    if done.map_err(|error| failed(&step.name, &error))? == Done::Dropped {
                        dropper = Some(Dropper::Step(number));
                    }
                }
                if dropper.is_none() && rewritten.is_none() && !plan.steps.is_empty() {
                    let mut written = Vec::with_capacity(bytes.len() + 64);
                    node.write(&mut written);
                    drop(node);
                    bytes = written;
                    break;
                }
            }
            match rewritten {
                Some(text) => bytes = text,
                None => break,
            }
        }
        if let Some(dropper) = dropper {
            return Ok(Outcome::Removed(
                self.name_of(dropper),
                everywhere(target, &delete(change)),
            ));
        }
        let document = Document::from_json(Bytes::from(bytes));
        let changed = Change {
            action: match change.action {
                Does::Update(_) => Does::Update(document),
                _ => Does::Index(document),
            },
            ..change.clone()
        };
        let Some(place) = place else {
            return Ok(Outcome::Changed(vec![(
                target.places()[0].clone(),
                changed,
            )]));
        };
        // What was in another place leaves it with the same version.
        let mut changes = vec![(place.clone(), changed)];
        let others = target.places().into_iter().filter(|index| **index != place);
        changes.extend(others.map(|index| (index.clone(), delete(change))));
        Ok(Outcome::Changed(changes))
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

fn everywhere(target: &Target, change: &Change) -> Vec<(IndexName, Change)> {
    let places = target.places().into_iter();
    places
        .map(|index| (index.clone(), change.clone()))
        .collect()
}

/// The end of a document, with the version at which it stopped to belong to the target.
fn delete(change: &Change) -> Change {
    Change {
        action: Does::Delete,
        ..change.clone()
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
