//! From what was asked to what the cluster is sent. Pure.
//!
//! [`Guarded`] is the only thing that can be sent, and [`Guarded::of`] the only way to make one: it puts
//! the key's forced filter around every query, whatever else the request says. What would look past the
//! query is never compiled: no `global` or `min_doc_count: 0` aggregation, no suggester, no
//! `post_filter`, no script, no runtime field, no stored or doc-value field, no look-up in another
//! document.

mod filter;
pub(crate) mod raw;
mod suggest;

use serde_json::{Map, Value, json};

use crate::{
    cursor::Place,
    problem::{Kind as ProblemKind, Problem},
    query::{Count, Facet, Mode, Query, Sort, Text},
    schema::{Field, FieldScope, Kind, ScopedSchema},
};

pub(crate) use self::{
    filter::truth,
    suggest::{Suggest, suggest},
};

/// Matches are counted up to here unless asked for exactly.
const COUNTED: u64 = 10_000;

/// The body of a search with the key's filter in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Guarded {
    body: Map<String, Value>,
}

impl Guarded {
    /// Puts `query` next to the forced filter. `None` matches everything the filter lets through.
    fn of(forced: &Forced, scoring: Option<Value>, filters: Vec<Value>) -> Guarded {
        let mut all = forced.0.clone();
        all.extend(filters);
        let mut bool_query = json!({ "filter": all });
        if let Some(scoring) = scoring {
            bool_query["must"] = json!([scoring]);
        }
        let mut body = Map::new();
        body.insert("query".to_owned(), json!({ "bool": bool_query }));
        Guarded { body }
    }

    fn set(&mut self, member: &str, value: impl Into<Value>) {
        debug_assert!(member != "query", "the guarded query stays as it is");
        self.body.insert(member.to_owned(), value.into());
    }

    /// In a snapshot instead of an index.
    pub(crate) fn in_snapshot(mut self, id: &str, keep_alive: &str) -> Guarded {
        self.set("pit", json!({ "id": id, "keep_alive": keep_alive }));
        self
    }

    /// As it is sent.
    pub(crate) fn to_json(&self, timeout_ms: u128) -> String {
        let mut body = self.body.clone();
        body.insert("timeout".to_owned(), format!("{timeout_ms}ms").into());
        Value::Object(body).to_string()
    }
}

/// The conditions a key forces on everything it asks of an index.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forced(Vec<Value>);

impl Forced {
    /// Compiles a key's filter for an index. It looks at the whole schema, not at what the key may see.
    ///
    /// # Errors
    /// When the index cannot keep tenants apart by it; then the key may not see the index at all.
    pub(crate) fn of(
        filters: &[crate::query::Filter],
        schema: &crate::schema::Schema,
    ) -> Result<Forced, Problem> {
        let scope = FieldScope::of(&["*"]);
        let all = ScopedSchema {
            schema,
            scope: &scope,
        };
        let refused = |problem: Problem| {
            tracing::error!(
                index = schema.name,
                reason = problem.detail,
                "a key's filter does not fit the index"
            );
            Problem::new(
                ProblemKind::Forbidden,
                "the API key cannot be used with this index",
            )
        };
        let compiled = filters.iter().map(|filter| {
            filter::check_forced(filter, all)?;
            truth(filter, true, all)
        });
        compiled
            .collect::<Result<Vec<_>, _>>()
            .map(Forced)
            .map_err(refused)
    }
}

/// What compiling a search leads to.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) guarded: Guarded,
    pub(crate) limit: u64,
    /// The facets in the order of their aggregations.
    pub(crate) facets: Vec<CompiledFacet>,
    /// What of a document is shown.
    pub(crate) shown: Shown,
    /// What makes two searches the same for a cursor.
    pub(crate) identity: u64,
}

/// A facet and what its values are.
#[derive(Debug)]
pub(crate) struct CompiledFacet {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Counts of values; else the range they are in.
    pub(crate) counts: bool,
}

/// Which fields of documents go out.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) scope: FieldScope,
    pub(crate) wanted: Option<FieldScope>,
}

impl Shown {
    /// Whether documents go out as they are.
    pub(crate) fn is_all(&self) -> bool {
        self.scope.is_all() && self.wanted.is_none()
    }

    /// Whether the value at a path goes out.
    pub(crate) fn shows(&self, path: &str) -> bool {
        self.scope.allows(path)
            && self
                .wanted
                .as_ref()
                .is_none_or(|wanted| wanted.allows(path))
    }
}

/// Compiles a search. `limit` is already within what is allowed.
///
/// # Errors
/// The first thing in it that the index has not, or that is not of its type.
pub(crate) fn search(
    query: &Query,
    limit: u64,
    facet_size: u64,
    schema: ScopedSchema<'_>,
    forced: &Forced,
    after: Option<&Place>,
) -> Result<Search, Problem> {
    let words = query
        .text
        .as_ref()
        .map(|text| words(text, schema))
        .transpose()?;
    let mut filters = filters(query, schema)?;
    let order = order(query, schema)?;
    let identity = identity(words.as_ref(), &filters, &order, forced);
    if let Some(ids) = after.map(|place| &place.ids).filter(|ids| !ids.is_empty()) {
        filters.push(json!({ "bool": { "must_not": [{ "ids": { "values": ids } }] } }));
    }
    let mut guarded = Guarded::of(forced, words.clone(), filters);
    guarded.set("size", limit);
    guarded.set("sort", order);
    guarded.set("track_scores", query.text.is_some());
    guarded.set(
        "track_total_hits",
        match query.count {
            Count::Estimated => json!(COUNTED),
            Count::Exact => json!(true),
            Count::None => json!(false),
        },
    );
    if let Some(place) = after {
        guarded.set("search_after", place.search_after());
    }
    let shown = shown(query, schema)?;
    guarded.set("_source", source(&shown));
    let facets = facets(&query.facets, facet_size, schema, &mut guarded)?;
    highlight(query, words, schema, &mut guarded)?;
    Ok(Search {
        guarded,
        limit,
        facets,
        shown,
        identity,
    })
}

/// Compiles the count of a search's matches.
///
/// # Errors
/// As [`search`].
pub(crate) fn count(
    query: &Query,
    schema: ScopedSchema<'_>,
    forced: &Forced,
) -> Result<Guarded, Problem> {
    let words = query
        .text
        .as_ref()
        .map(|text| words(text, schema))
        .transpose()?;
    let mut guarded = Guarded::of(forced, words, filters(query, schema)?);
    guarded.set("size", 0);
    guarded.set("track_total_hits", true);
    Ok(guarded)
}

/// Compiles the look-up of a document. It is a search like any other, so it sees what searches see and
/// no more.
///
/// # Errors
/// When a field of the answer does not exist.
pub(crate) fn document(
    id: &str,
    fields: Option<Vec<String>>,
    schema: ScopedSchema<'_>,
    forced: &Forced,
) -> Result<(Guarded, Shown), Problem> {
    let query = Query {
        fields,
        ..Query::default()
    };
    let shown = shown(&query, schema)?;
    let mut guarded = Guarded::of(forced, None, vec![json!({ "ids": { "values": [id] } })]);
    // Documents with the same id can live under several routings.
    guarded.set("size", 2);
    guarded.set("sort", json!([{ "_seq_no": "asc" }]));
    guarded.set("track_total_hits", false);
    guarded.set("_source", source(&shown));
    Ok((guarded, shown))
}

fn filters(query: &Query, schema: ScopedSchema<'_>) -> Result<Vec<Value>, Problem> {
    let compiled = query
        .filter
        .iter()
        .map(|filter| truth(filter, true, schema));
    let mut filters = compiled.collect::<Result<Vec<_>, _>>()?;
    if let Some(given) = &query.raw {
        filters.push(raw::checked(given, schema)?);
    }
    Ok(filters)
}

fn words(text: &Text, schema: ScopedSchema<'_>) -> Result<Value, Problem> {
    let mut fields = Vec::new();
    for (name, weight) in &text.by {
        let field = schema.field(name, "query_by")?;
        if !field.is_searchable() {
            let detail = format!(
                "{name:?} is {}; words are looked for in text and keyword fields",
                field.kind.name()
            );
            return Err(Problem::of(ProblemKind::BadParameter, "query_by", detail));
        }
        fields.push(format!("{}^{weight}", field.path));
    }
    if text.by.is_empty() {
        let texts = schema
            .fields()
            .filter(|(_, field)| field.is_searchable() && field.kind == Kind::Text);
        fields.extend(texts.map(|(_, field)| field.path.clone()));
    }
    if fields.is_empty() {
        let detail = "the index has no text field; name fields with query_by";
        return Err(Problem::of(ProblemKind::BadParameter, "q", detail));
    }
    let mut query = json!({ "query": text.words, "fields": fields });
    let (kind, and) = match text.mode {
        Mode::All => ("cross_fields", true),
        Mode::Any | Mode::Fuzzy => ("best_fields", false),
        Mode::Phrase => ("phrase", false),
        Mode::Prefix => ("bool_prefix", true),
    };
    query["type"] = kind.into();
    if and {
        query["operator"] = "and".into();
    }
    if text.mode == Mode::Fuzzy {
        query["fuzziness"] = "AUTO".into();
        query["prefix_length"] = 1.into();
    }
    Ok(json!({ "multi_match": query }))
}

/// The order asked for, or by relevance; then by sequence number, which alone is not unique across
/// shards: [`Place`] says what is done about that.
fn order(query: &Query, schema: ScopedSchema<'_>) -> Result<Value, Problem> {
    let mut order = Vec::new();
    let by_score = Sort {
        field: "_score".to_owned(),
        is_descending: true,
        nulls_first: None,
    };
    let relevance = (query.sort.is_empty() && query.text.is_some()).then_some(by_score);
    for sort in query.sort.iter().chain(&relevance) {
        let direction = if sort.is_descending { "desc" } else { "asc" };
        if sort.field == "_score" {
            if query.text.is_none() {
                let detail = "there is no q, so no document has a score";
                return Err(Problem::of(ProblemKind::BadParameter, "sort", detail));
            }
            order.push(json!({ "_score": { "order": direction } }));
            continue;
        }
        let field = schema.field(&sort.field, "sort")?;
        let path = exact(field, "sorted by", "sort")?;
        let first = sort.nulls_first.unwrap_or(sort.is_descending);
        let is_lowest = first != sort.is_descending;
        let missing = match (field.kind, is_lowest) {
            // Servers cannot give or take back the lowest of all numbers as a place in nanoseconds.
            (Kind::DateNanos, true) => json!(0),
            _ if first => json!("_first"),
            _ => json!("_last"),
        };
        order.push(json!({ path: { "order": direction, "missing": missing } }));
    }
    order.push(json!({ "_seq_no": { "order": "asc" } }));
    Ok(order.into())
}

/// The path under which a field's values are ordered and counted.
fn exact<'a>(field: &'a Field, done: &str, parameter: &str) -> Result<&'a str, Problem> {
    match field.exact.as_deref().filter(|_| field.is_sortable()) {
        Some(path) => Ok(path),
        None => Err(Problem::of(
            ProblemKind::BadParameter,
            parameter,
            format!(
                "{:?} is {} and cannot be {done}",
                field.path,
                field.kind.name()
            ),
        )),
    }
}

fn shown(query: &Query, schema: ScopedSchema<'_>) -> Result<Shown, Problem> {
    for name in query.fields.iter().flatten() {
        let below = format!("{name}.");
        if !schema
            .fields()
            .any(|(field, _)| field == name || field.starts_with(&below))
        {
            schema.field(name, "fields")?;
        }
    }
    Ok(Shown {
        scope: schema.scope.clone(),
        wanted: query.fields.as_ref().map(|fields| FieldScope::of(fields)),
    })
}

/// What of a document the cluster sends; it is looked through again before it goes out.
fn source(shown: &Shown) -> Value {
    match (&shown.wanted, shown.scope.is_all()) {
        (Some(wanted), _) => json!({ "includes": wanted.includes() }),
        (None, false) => json!({ "includes": shown.scope.includes() }),
        (None, true) => true.into(),
    }
}

fn facets(
    facets: &[Facet],
    default_size: u64,
    schema: ScopedSchema<'_>,
    guarded: &mut Guarded,
) -> Result<Vec<CompiledFacet>, Problem> {
    let mut aggregations = Map::new();
    let mut compiled = Vec::new();
    for (number, facet) in facets.iter().enumerate() {
        let field = schema.field(&facet.field, "facet_by")?;
        let path = exact(field, "counted", "facet_by")?;
        let counts = !(field.kind == Kind::Float || field.kind.is_moment());
        let aggregation = if counts {
            let size = facet.size.unwrap_or(default_size);
            // Without a minimum of one, the values of other tenants' documents would be listed.
            json!({ "terms": { "field": path, "size": size, "min_doc_count": 1 } })
        } else {
            json!({ "stats": { "field": path } })
        };
        aggregations.insert(format!("f{number}"), aggregation);
        compiled.push(CompiledFacet {
            name: facet.field.clone(),
            kind: field.kind,
            counts,
        });
    }
    if !aggregations.is_empty() {
        guarded.set("aggs", aggregations);
    }
    Ok(compiled)
}

fn highlight(
    query: &Query,
    words: Option<Value>,
    schema: ScopedSchema<'_>,
    guarded: &mut Guarded,
) -> Result<(), Problem> {
    if query.highlight.is_empty() {
        return Ok(());
    }
    let Some(words) = words else {
        let detail = "there is no q to highlight";
        return Err(Problem::of(ProblemKind::BadParameter, "highlight", detail));
    };
    let mut fields = Map::new();
    for name in &query.highlight {
        let field = schema.field(name, "highlight")?;
        if !field.is_searchable() {
            let detail = format!(
                "{name:?} is {} and cannot be highlighted",
                field.kind.name()
            );
            return Err(Problem::of(ProblemKind::BadParameter, "highlight", detail));
        }
        fields.insert(field.path.clone(), json!({}));
    }
    guarded.set(
        "highlight",
        json!({
            "fields": fields,
            // Only what was looked for, not what the forced filter contains.
            "highlight_query": words,
            // The text around the marks may be anything, also a script.
            "encoder": "html",
        }),
    );
    Ok(())
}

/// A number that differs when a cursor of one search must not be used for another.
fn identity(words: Option<&Value>, filters: &[Value], order: &Value, forced: &Forced) -> u64 {
    let text = json!([words, filters, order, forced.0]).to_string();
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
