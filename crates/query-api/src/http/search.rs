//! Searching, counting, completing and looking up.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use serde_json::json;

use super::{
    Api, caching,
    request::{Asked, Target},
};
use crate::{
    answer::{Answer, Found},
    compile::{self, Guarded, Search, Suggest},
    cursor::{Cursor, Owner, Place},
    limits::most,
    problem::{Kind, Problem},
    query::{Filter, Query},
    snapshots::{Room, Snapshot},
};

type Shared = State<Arc<Api>>;

pub(super) async fn by_url(State(api): Shared, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let query = asked.query_of_url()?;
    search(&api, &asked, query).await
}

pub(super) async fn by_body(State(api): Shared, request: Request) -> Result<Response, Problem> {
    let (asked, body) = Asked::with_body(&api, request)?;
    let query = asked.query_of_body(&api, body).await?;
    search(&api, &asked, query).await
}

async fn search(api: &Api, asked: &Asked, query: Query) -> Result<Response, Problem> {
    let target = asked.target(api)?;
    let prepared = prepare(api, &target, query)?;
    api.wait(&target, prepared.query.position.as_deref())
        .await?;
    let Prepared {
        query,
        compiled,
        cursor,
    } = prepared;
    let snapshot = match cursor.as_ref() {
        Some(cursor) => cursor.snapshot.clone(),
        None if query.is_snapshot => Some(open_snapshot(api, &target).await?),
        None => None,
    };
    let guarded = &compiled.guarded;
    let bytes = match &snapshot {
        Some(snapshot) => read_snapshot(api, &target, snapshot, guarded.clone()).await?,
        None => api.backend.search(&target.schema.index, guarded).await?,
    };
    let found = Found::read(&bytes)?;
    let snapshot = snapshot.map(|snapshot| Snapshot {
        id: found.pit_id.clone().unwrap_or(snapshot.id),
        ..snapshot
    });
    let before = cursor.as_ref().map(|cursor| &cursor.place);
    let held = snapshot.clone();
    let answer = answer(api, &target, &query, &compiled, &found, before, snapshot)?;
    if let Some(held) = held {
        let (key, is_read) = (&target.key.id, answer.cursor.is_none());
        api.snapshots.keep(key, &held, is_read, Instant::now());
    }
    respond(api, asked, &answer)
}

async fn open_snapshot(api: &Api, target: &Target) -> Result<Snapshot, Problem> {
    let key = &target.key.id;
    let Room { number, gives_way } = api.snapshots.begin(key, Instant::now())?;
    if let Some(id) = gives_way {
        api.backend.close_snapshot(&id).await;
    }
    let opened = api.backend.open_snapshot(&target.schema.index).await;
    match opened {
        Ok(id) => Ok(Snapshot { id, number }),
        Err(problem) => {
            api.snapshots.forget(key, number, Instant::now());
            Err(problem)
        }
    }
}

async fn read_snapshot(
    api: &Api,
    target: &Target,
    snapshot: &Snapshot,
    search: Guarded,
) -> Result<Bytes, Problem> {
    let read = api.backend.search_snapshot(&snapshot.id, search).await;
    // What is over makes room.
    if matches!(&read, Err(problem) if problem.kind == Kind::BadCursor) {
        let now = Instant::now();
        api.snapshots.forget(&target.key.id, snapshot.number, now);
    }
    read
}

/// A search that may be sent.
pub(super) struct Prepared {
    pub(super) query: Query,
    pub(super) compiled: Search,
    pub(super) cursor: Option<Cursor>,
}

/// All that can be refused without asking the cluster.
pub(super) fn prepare(api: &Api, target: &Target, query: Query) -> Result<Prepared, Problem> {
    let limit = api.limits.check(&query)?;
    may_use_raw(api, target, &query)?;
    let cursor = query
        .cursor
        .as_deref()
        .map(|text| api.sealer.open(text))
        .transpose()?;
    if let Some(cursor) = &cursor {
        if limit == 0 {
            let detail = "a page has at least one document";
            return Err(Problem::of(Kind::BadParameter, "limit", detail));
        }
        cursor.check(Owner {
            index: &target.schema.name,
            schema: target.schema.fingerprint,
            key: &target.key.id,
        })?;
    }
    let place = cursor.as_ref().map(|cursor| &cursor.place);
    let facet_size = api.limits.facet_values.min(10);
    let compiled = compile::search(
        &query,
        limit,
        facet_size,
        target.scoped(),
        &target.forced,
        place,
    )?;
    if let Some(cursor) = &cursor {
        cursor.check_search(compiled.identity)?;
    }
    Ok(Prepared {
        query,
        compiled,
        cursor,
    })
}

fn may_use_raw(api: &Api, target: &Target, query: &Query) -> Result<(), Problem> {
    if query.raw.is_none() {
        return Ok(());
    }
    match (api.limits.has_raw, target.key.may_use_raw) {
        (true, true) => Ok(()),
        (false, _) => Err(Problem::of(
            Kind::Forbidden,
            "raw",
            "raw queries are switched off here",
        )),
        (true, false) => Err(Problem::of(
            Kind::Forbidden,
            "raw",
            "the API key may not use raw queries",
        )),
    }
}

/// Makes our answer of the cluster's.
pub(super) fn answer(
    api: &Api,
    target: &Target,
    query: &Query,
    compiled: &Search,
    found: &Found<'_>,
    before: Option<&Place>,
    snapshot: Option<Snapshot>,
) -> Result<Answer, Problem> {
    let hits = found.hits().iter();
    let hits = hits.map(|hit| hit.answer(&compiled.shown, query.text.is_some()));
    let is_full = compiled.limit > 0 && found.hits().len() as u64 == compiled.limit;
    let places = found
        .hits()
        .iter()
        .map(|hit| (hit.id.as_str(), hit.sort.as_slice()));
    let cursor = Place::after(places, before)
        .filter(|_| is_full)
        .map(|place| {
            api.sealer.seal(&Cursor {
                index: target.schema.name.clone(),
                schema: target.schema.fingerprint,
                search: compiled.identity,
                key: target.key.id.clone(),
                place,
                snapshot,
            })
        });
    Ok(Answer {
        hits: hits.collect::<Result<_, _>>()?,
        found: found.total(),
        facets: found.facets(&compiled.facets),
        cursor: cursor.transpose()?,
    })
}

pub(super) async fn count_by_url(
    State(api): Shared,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let query = asked.query_of_url()?;
    count(&api, &asked, query).await
}

pub(super) async fn count_by_body(
    State(api): Shared,
    request: Request,
) -> Result<Response, Problem> {
    let (asked, body) = Asked::with_body(&api, request)?;
    let query = asked.query_of_body(&api, body).await?;
    count(&api, &asked, query).await
}

async fn count(api: &Api, asked: &Asked, query: Query) -> Result<Response, Problem> {
    let target = asked.target(api)?;
    api.limits.check(&query)?;
    may_use_raw(api, &target, &query)?;
    only_about_matches(&query)?;
    let compiled = compile::count(&query, target.scoped(), &target.forced)?;
    api.wait(&target, query.position.as_deref()).await?;
    let bytes = api.backend.search(&target.schema.index, &compiled).await?;
    let count = Found::read(&bytes)?.total().map_or(0, |total| total.count);
    respond(api, asked, &json!({ "count": count }))
}

/// What a count has no use for would be overlooked.
fn only_about_matches(query: &Query) -> Result<(), Problem> {
    let given = [
        ("facet_by", !query.facets.is_empty()),
        ("sort", !query.sort.is_empty()),
        ("fields", query.fields.is_some()),
        ("highlight", !query.highlight.is_empty()),
        ("limit", query.limit.is_some()),
        ("cursor", query.cursor.is_some()),
        ("snapshot", query.is_snapshot),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(Problem::of(
            Kind::BadParameter,
            name,
            "a count has no use for it",
        )),
        None => Ok(()),
    }
}

pub(super) async fn suggest(State(api): Shared, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let target = asked.target(&api)?;
    let wanted = suggestion(&asked.pairs()?)?;
    most(
        "limit",
        "values",
        wanted.limit as usize,
        api.limits.facet_values as usize,
    )?;
    most("prefix", "characters", wanted.prefix.chars().count(), 100)?;
    api.limits.check_filter(&wanted.filter, None)?;
    let compiled = compile::suggest(&wanted, target.scoped(), &target.forced)?;
    let bytes = api.backend.search(&target.schema.index, &compiled).await?;
    let values = Found::read(&bytes)?.suggestions();
    respond(&api, &asked, &json!({ "values": values }))
}

fn suggestion(pairs: &[(String, String)]) -> Result<Suggest, Problem> {
    let (mut field, mut prefix, mut limit) = (None, None, 10);
    let mut filter = Vec::new();
    for (number, (name, value)) in pairs.iter().enumerate() {
        let is_ours = ["field", "prefix", "limit"].contains(&name.as_str());
        if is_ours && pairs[..number].iter().any(|(other, _)| other == name) {
            return Err(Problem::of(Kind::BadParameter, name, "it is given twice"));
        }
        match name.as_str() {
            "field" => field = Some(value.clone()),
            "prefix" => prefix = Some(value.clone()),
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|limit| *limit > 0)
                    .ok_or_else(|| {
                        Problem::of(
                            Kind::BadParameter,
                            "limit",
                            format!("{value:?} is no number above 0"),
                        )
                    })?;
            }
            _ => filter.push(Filter::of_parameter(name, value)?),
        }
    }
    let missing = |name: &str| Problem::of(Kind::BadParameter, name, "it is not given");
    let field = field.ok_or_else(|| missing("field"))?;
    let prefix = prefix
        .filter(|prefix| !prefix.is_empty())
        .ok_or_else(|| missing("prefix"))?;
    Ok(Suggest {
        field,
        prefix,
        limit,
        filter,
    })
}

pub(super) async fn document(State(api): Shared, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(&api, request)?;
    let target = asked.target(&api)?;
    let id = asked.path()?.get(1).cloned().unwrap_or_default();
    let query = asked.query_of_url()?;
    let given = Query {
        fields: None,
        position: None,
        ..query.clone()
    };
    if given != Query::default() {
        let detail = "a document is asked for with `fields` and a position at most";
        return Err(Problem::new(Kind::BadParameter, detail));
    }
    let (compiled, shown) = compile::document(&id, query.fields, target.scoped(), &target.forced)?;
    api.wait(&target, query.position.as_deref()).await?;
    let bytes = api.backend.search(&target.schema.index, &compiled).await?;
    let found = Found::read(&bytes)?;
    let unknown = || {
        let detail = format!("{:?} has no document {id:?}", target.schema.name);
        Problem::of(Kind::UnknownDocument, "id", detail)
    };
    let hit = found.hits().first().ok_or_else(unknown)?;
    let answer = hit.answer(&shown, false)?;
    respond(
        &api,
        &asked,
        &json!({ "id": answer.id, "document": answer.document }),
    )
}

/// Sends an answer as JSON.
pub(super) fn respond(
    api: &Api,
    asked: &Asked,
    answer: &impl serde::Serialize,
) -> Result<Response, Problem> {
    let body = serde_json::to_vec(answer).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        Problem::new(Kind::Internal, "the answer cannot be written")
    })?;
    Ok(caching::json(
        &asked.parts.method,
        &asked.parts.headers,
        api.edge.cache,
        body,
    ))
}
