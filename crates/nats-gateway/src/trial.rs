//! Trying rules on documents without a cluster.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use model::{
    Action, Change, Document, DocumentId, IndexName, NameError, Operation, Tenant, Version,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use transform::{At, Outcome};

use crate::{control::InForce, jq::JqProcess};

/// Shows what rules make of documents.
#[derive(Debug)]
pub struct Trial {
    rules: Arc<InForce>,
    jq: JqProcess,
    index: IndexName,
    tenant: Tenant,
}

/// A document as searches and dumps show it.
#[derive(Deserialize)]
struct Hit<'a> {
    _index: Option<String>,
    _id: Option<String>,
    _routing: Option<String>,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
    /// What has happened to it; `index` if not given.
    _op: Option<String>,
}

/// Why a line is not tried.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TrialError {
    #[error("line {line} is no JSON object: {reason}")]
    NoDocument { line: usize, reason: String },
    #[error("line {line}: {reason}")]
    Name { line: usize, reason: NameError },
    #[error("line {line}: {reason}")]
    Operation {
        line: usize,
        reason: model::UnknownOperation,
    },
}

impl Trial {
    /// Tries rules on documents that belong to `index` unless they say another.
    pub fn new(
        rules: Arc<InForce>,
        (timeout, memory): (Duration, u64),
        index: IndexName,
        tenant: Tenant,
    ) -> Trial {
        let jq = JqProcess::new(rules.rules.programs(), timeout, memory);
        Trial {
            rules,
            jq,
            index,
            tenant,
        }
    }

    /// Says what becomes of the document of a line: a document by itself, or as a search shows it, with `_index`,
    /// `_id`, `_source` and, for another operation than `index`, `_op`.
    ///
    /// # Errors
    /// When the line is no such thing.
    pub fn run(&mut self, line: usize, text: &str) -> Result<String, TrialError> {
        let (at, change) = self.change(line, text)?;
        let plan = self.rules.rules.plan(&at);
        let outcome = self.rules.rules.apply(&plan, &change, &mut self.jq);
        let mut said = format!("{line}: {} {}/{}\n", at.operation, at.index, change.id);
        let before = change
            .document()
            .map(Document::as_bytes)
            .unwrap_or_default();
        let mut put = |what: &str, rest: &str| {
            writeln!(said, "   {what:<7} {rest}").expect("writing to a String cannot fail");
        };
        if !before.is_empty() {
            put("before", &String::from_utf8_lossy(before));
        }
        match outcome {
            Ok(Outcome::Dropped(rule)) => put("drop", &format!("by {rule}")),
            Ok(Outcome::Removed(rule, changes)) => {
                for (index, _) in &changes {
                    put(
                        "delete",
                        &format!("{index}/{}, by {rule}: it may be there", change.id),
                    );
                }
            }
            Ok(Outcome::Changed(changes)) => {
                for (index, change) in &changes {
                    match change.document() {
                        Some(document) => put(
                            "after",
                            &format!("{index} {}", String::from_utf8_lossy(document.as_bytes())),
                        ),
                        None => put("delete", &format!("{index}/{}", change.id)),
                    }
                }
            }
            Err(error) => put("letter", &error.to_string()),
        }
        Ok(said)
    }

    fn change(&self, line: usize, text: &str) -> Result<(At, Change), TrialError> {
        let named = |reason| TrialError::Name { line, reason };
        let malformed = |error: &dyn std::fmt::Display| TrialError::NoDocument {
            line,
            reason: error.to_string(),
        };
        let whole: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        let hit: Hit<'_> = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        let operation = hit._op.as_deref().unwrap_or("index");
        let operation: Operation = operation
            .parse()
            .map_err(|reason| TrialError::Operation { line, reason })?;
        let source = hit._source.unwrap_or(whole);
        let document = Document::from_json(Bytes::copy_from_slice(source.get().as_bytes()));
        let index = hit
            ._index
            .map_or(Ok(self.index.clone()), IndexName::try_from);
        let id = hit._id.unwrap_or_else(|| line.to_string());
        let change = Change {
            id: DocumentId::try_from(id.as_str()).map_err(named)?,
            routing: hit._routing.map(String::into_boxed_str),
            version: Version::new(model::Epoch(0), line as u64)
                .expect("a file has less lines than a version counts"),
            over: false,
            action: match operation {
                Operation::Index => Action::Index(document),
                Operation::Update => Action::Update(document),
                Operation::Delete => Action::Delete,
            },
        };
        let at = At {
            tenant: self.tenant.clone(),
            index: index.map_err(named)?,
            operation,
        };
        Ok((at, change))
    }
}
