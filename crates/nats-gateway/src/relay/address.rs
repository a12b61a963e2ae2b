//! What is decided about subjects, under the rules in force.

use std::{collections::HashMap, sync::Arc};

use model::{Kind, Operation, Subject};
use transform::{At, Plan, RuleSet};

/// Subjects whose plans are kept; more than there are indices in a cluster, and few enough to keep.
const MOST_PLANS: usize = 10_000;

/// What a subject says, and what is decided about it.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) subject: Subject,
    /// `None` for what is no change of a document.
    pub(super) plan: Option<Plan>,
}

impl Address {
    /// The index that it is about.
    pub(super) fn at(&self, operation: Operation) -> At {
        At {
            tenant: self.subject.tenant.clone(),
            index: self.subject.index.clone(),
            operation,
        }
    }
}

/// The subjects that were met.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<Arc<str>, Arc<Address>>);

impl Addresses {
    /// What is decided about a subject; the error says why it is none.
    pub(super) fn of(
        &mut self,
        subject: Option<&Arc<str>>,
        rules: &RuleSet,
    ) -> Result<Arc<Address>, String> {
        let text = subject.ok_or("it has no subject")?;
        if let Some(known) = self.0.get(text) {
            return Ok(Arc::clone(known));
        }
        let subject: Subject = text.parse().map_err(|error| format!("{error}"))?;
        let mut address = Address {
            subject,
            plan: None,
        };
        if let Kind::Operation(operation) = address.subject.kind {
            address.plan = Some(rules.plan(&address.at(operation)));
        }
        if self.0.len() >= MOST_PLANS {
            self.0.clear();
        }
        let address = Arc::new(address);
        self.0.insert(Arc::clone(text), Arc::clone(&address));
        Ok(address)
    }

    /// Other rules decide otherwise.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}
