//! One change on its way through the rules.

use std::fmt;

use model::{Action as Does, Change, Document, IndexName};
use smallvec::smallvec;

use super::{Changes, Dropper, Outcome, Plan, RuleError, RuleSet, Step};
use crate::{
    Answer, Question,
    json::{Memory, Node, Paper},
    route::Target,
    step::Done,
};

/// A change that the rules are applied to. Whoever drives it runs the jq programs that it asks for, so that it never
/// waits itself.
#[derive(Debug)]
pub(super) struct Applying<'r> {
    rules: &'r RuleSet,
    plan: &'r Plan,
    change: &'r Change,
    /// Which of the plan's steps is next.
    next: usize,
    /// Whether a step has been at work on the document.
    is_changed: bool,
    /// Where it goes if a field decides that; by the document as the source has it.
    place: Option<IndexName>,
}

/// What all changes of a batch are worked on with, one after the other.
#[derive(Debug, Default)]
pub(super) struct Desk<'r> {
    /// Where documents are written.
    paper: Paper,
    /// Where they are taken apart.
    memory: Memory<'r>,
}

/// How far a change has come.
#[derive(Debug)]
pub(super) enum Advance {
    /// Nothing more is known before this is answered.
    Asks(Question),
    /// What becomes of it.
    Done(Result<Outcome, RuleError>),
}

impl Advance {
    /// Takes out what is asked for.
    pub(super) fn question(&mut self) -> Option<Question> {
        match self {
            Advance::Asks(question) => Some(Question {
                program: question.program,
                document: std::mem::take(&mut question.document),
            }),
            Advance::Done(_) => None,
        }
    }
}

impl<'r> Applying<'r> {
    pub(super) fn new(rules: &'r RuleSet, plan: &'r Plan, change: &'r Change) -> Applying<'r> {
        Applying {
            rules,
            plan,
            change,
            next: 0,
            is_changed: false,
            place: None,
        }
    }

    /// Goes on: at first with `None`, and then with the answer to what it asked for.
    pub(super) fn advance(&mut self, answer: Option<Answer>, desk: &mut Desk<'r>) -> Advance {
        let advanced = match answer {
            None => self.start(desk),
            Some(answer) => self.resume(answer, &mut desk.paper),
        };
        advanced.unwrap_or_else(|error| Advance::Done(Err(error)))
    }

    fn start(&mut self, desk: &mut Desk<'r>) -> Result<Advance, RuleError> {
        if let Some(dropper) = self.plan.dropped {
            return Ok(done(Outcome::Dropped(self.rules.name_of(dropper))));
        }
        let target = self.target()?;
        let Some(document) = self.change.document() else {
            return Ok(done(Outcome::Changed(everywhere(target, self.change))));
        };
        let is_plain = matches!(target, Target::One(_));
        if !self.plan.looks && self.plan.steps.is_empty() && is_plain {
            return self.goes_on(self.change.clone());
        }
        let node = Node::document_in(document.as_bytes(), &mut desk.memory);
        let mut node = node.map_err(|error| failed("document", &error))?;
        let advanced = self.opened(&mut node, target, &mut desk.paper);
        node.leave(&mut desk.memory);
        advanced
    }

    fn opened(
        &mut self,
        node: &mut Node<'_>,
        target: &'r Target,
        paper: &mut Paper,
    ) -> Result<Advance, RuleError> {
        if self.plan.looks
            && let Some(dropper) = self.rules.dropped_by(&self.plan.at, Some(node))
        {
            return self.removed(dropper);
        }
        if !matches!(target, Target::One(_)) {
            let place = target.of(node);
            self.place = Some(place.map_err(|error| failed("route", &error))?.clone());
        }
        self.steps(node, paper)
    }

    /// Goes on with the text that a jq program gave.
    fn resume(&mut self, answer: Answer, paper: &mut Paper) -> Result<Advance, RuleError> {
        let asked = self.next.checked_sub(1).and_then(|at| self.step(at));
        let (number, step) = asked.ok_or_else(|| failed("jq", &"nothing was asked for"))?;
        match answer.map_err(|reason| failed(&step.name, &reason))? {
            None => self.removed(Dropper::Step(number)),
            Some(text) => {
                let node = Node::document(&text);
                let mut node = node.map_err(|error| failed("document", &error))?;
                self.is_changed = true;
                self.steps(&mut node, paper)
            }
        }
    }

    fn step(&self, at: usize) -> Option<(usize, &'r Step)> {
        let number = *self.plan.steps.get(at)?;
        Some((number, self.rules.steps.get(number)?))
    }

    fn steps(&mut self, node: &mut Node<'_>, paper: &mut Paper) -> Result<Advance, RuleError> {
        while let Some((number, step)) = self.step(self.next) {
            self.next += 1;
            if let Some(predicate) = &step.on.document
                && !predicate.holds(node)
            {
                continue;
            }
            let ran = step.action.run(node);
            match ran.map_err(|error| failed(&step.name, &error))? {
                Done::Kept => self.is_changed = true,
                Done::Dropped => return self.removed(Dropper::Step(number)),
                Done::Asks(program) => {
                    let document = node.to_json(self.length(), paper);
                    return Ok(Advance::Asks(Question { program, document }));
                }
            }
        }
        if !self.is_changed {
            return self.goes_on(self.change.clone());
        }
        let document = Document::from_json(node.to_json(self.length(), paper));
        let action = match self.change.action {
            Does::Update(_) => Does::Update(document),
            _ => Does::Index(document),
        };
        self.goes_on(with(self.change, action))
    }

    fn goes_on(&self, changed: Change) -> Result<Advance, RuleError> {
        let target = self.target()?;
        let Some(place) = &self.place else {
            let index = target.places()[0].clone();
            return Ok(done(Outcome::Changed(smallvec![(index, changed)])));
        };
        // What was in another place leaves it with the same version.
        let mut changes = smallvec![(place.clone(), changed)];
        let others = target.places().into_iter().filter(|index| *index != place);
        changes.extend(others.map(|index| (index.clone(), delete(self.change))));
        Ok(done(Outcome::Changed(changes)))
    }

    fn removed(&self, dropper: Dropper) -> Result<Advance, RuleError> {
        let deletes = everywhere(self.target()?, &delete(self.change));
        Ok(done(Outcome::Removed(self.rules.name_of(dropper), deletes)))
    }

    fn target(&self) -> Result<&'r Target, RuleError> {
        let target = self.plan.target.as_ref();
        target.map_err(|reason| failed("route", reason))
    }

    /// About as long as the document was, and a little more.
    fn length(&self) -> usize {
        let document = self.change.document();
        document.map_or(0, |document| document.as_bytes().len()) + 64
    }
}

fn done(outcome: Outcome) -> Advance {
    Advance::Done(Ok(outcome))
}

pub(super) fn failed(rule: &str, reason: &dyn fmt::Display) -> RuleError {
    RuleError {
        rule: rule.to_owned(),
        reason: reason.to_string(),
    }
}

fn everywhere(target: &Target, change: &Change) -> Changes {
    let places = target.places().into_iter();
    places
        .map(|index| (index.clone(), change.clone()))
        .collect()
}

/// The end of a document, with the version at which it stopped to belong to the target.
fn delete(change: &Change) -> Change {
    with(change, Does::Delete)
}

/// The change of the same document that does something else.
fn with(change: &Change, action: Does) -> Change {
    Change {
        id: change.id.clone(),
        routing: change.routing.clone(),
        version: change.version,
        over: change.over,
        action,
    }
}
