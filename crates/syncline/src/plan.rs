//! What has to be done at a target before documents come, in words.

use model::IndexName;
use search::{Choices, Client, Error, Plan};
use serde_json::Value;

/// The lines that say what a plan does, and what it leaves as it is.
pub(crate) fn lines(index: &IndexName, plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.creates {
        lines.push(format!("{index}: is created"));
    } else if plan.is_empty() && plan.drift.is_empty() {
        lines.push(format!("{index}: is there, and looks as it should"));
    } else {
        lines.push(format!("{index}: is there"));
    }
    for translation in &plan.translated {
        lines.push(format!(
            "  field {}: {} is called {} there",
            translation.field, translation.from, translation.to
        ));
    }
    for left in &plan.left_out {
        lines.push(format!(
            "  setting {}: left out, {}",
            left.key,
            left.reason.as_str()
        ));
    }
    if !plan.added.is_empty() {
        lines.push(format!("  fields are added: {}", plan.added.join(", ")));
    }
    for (key, value) in &plan.settings {
        lines.push(match value {
            Value::Null => format!("  setting {key}: is reset"),
            Value::String(text) => format!("  setting {key}: becomes {text}"),
            value => format!("  setting {key}: becomes {value}"),
        });
    }
    for alias in plan.aliases.keys() {
        lines.push(format!("  alias {alias}: is set"));
    }
    for alias in &plan.dropped {
        lines.push(format!("  alias {alias}: is removed"));
    }
    for drift in &plan.drift {
        lines.push(format!("  stays as it is: {drift}"));
    }
    lines
}

/// The plan for an index.
pub(crate) async fn of(
    source: &Client,
    target: &Client,
    index: &IndexName,
    choices: Choices,
) -> Result<Plan, (bool, Error)> {
    let definition = source
        .definition(index)
        .await
        .map_err(|error| (true, error))?;
    target
        .plan(index, &definition, choices)
        .await
        .map_err(|error| (false, error))
}
