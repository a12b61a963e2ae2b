//! Completions of what somebody is typing.
//!
//! The clusters' own suggesters look at a whole index, past every query, so they are not used: these
//! are the most frequent values among the documents that the query finds.

use serde_json::{Value, json};

use super::{Forced, Guarded};
use crate::{
    problem::{Kind as ProblemKind, Problem},
    query::Filter,
    schema::{Kind, ScopedSchema},
};

/// What is being typed into which field.
#[derive(Debug, Clone)]
pub(crate) struct Suggest {
    pub(crate) field: String,
    pub(crate) prefix: String,
    pub(crate) limit: u64,
    pub(crate) filter: Vec<Filter>,
}

/// Compiles it. A keyword is completed from its beginning, a text from the beginning of any word.
///
/// # Errors
/// When the field is neither, or cannot be counted.
pub(crate) fn suggest(
    suggest: &Suggest,
    schema: ScopedSchema<'_>,
    forced: &Forced,
) -> Result<Guarded, Problem> {
    let field = schema.field(&suggest.field, "field")?;
    let is_text = field.kind == Kind::Text;
    let path = field
        .exact
        .as_deref()
        .filter(|_| field.is_countable() && field.is_searchable());
    let Some(path) = path else {
        let detail = format!(
            "{:?} is {} and has no values to suggest",
            suggest.field,
            field.kind.name()
        );
        return Err(Problem::of(ProblemKind::BadParameter, "field", detail));
    };
    let mut filters: Vec<Value> = Vec::new();
    for filter in &suggest.filter {
        filters.push(super::truth(filter, true, schema)?);
    }
    let mut terms = json!({ "field": path, "size": suggest.limit, "min_doc_count": 1 });
    if is_text {
        filters
            .push(json!({ "match_phrase_prefix": { &field.path: { "query": suggest.prefix } } }));
    } else {
        filters.push(
            json!({ "prefix": { path: { "value": suggest.prefix, "case_insensitive": true } } }),
        );
        // A document can have several values, of which only some begin like that.
        terms["include"] = any_case(&suggest.prefix).into();
    }
    let mut guarded = Guarded::of(forced, None, filters);
    guarded.set("size", 0);
    guarded.set("track_total_hits", false);
    guarded.set("aggs", json!({ "values": { "terms": terms } }));
    Ok(guarded)
}

/// A pattern of what begins with the text in whatever case.
fn any_case(prefix: &str) -> String {
    let mut pattern = String::new();
    for c in prefix.chars() {
        let (lower, upper) = (c.to_lowercase().to_string(), c.to_uppercase().to_string());
        if lower != upper && lower.chars().count() == 1 && upper.chars().count() == 1 {
            pattern.push_str(&format!("[{lower}{upper}]"));
        } else if c.is_alphanumeric() || c == ' ' {
            pattern.push(c);
        } else {
            pattern.extend(['\\', c]);
        }
    }
    pattern.push_str(".*");
    pattern
}
