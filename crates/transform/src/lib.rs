//! Rules on changes: which of them go on, in what form, and to which index. Pure: no I/O, no clock, and the
//! same change always gives the same result.
//!
//! - [`RuleSet::read`] reads a rule file, or says everything that is wrong with it.
//! - [`RuleSet::plan`] decides what can be decided about a subject; a plan that
//!   [passes whole](Plan::passes_whole) needs no look at any change.
//! - [`RuleSet::apply`] decides about one change; [`RuleSet::apply_all`] about many. A document is opened only where a rule looks.
//!
//! **Versions.** What goes on keeps the version of its change, whatever the rules make of the document. A
//! document that a condition on its fields drops may be at the target from an earlier version that met the
//! condition; so it goes on as a delete of its version ([`Outcome::Removed`]). A delete has no fields and
//! passes every such condition.
//!
//! **Places.** A document has one place. Where that depends on a field, it is deleted in all the others.

mod definition;
mod filter;
mod jq;
mod json;
mod predicate;
mod read;
mod route;
mod rules;
mod scope;
mod step;
mod subjects;

use std::path::PathBuf;

pub use jq::{Answer, Jq, Question, RunJq};
pub use rules::{Changes, Outcome, Plan, RuleError, RuleSet, Selection};
pub use scope::At;
pub use subjects::MOST_SUBJECTS;

/// Where the key of a hash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
}
