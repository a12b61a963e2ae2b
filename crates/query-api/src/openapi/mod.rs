//! The description of the interface (OpenAPI 3.1), made from the code and from the indices as they are.
//!
//! It has a path for each index that the key sees, so that generated clients have a type for its documents
//! and the filters of its fields, with the operators each has.

mod asking;
mod fields;

use serde_json::{Map, Value, json};

use crate::{
    limits::Limits,
    problem::Kind as ProblemKind,
    schema::{Operator, ScopedSchema},
};

/// The OpenAPI document of what a key sees.
pub(crate) fn document(schemas: &[ScopedSchema<'_>], limits: &Limits) -> Value {
    let mut paths = Map::new();
    let mut components = components();
    paths.insert(
        "/v1".to_owned(),
        json!({ "get": operation("list_indices", "Indices", "The indices there are", json!({
            "type": "object",
            "required": ["indices"],
            "properties": { "indices": { "type": "array", "items": { "type": "string" } } },
        }))}),
    );
    for (number, schema) in schemas.iter().enumerate() {
        Index::new(number, *schema, limits).describe(&mut paths, &mut components);
    }
    paths.insert("/v1/multi-search".to_owned(), multi_search(limits));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Syncline query API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Search over what was synced. Answers are whole or a problem document (RFC 9457).",
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
            "schemas": components,
        },
    })
}

/// One index, as paths and types.
struct Index<'a> {
    schema: ScopedSchema<'a>,
    limits: &'a Limits,
    /// The start of the names of its types and operations.
    name: String,
    path: String,
}

impl<'a> Index<'a> {
    fn new(number: usize, schema: ScopedSchema<'a>, limits: &'a Limits) -> Index<'a> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut name: String = schema.schema.name.chars().map(plain).collect();
        // Names that differ only in what is not allowed in names.
        if name != schema.schema.name || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name = format!("i{number}_{name}");
        }
        let path = format!("/v1/{}", search::encode(&schema.schema.name));
        Index {
            schema,
            limits,
            name,
            path,
        }
    }

    fn describe(&self, paths: &mut Map<String, Value>, components: &mut Map<String, Value>) {
        let Index { name, path, .. } = self;
        components.insert(format!("{name}_document"), fields::document(self.schema));
        components.insert(
            format!("{name}_filter"),
            fields::filter(self.schema, &format!("{name}_filter"), self.limits.clauses),
        );
        components.insert(
            format!("{name}_hit"),
            json!({
                "type": "object",
                "required": ["id", "document"],
                "properties": {
                    "id": { "type": "string" },
                    "score": { "type": "number" },
                    "document": reference(&format!("{name}_document")),
                    "highlight": {
                        "type": "object",
                        "additionalProperties": { "type": "array", "items": { "type": "string" } },
                    },
                },
            }),
        );
        components.insert(format!("{name}_answer"), json!({
            "type": "object",
            "required": ["hits"],
            "properties": {
                "hits": { "type": "array", "items": reference(&format!("{name}_hit")) },
                "found": reference("Found"),
                "facets": { "type": "object", "additionalProperties": reference("Facet") },
                "cursor": { "type": "string", "description": "Gives the next page; absent at the end" },
            },
        }));
        components.insert(format!("{name}_search"), self.body(true));
        components.insert(format!("{name}_count"), self.body(false));
        let index = &self.schema.schema.name;
        let answer = reference(&format!("{name}_answer"));
        let searching = |method: &str| {
            operation(
                &format!("{name}_search_{method}"),
                index,
                "Search",
                answer.clone(),
            )
        };
        let counting = |method: &str| {
            operation(
                &format!("{name}_count_{method}"),
                index,
                "Count the matches",
                counted(),
            )
        };
        paths.insert(path.clone(), json!({
            "get": operation(&format!("{name}_fields"), index, "The fields and what can be asked of them", json!({ "type": "object" })),
        }));
        paths.insert(
            format!("{path}/search"),
            json!({
                "get": with_parameters(searching("get"), self.parameters(true)),
                "post": with_body(searching("post"), reference(&format!("{name}_search"))),
            }),
        );
        paths.insert(
            format!("{path}/count"),
            json!({
                "get": with_parameters(counting("get"), self.parameters(false)),
                "post": with_body(counting("post"), reference(&format!("{name}_count"))),
            }),
        );
        let suggested = operation(
            &format!("{name}_suggest"),
            index,
            "Complete what is being typed",
            json!({
                "type": "object",
                "required": ["values"],
                "properties": { "values": { "type": "array", "items": reference("Value") } },
            }),
        );
        paths.insert(
            format!("{path}/suggest"),
            json!({ "get": with_parameters(suggested, self.suggest_parameters()) }),
        );
        let document = operation(
            &format!("{name}_get"),
            index,
            "One document",
            json!({
                "type": "object",
                "required": ["id", "document"],
                "properties": { "id": { "type": "string" }, "document": reference(&format!("{name}_document")) },
            }),
        );
        paths.insert(
            format!("{path}/{{id}}"),
            json!({ "get": with_parameters(document, self.document_parameters()) }),
        );
    }

    fn names(&self, wanted: impl Fn(&crate::schema::Field) -> bool) -> Vec<&'a str> {
        self.schema
            .fields()
            .filter(|(_, field)| wanted(field))
            .map(|(name, _)| name)
            .collect()
    }
}

fn components() -> Map<String, Value> {
    let kinds = ProblemKind::ALL.map(|kind| format!("urn:syncline:problem:{}", kind.name()));
    let operators = Operator::ALL.map(Operator::name);
    let mut components = Map::new();
    let mut add = |name: &str, schema: Value| components.insert(name.to_owned(), schema);
    add(
        "Problem",
        json!({
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": { "type": "string", "enum": kinds },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "parameter": { "type": "string", "description": "What it is about" },
            },
        }),
    );
    add(
        "Found",
        json!({
            "type": "object",
            "required": ["count", "exact"],
            "properties": { "count": { "type": "integer" }, "exact": { "type": "boolean", "description": "Else there are at least so many" } },
        }),
    );
    add(
        "Value",
        json!({
            "type": "object",
            "required": ["value", "count"],
            "properties": { "value": { "type": ["string", "number", "boolean"] }, "count": { "type": "integer" } },
        }),
    );
    add(
        "Facet",
        json!({
            "type": "object",
            "description": "Counts of values, or the range of them",
            "properties": {
                "values": { "type": "array", "items": reference("Value") },
                "others": { "type": "integer", "description": "Documents with values that are not listed" },
                "error": { "type": "integer", "description": "By how much a count may be too low" },
                "min": { "type": ["number", "string", "null"] },
                "max": { "type": ["number", "string", "null"] },
                "avg": { "type": ["number", "null"] },
                "sum": { "type": ["number", "null"] },
                "count": { "type": "integer" },
            },
        }),
    );
    add("Operator", json!({ "type": "string", "enum": operators }));
    components
}

fn counted() -> Value {
    json!({ "type": "object", "required": ["count"], "properties": { "count": { "type": "integer" } } })
}

fn multi_search(limits: &Limits) -> Value {
    let body = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["searches"],
        "properties": { "searches": {
            "type": "array", "maxItems": limits.searches,
            "items": { "type": "object", "description": "The body of a search, with `index`; one that makes no sense has a problem as its result" },
        }},
    });
    let answer = json!({
        "type": "object",
        "required": ["results"],
        "properties": { "results": { "type": "array", "items": { "type": "object" } } },
    });
    json!({ "post": with_body(operation("multi_search", "Indices", "Several searches, each with an answer or a problem", answer), body) })
}

fn operation(id: &str, tag: &str, summary: &str, answer: Value) -> Value {
    json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "responses": {
            "200": { "description": summary, "content": { "application/json": { "schema": answer } } },
            "304": { "description": "The answer is the one that was shown as known" },
            "default": {
                "description": "A problem",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            },
        },
    })
}

fn with_parameters(mut operation: Value, parameters: Vec<Value>) -> Value {
    operation["parameters"] = parameters.into();
    operation
}

fn with_body(mut operation: Value, schema: Value) -> Value {
    operation["requestBody"] =
        json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    operation
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
