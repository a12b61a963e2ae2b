//! Comparing through the rules of a gateway.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use model::{
    Action, Change, Document, DocumentId, Epoch, IndexDefinition, IndexName, Operation, Tenant,
    Version,
};
use nats_gateway::{InForce, JqProcess, RulesError, read_rules};
use transform::{At, Outcome, Plan, RuleError, Selection};
use verify::{Lens, Sight};

/// What a jq expression may take of time and memory; the gateway's defaults.
const JQ: (Duration, u64) = (Duration::from_millis(250), 64 << 20);

/// The rules that the target is filled through.
#[derive(Debug)]
pub(super) struct Rules {
    in_force: Arc<InForce>,
    tenant: Tenant,
}

impl Rules {
    pub(super) fn read(file: &Path, tenant: &Tenant) -> Result<Rules, RulesError> {
        Ok(Rules {
            in_force: Arc::new(read_rules(&Selection::default(), file)?),
            tenant: tenant.clone(),
        })
    }

    /// The indices of the target that have documents of an index, each with what is seen of them.
    pub(super) fn places(&self, index: &IndexName) -> Result<Vec<Seen>, RuleError> {
        let rules = &self.in_force.rules;
        let at = |operation| At {
            tenant: self.tenant.clone(),
            index: index.clone(),
            operation,
        };
        let places = rules.places(&at(Operation::Index))?.into_iter();
        Ok(places
            .map(|place| {
                let lens: Arc<dyn Lens> = Arc::new(Place {
                    in_force: Arc::clone(&self.in_force),
                    created: rules.plan(&at(Operation::Index)),
                    updated: rules.plan(&at(Operation::Update)),
                    at: at(Operation::Index),
                    jq: Mutex::new(JqProcess::new(rules.programs(), JQ.0, JQ.1)),
                    place: place.clone(),
                });
                (place, lens)
            })
            .collect())
    }
}

/// An index of the target, and what is seen through the rules of the source's documents there.
pub(super) type Seen = (IndexName, Arc<dyn Lens>);

/// What is seen of an index in one place.
#[derive(Debug)]
struct Place {
    in_force: Arc<InForce>,
    created: Plan,
    updated: Plan,
    at: At,
    jq: Mutex<JqProcess>,
    place: IndexName,
}

impl Lens for Place {
    fn see(&self, document: Sight<'_>) -> Option<Bytes> {
        let (id, source) = (document.id, Document::from_json(document.source.clone()));
        let (plan, action) = match document.is_created {
            true => (&self.created, Action::Index(source)),
            false => (&self.updated, Action::Update(source)),
        };
        let change = change(id, document.routing, action);
        let mut jq = self.jq.lock().unwrap_or_else(PoisonError::into_inner);
        match self.in_force.rules.apply(plan, &change, &mut *jq) {
            Ok(Outcome::Changed(changes)) => {
                let mut here = changes
                    .into_iter()
                    .filter(|(index, _)| *index == self.place);
                let (_, change) = here.next()?;
                change
                    .document()
                    .map(|document| Bytes::copy_from_slice(document.as_bytes()))
            }
            Ok(Outcome::Dropped(_) | Outcome::Removed(..)) => None,
            // It is a dead letter, so the target does not have it as it is now.
            Err(error) => {
                let said = serde_json::json!({ "a dead letter of the gateway": error.to_string() });
                Some(Bytes::from(said.to_string()))
            }
        }
    }

    fn define(&self, definition: IndexDefinition) -> IndexDefinition {
        let defined = self.in_force.rules.define(&self.at, &definition);
        let mut here = defined
            .into_iter()
            .flatten()
            .filter(|(index, _)| *index == self.place);
        here.next().map_or(definition, |(_, adapted)| adapted)
    }
}

fn change(id: &DocumentId, routing: Option<&str>, action: Action) -> Change {
    Change {
        id: id.clone(),
        routing: routing.map(Box::from),
        version: Version::last_of(Epoch(0)),
        over: false,
        action,
    }
}
