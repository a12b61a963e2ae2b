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
    let named = |wanted: &dyn Fn(Operator) -> bool| {
        let names = field
            .operators()
            .into_iter()
            .filter(|operator| wanted(*operator));
        names.map(Operator::name).collect::<Vec<_>>().join("|")
    };
    let value = pattern(field.kind);
    let plain = named(&|operator| !matches!(operator, Operator::In | Operator::Is));
    let is = if field.kind == Kind::Boolean {
        "null|not_null|true|false"
    } else {
        "null|not_null"
    };
    let mut forms = vec![format!("is\\.({is})")];
    if !plain.is_empty() {
        forms.push(format!("({plain})\\.{value}"));
    }
    if field.operators().contains(&Operator::In) {
        forms.push(format!("in\\.\\({value}(,{value}){{0,5}}\\)"));
    }
    json!({ "type": "string", "pattern": format!("^(not\\.)?({})$", forms.join("|")) })
}

/// What a value looks like, and no value that does not: narrower than what is taken.
fn pattern(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer(8) => "-?[0-9]{1,2}",
        Kind::Integer(16) => "-?[0-9]{1,4}",
        Kind::Integer(32) => "-?[0-9]{1,9}",
        Kind::Integer(_) => "-?[0-9]{1,18}",
        Kind::Unsigned => "[0-9]{1,18}",
        Kind::Float => "-?[0-9]{1,12}(\\.[0-9]{1,6})?",
        Kind::Boolean => "(true|false)",
        Kind::Date | Kind::DateNanos => {
            "20[0-9]{2}-0[1-9]-[12][0-8](T[01][0-9]:[0-5][0-9]:[0-5][0-9]Z)?"
        }
        Kind::Ip => "10\\.[0-9]\\.[0-9]\\.[0-9]",
        Kind::Text | Kind::Keyword | Kind::Other => "[A-Za-z0-9 _-]{1,40}",
    }
}

/// A filter in a body: members that all hold.
pub(super) fn filter(schema: ScopedSchema<'_>, name: &str) -> Value {
    let mut members = Map::new();
    for (field_name, field) in schema
        .fields()
        .filter(|(_, field)| !field.operators().is_empty())
    {
        let value = match field.kind {
            Kind::Integer(bits) => {
                let most = i64::MAX >> (64 - bits.min(53));
                json!({ "type": "integer", "minimum": -most, "maximum": most })
            }
            Kind::Unsigned => {
                json!({ "type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_991_u64 })
            }
            Kind::Float => json!({ "type": "number" }),
            Kind::Boolean => json!({ "type": "boolean" }),
            kind => json!({ "type": "string", "pattern": format!("^{}$", pattern(kind)) }),
        };
        let mut operators = Map::new();
        for operator in field.operators() {
            let taken = match operator {
                Operator::In => json!({ "type": "array", "items": value, "maxItems": 20 }),
                Operator::Is if field.kind == Kind::Boolean => {
                    json!({ "enum": [null, "null", "not_null", true, false] })
                }
                Operator::Is => json!({ "enum": [null, "null", "not_null"] }),
                _ => value.clone(),
            };
            operators.insert(operator.name().to_owned(), taken);
        }
        members.insert(
            field_name.to_owned(),
            json!({
                "type": "object",
                "additionalProperties": false,
                "minProperties": 1,
                "properties": operators,
            }),
        );
    }
    let group = json!({ "type": "array", "items": reference(name), "maxItems": 5 });
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
