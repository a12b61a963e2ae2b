//! One change on its way through the rules.

use std::fmt;

use bytes::Bytes;
use model::{Action as Does, Change, Document, IndexName};

use super::{Dropper, Outcome, Plan, RuleError, RuleSet, Step};
use crate::{Answer, Question, json::Node, route::Target, step::Done};

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

/// How far a change has come.
#[derive(Debug)]
pub(super) enum Advance {
    /// Nothing more is known before this is answered.
    Asks(Question),
    /// What becomes of it.
    Done(Result<Outcome, RuleError>),
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
    pub(super) fn advance(&mut self, answer: Option<Answer>) -> Advance {
        let advanced = match answer {
            None => self.start(),
            Some(answer) => self.resume(answer),
        };
        advanced.unwrap_or_else(|error| Advance::Done(Err(error)))
    }

    fn start(&mut self) -> Result<Advance, RuleError> {
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
        let node = Node::document(document.as_bytes());
        let mut node = node.map_err(|error| failed("document", &error))?;
        if self.plan.looks
            && let Some(dropper) = self.rules.dropped_by(&self.plan.at, Some(&mut node))
        {
            return self.removed(dropper);
        }
        if !is_plain {
            let place = target.of(&mut node);
            self.place = Some(place.map_err(|error| failed("route", &error))?.clone());
        }
        self.steps(node)
    }

    /// Goes on with the text that a jq program gave.
    fn resume(&mut self, answer: Answer) -> Result<Advance, RuleError> {
        let asked = self.next.checked_sub(1).and_then(|at| self.step(at));
        let (number, step) = asked.ok_or_else(|| failed("jq", &"nothing was asked for"))?;
        match answer.map_err(|reason| failed(&step.name, &reason))? {
            None => self.removed(Dropper::Step(number)),
            Some(text) => {
                let node = Node::document(&text).map_err(|error| failed("document", &error))?;
                self.is_changed = true;
                self.steps(node)
            }
        }
    }

    fn step(&self, at: usize) -> Option<(usize, &'r Step)> {
        let number = *self.plan.steps.get(at)?;
        Some((number, self.rules.steps.get(number)?))
    }

    fn steps(&mut self, mut node: Node<'_>) -> Result<Advance, RuleError> {
        while let Some((number, step)) = self.step(self.next) {
            self.next += 1;
            if let Some(predicate) = &step.on.document
                && !predicate.holds(&mut node)
            {
                continue;
            }
            let ran = step.action.run(&mut node);
            match ran.map_err(|error| failed(&step.name, &error))? {
                Done::Kept => self.is_changed = true,
                Done::Dropped => return self.removed(Dropper::Step(number)),
                Done::Asks(program) => {
                    let document = node.to_json(self.length());
                    return Ok(Advance::Asks(Question { program, document }));
                }
            }
        }
        if !self.is_changed {
            return self.goes_on(self.change.clone());
        }
        let document = Document::from_json(Bytes::from(node.to_json(self.length())));
        self.goes_on(Change {
            action: match self.change.action {
                Does::Update(_) => Does::Update(document),
                _ => Does::Index(document),
            },
            ..self.change.clone()
        })
    }

    fn goes_on(&self, changed: Change) -> Result<Advance, RuleError> {
        let target = self.target()?;
        let Some(place) = &self.place else {
            let index = target.places()[0].clone();
            return Ok(done(Outcome::Changed(vec![(index, changed)])));
        };
        // What was in another place leaves it with the same version.
        let mut changes = vec![(place.clone(), changed)];
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
