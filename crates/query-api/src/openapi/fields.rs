//! The fields of an index as types, and what can be asked of each.

use serde_json::{Map, Value, json};

use super::reference;
use crate::schema::{Field, Kind, Operator, ScopedSchema};

/// The type of an index's documents. A field can be absent, null, or a list of values.
pub(super) fn document(schema: ScopedSchema<'_>) -> Value {
    let mut properties = Map::new();
    for (name, field) in schema.fields() {
        let mut into = &mut properties;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                into.entry(part).or_insert_with(|| value(field));
                break;
            }
            // Lists of objects are written like single ones, so neither is said to be.
            let object = into
                .entry(part)
                .or_insert_with(|| json!({ "properties": {} }));
            let Some(inner) = object["properties"].as_object_mut() else {
                break;
            };
            into = inner;
        }
    }
    json!({ "type": "object", "properties": properties })
}

fn value(field: &Field) -> Value {
    let mut schema = json!({ "description": about(field) });
    // A source may write a number as text, and any field may hold several values: the type is what
    // searching takes it for.
    schema["x-type"] = field.kind.name().into();
    if let Some(column) = &field.column_type {
        schema["x-postgres-type"] = column.as_str().into();
    }
    schema
}

/// What a field is, for people.
pub(super) fn about(field: &Field) -> String {
    let operators = field.operators();
    let operators: Vec<&str> = operators.into_iter().map(Operator::name).collect();
    match operators.is_empty() {
        true => format!("{}; nothing can be asked of it", field.kind.name()),
        false => format!("{}: {}", field.kind.name(), operators.join(", ")),
    }
}

/// A condition on a field as it stands in a URL.
pub(super) fn condition(field: &Field) -> Value {
    let mut forms = Vec::new();
    for operator in field.operators() {
        let name = operator.name();
        let value = pattern(field, operator);
        forms.push(match operator {
            Operator::Is if field.kind == Kind::Boolean => "is\\.(null|not_null|true|false)".into(),
            Operator::Is => "is\\.(null|not_null)".into(),
            Operator::In if is_text(field) => "in\\.\\([\\s\\S]*\\)".into(),
            Operator::In => format!("in\\.\\(({value}(,{value}){{0,99}})?\\)"),
            _ => format!("{name}\\.{value}"),
        });
    }
    json!({ "type": "string", "pattern": format!("^(not\\.)?({})$", forms.join("|")) })
}

fn is_text(field: &Field) -> bool {
    matches!(field.kind, Kind::Text | Kind::Keyword)
}

/// What a value looks like as text. A number may be beyond what its type holds.
fn pattern(field: &Field, operator: Operator) -> String {
    match field.kind {
        Kind::Integer(8) => "-?[0-9]{1,3}".into(),
        Kind::Integer(16) => "-?[0-9]{1,5}".into(),
        Kind::Integer(32) => "-?[0-9]{1,10}".into(),
        Kind::Integer(_) => "-?[0-9]{1,19}".into(),
        Kind::Unsigned => "[0-9]{1,20}".into(),
        Kind::Float => "-?[0-9]{1,309}(\\.[0-9]+)?([eE][+-]?[0-9]{1,3})?".into(),
        Kind::Boolean => "(true|false)".into(),
        Kind::Date | Kind::DateNanos => {
            let day = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
            let time = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\\.[0-9]{1,9})?)?";
            format!("{day}([T ]{time}(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])?)?")
        }
        Kind::Ip => {
            let part = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
            format!("({part}(\\.{part}){{3}}|[0-9a-fA-F]{{0,4}}:[0-9a-fA-F:.]+)")
        }
        Kind::Text | Kind::Keyword | Kind::Other => match longest(field, operator) {
            Some(most) => format!("[\\s\\S]{{0,{most}}}"),
            None => "[\\s\\S]*".into(),
        },
    }
}

/// How long a value may be that is compared as a whole.
fn longest(field: &Field, operator: Operator) -> Option<usize> {
    field.ignore_above.filter(|_| operator.is_whole())
}

/// A value in a body. Numbers may be written as text, so that those beyond 2^53 reach us with all digits.
fn operand(field: &Field, operator: Operator) -> Value {
    let pattern = format!("^({})$", pattern(field, operator));
    match field.kind {
        Kind::Integer(bits) => {
            let most = i64::MAX >> (64 - bits);
            json!({ "type": ["integer", "string"], "minimum": -most - 1, "maximum": most, "pattern": pattern })
        }
        Kind::Unsigned => {
            json!({ "type": ["integer", "string"], "minimum": 0, "maximum": u64::MAX, "pattern": pattern })
        }
        Kind::Float => json!({ "type": ["number", "string"], "pattern": pattern }),
        Kind::Boolean => json!({ "type": ["boolean", "string"], "pattern": pattern }),
        Kind::Date | Kind::DateNanos | Kind::Ip => {
            json!({ "type": ["string"], "pattern": pattern })
        }
        Kind::Text | Kind::Keyword | Kind::Other => {
            let mut value = json!({ "type": ["string", "number", "boolean"] });
            if let Some(most) = longest(field, operator) {
                value["maxLength"] = most.into();
            }
            value
        }
    }
}

/// What is asked of a field in a body: operators, or a value, a list of values or null alone. One schema of
/// several types, each with its own keywords, because tools understand that better than alternatives.
fn question(field: &Field, most: usize) -> Value {
    let operators = field.operators();
    let items = operand(field, Operator::In);
    let mut members = Map::new();
    for operator in &operators {
        let taken = match operator {
            Operator::In => json!({ "type": "array", "items": items, "maxItems": most }),
            Operator::Is if field.kind == Kind::Boolean => {
                json!({ "enum": [null, "null", "not_null", true, false, "true", "false"] })
            }
            Operator::Is => json!({ "enum": [null, "null", "not_null"] }),
            operator => operand(field, *operator),
        };
        members.insert(operator.name().to_owned(), taken);
    }
    let mut types = vec![json!("object"), json!("null")];
    let mut question = json!({
        "additionalProperties": false,
        "minProperties": 1,
        "properties": members,
    });
    if operators.contains(&Operator::Eq)
        && let Value::Object(alone) = operand(field, Operator::Eq)
    {
        types.push("array".into());
        question["items"] = items;
        question["maxItems"] = most.into();
        for (keyword, value) in alone {
            match value {
                Value::Array(more) if keyword == "type" => types.extend(more),
                value => question[keyword] = value,
            }
        }
    }
    question["type"] = types.into();
    question
}

/// A filter in a body: members that all hold.
pub(super) fn filter(schema: ScopedSchema<'_>, name: &str, most: usize) -> Value {
    let fields = schema.fields();
    let asked = fields.filter(|(_, field)| !field.operators().is_empty());
    let mut members: Map<String, Value> = asked
        .map(|(name, field)| (name.to_owned(), question(field, most)))
        .collect();
    let group = json!({ "type": "array", "items": reference(name), "maxItems": most });
    members.insert("and".to_owned(), group.clone());
    members.insert("or".to_owned(), group);
    members.insert("not".to_owned(), reference(name));
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": members,
        "description": "All members hold. A bare value is eq, a bare null is `is`, a bare list is `in`.",
    })
}

/// A name within a pattern.
pub(super) fn literal(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if !c.is_alphanumeric() && c != '_' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
