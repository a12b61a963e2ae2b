//! What there is to ask, for people and for programs.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Api, request::Asked, search::respond};
use crate::{
    openapi,
    problem::Problem,
    schema::{Operator, ScopedSchema},
};

/// A page that needs nothing from anywhere else; it asks for a key and describes what that key sees.
const PAGE: &str = include_str!("../openapi/page.html");

pub(super) async fn indices(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let all = api.catalogue.all();
    let names: Vec<&String> = all.keys().filter(|name| asked.key.may_see(name)).collect();
    respond(&api, &asked, &json!({ "indices": names }))
}

pub(super) async fn index(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let target = asked.target(&api)?;
    respond(&api, &asked, &describe(target.scoped()))
}

fn describe(schema: ScopedSchema<'_>) -> Value {
    let fields = schema.fields().map(|(name, field)| {
        let operators = field.operators();
        let operators: Vec<&str> = operators.into_iter().map(Operator::name).collect();
        let mut about = json!({
            "type": field.kind.name(),
            "operators": operators,
            "sortable": field.is_sortable(),
            "facetable": field.is_countable(),
            "searchable": field.is_searchable(),
        });
        if let Some(column) = &field.column_type {
            about["postgres_type"] = column.as_str().into();
        }
        (name.to_owned(), about)
    });
    json!({ "index": schema.schema.name, "fields": fields.collect::<serde_json::Map<_, _>>() })
}

pub(super) async fn openapi(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let all = api.catalogue.all();
    let seen = all
        .values()
        .filter(|schema| asked.key.may_see(&schema.name));
    let scope = &asked.key.fields;
    let schemas: Vec<_> = seen.map(|schema| ScopedSchema { schema, scope }).collect();
    let document = openapi::document(&schemas, &api.limits);
    respond(&api, &asked, &document)
}

pub(super) async fn page() -> Response {
    let mut response = PAGE.into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    // The page may run its own script and talk to this service, nothing else.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    );
    response
}
