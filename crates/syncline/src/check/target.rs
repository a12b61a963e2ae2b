//! The target: whether everything writing does is allowed, found out without writing.
//!
//! - A bulk of one action on the condition that the document has a sequence number no document has:
//!   refused for the condition (409) where writing is allowed, for the privilege (403) where not.
//!   The delete goes first, because a bulk that indexes would create an index that is missing.
//! - An index of no shards, which every cluster refuses: 400 where creating is allowed.
//! - A field of a type that nobody has: 400 where the mapping may be changed.
//! - A setting that nobody has: 400 where settings may be changed. A run can do without.

use bytes::Bytes;
use model::{IndexName, source_of};
use search::{Choices, Client, ClientConfig, Error, IndexPatterns, Request, encode};
use serde::Deserialize;

use crate::plan;

use super::{
    cluster::{self, listed, remedy},
    report::Report,
    source::Source,
};

/// Bulks of a run are this large unless told otherwise; so much at least should fit.
const ROOM_FOR_BULKS: u64 = 8 << 20;

/// What the target is looked at for.
pub(crate) struct Plan<'a> {
    pub(crate) source: Option<&'a Source>,
    pub(crate) patterns: &'a IndexPatterns,
    pub(crate) write_test: bool,
}

pub(crate) async fn look(report: &mut Report, config: &ClientConfig, plan: &Plan<'_>) {
    let Some(client) = cluster::connect(report, "target", config).await else {
        return;
    };
    if let Some(source) = plan.source {
        let cluster = &source.client.server().cluster_uuid;
        if *cluster == client.server().cluster_uuid && !cluster.is_empty() {
            report.fail(
                "target connection",
                "it is the same cluster as the source: a run would overwrite its own source",
                "correct --target",
            );
        }
    }
    cluster::health(report, "target", &client).await;
    request_limit(report, &client).await;
    let names = names(report, &client, plan).await;
    let existing = writing(report, &client, &names).await;
    creating(report, &client, &names).await;
    mapping(report, &client, &names).await;
    settings(report, &client, &names).await;
    origin(report, &client, &names, plan.source).await;
    if let Some(source) = plan.source {
        definitions(report, &source.client, &client, &existing).await;
    }
    if !existing.is_empty() {
        cluster::comparing(report, "target", read_all(&client, &existing).await);
    }
    if plan.write_test {
        write_test(report, &client).await;
    }
}

/// The indices that would be written: the source's, or without a source those that are there.
async fn names(report: &mut Report, client: &Client, plan: &Plan<'_>) -> Vec<IndexName> {
    let of_source = plan.source.and_then(|source| source.indices.as_ref());
    if let Some(indices) = of_source {
        return indices.iter().map(|index| index.name.clone()).collect();
    }
    let named = plan
        .patterns
        .names()
        .filter_map(|name| IndexName::try_from(name).ok());
    let mut names: Vec<IndexName> = named.collect();
    match client.list_indices(plan.patterns).await {
        Ok(found) => names.extend(found.into_iter().map(|index| index.name)),
        Err(error) if names.is_empty() => report.warn(
            "target indices",
            error,
            "give --source, or name the indices with --indices, so that writing can be checked",
        ),
        Err(_) => {}
    }
    names.sort();
    names.dedup();
    names
}

/// What became of an action that could not have an effect.
enum Probe {
    Allowed,
    Missing,
    Refused(String),
}

async fn writing(report: &mut Report, client: &Client, names: &[IndexName]) -> Vec<IndexName> {
    const WHAT: &str = "target writing";
    let (mut existing, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let mut probed = probe(client, name, "delete").await;
        if matches!(probed, Probe::Allowed) {
            existing.push(name.clone());
            probed = probe(client, name, "index").await;
        }
        match probed {
            Probe::Allowed => {}
            Probe::Missing => missing.push(name.as_str()),
            Probe::Refused(reason) => {
                report.fail(
                    WHAT,
                    reason,
                    "`syncline check --privileges` prints the role with everything it needs",
                );
                return existing;
            }
        }
    }
    if !existing.is_empty() {
        let names = listed(existing.iter().map(IndexName::as_str));
        report.ok(
            WHAT,
            format_args!("{names} may be written (bulk: index, delete)"),
        );
    }
    if !missing.is_empty() {
        let names = listed(missing.into_iter());
        report.ok(
            WHAT,
            format_args!("{names} will be created like the source's before the first document: needs indices:admin/create"),
        );
    }
    existing
}

/// Sends one action whose condition cannot hold.
async fn probe(client: &Client, index: &IndexName, action: &str) -> Probe {
    let id = format!("syncline-check-{:016x}", fastrand::u64(..));
    let mut body = format!(
        "{{\"{action}\":{{\"_id\":\"{id}\",\"routing\":\"{id}\",\"if_seq_no\":{},\"if_primary_term\":1}}}}\n",
        i64::MAX
    );
    if action == "index" {
        body.push_str("{}\n");
    }
    let items = match client.bulk(index, Bytes::from(body), 1, None).await {
        Ok(items) => items,
        Err(error) => return Probe::Refused(error.to_string()),
    };
    let Some(item) = items.into_iter().next() else {
        return Probe::Allowed;
    };
    match (item.status, item.error) {
        (_, None) | (409, _) => Probe::Allowed,
        (404, Some(error)) if error.kind == "index_not_found_exception" => Probe::Missing,
        (status, Some(error)) => Probe::Refused(format!(
            "{:?} may not be written by a bulk's {action}: {} (status {status})",
            index.as_str(),
            error.reason
        )),
    }
}

/// A run asks for each index to be created and learns that way that it is there, so the privilege
/// is needed for those too.
async fn creating(report: &mut Report, client: &Client, names: &[IndexName]) {
    const WHAT: &str = "target creating";
    for name in names {
        let request = Request::put(format!("/{}", encode(name.as_str())))
            .json(r#"{"settings":{"index.number_of_shards":0}}"#);
        match client.send(request).await {
            Err(Error::Rejected { .. }) => {}
            Err(error) => return report.fail(WHAT, &error, remedy(&error)),
            Ok(_) => {
                return report.fail(
                    WHAT,
                    format_args!(
                        "an index {:?} without shards was created, which no cluster should do",
                        name.as_str()
                    ),
                    "delete it",
                );
            }
        }
    }
    if !names.is_empty() {
        report.ok(WHAT, "indices may be created (indices:admin/create)");
    }
}

/// A new field in a document changes the mapping, in OpenSearch by the user's own privilege; and where
/// an index comes from is written there.
async fn mapping(report: &mut Report, client: &Client, names: &[IndexName]) {
    const WHAT: &str = "target mapping";
    if names.is_empty() {
        return;
    }
    let field = r#"{"properties":{"syncline-check":{"type":"of no cluster"}}}"#;
    match may_put(client, names, "_mapping", field).await {
        Ok(()) => report.ok(WHAT, "new fields may be added (indices:admin/mapping/put)"),
        Err(error) => report.fail(WHAT, &error, remedy(&error)),
    }
}

/// A setting that changes at the source follows, where that is allowed.
async fn settings(report: &mut Report, client: &Client, names: &[IndexName]) {
    const WHAT: &str = "target settings";
    if names.is_empty() {
        return;
    }
    let setting = r#"{"index.syncline_check.of_no_cluster":1}"#;
    match may_put(client, names, "_settings", setting).await {
        Ok(()) => report.ok(
            WHAT,
            "settings may follow the source's (indices:admin/settings/update)",
        ),
        Err(error @ Error::Forbidden { .. }) => report.warn(
            WHAT,
            error,
            "grant it, or settings that change at the source do not follow, which is told as drift",
        ),
        Err(error) => report.fail(WHAT, &error, remedy(&error)),
    }
}

/// Asks of each index for what no cluster does: where it is refused as such, the user may ask for it.
async fn may_put(
    client: &Client,
    names: &[IndexName],
    what: &str,
    body: &'static str,
) -> Result<(), Error> {
    for name in names {
        let request = Request::put(format!("/{}/{what}", encode(name.as_str()))).json(body);
        match client.send(request).await {
            Ok(_) | Err(Error::Rejected { .. } | Error::IndexNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// An index is filled from one source only, and says from which.
async fn origin(
    report: &mut Report,
    client: &Client,
    names: &[IndexName],
    source: Option<&Source>,
) {
    const WHAT: &str = "target origin";
    let mut known = 0;
    for name in names {
        match client.lineage(name).await {
            Ok(None) | Err(Error::IndexNotFound { .. }) => {}
            Ok(Some(lineage)) => {
                known += 1;
                let Some(source) = source else { continue };
                let said = source_of(&source.client.server().cluster_uuid, name);
                if lineage.source != said {
                    return report.fail(
                        WHAT,
                        format_args!("{:?} is filled from {}, and this source is {said}", name.as_str(), lineage.source),
                        "give each source an index of its own at the target, or, if the source has moved there, delete \
                         `syncline` from the `_meta` of the index's mapping",
                    );
                }
            }
            Err(error) => return report.fail(WHAT, &error, remedy(&error)),
        }
    }
    if !names.is_empty() {
        let text = match known {
            0 => "none of the indices is filled from anywhere yet (indices:admin/get)".to_owned(),
            known => format!(
                "{known} of {} indices are filled already, from this source (indices:admin/get)",
                names.len()
            ),
        };
        report.ok(WHAT, text);
    }
}

/// Where an index that is there looks otherwise than the source's.
async fn definitions(
    report: &mut Report,
    source: &Client,
    target: &Client,
    existing: &[IndexName],
) {
    const WHAT: &str = "target definitions";
    let mut differ = 0;
    for name in existing {
        match plan::of(source, target, name, Choices::default()).await {
            Ok(plan) if plan.drift.is_empty() => {}
            Ok(plan) => {
                differ += 1;
                report.warn(
                    WHAT,
                    plan::lines(name, &plan).join("; "),
                    "a run adds what is missing and leaves the rest: change it there by hand, or write into another index",
                );
            }
            Err((_, error)) => return report.fail(WHAT, &error, remedy(&error)),
        }
    }
    if differ == 0 && !existing.is_empty() {
        report.ok(
            WHAT,
            "what is there looks like the source's, or is added to",
        );
    }
}

/// Reads as a comparison does.
async fn read_all(client: &Client, existing: &[IndexName]) -> Result<(), Error> {
    let stats = client
        .shard_stats(&existing.iter().collect::<Vec<_>>())
        .await?;
    for name in existing {
        client.definition(name).await?;
        client.refresh(name).await?;
        if let Some(shard) = stats.iter().find(|shard| shard.index == *name) {
            cluster::read_one(client, name, std::slice::from_ref(shard)).await?;
        }
    }
    cluster::look_up(client, existing.iter()).await
}

/// The largest request the nodes take, where that may be seen.
async fn request_limit(report: &mut Report, client: &Client) {
    const WHAT: &str = "target request limit";
    match least_limit(client).await {
        Ok(Some(bytes)) if bytes < ROOM_FOR_BULKS => report.warn(
            WHAT,
            format_args!("a request may have {bytes} bytes (http.max_content_length)"),
            "keep --batch-bytes below half of it, or raise it there",
        ),
        Ok(Some(bytes)) => report.ok(WHAT, format_args!("{} MB (http.max_content_length)", bytes >> 20)),
        Ok(None) => report.ok(WHAT, "the nodes do not tell theirs; 100 MB is usual, 10 MB on small Amazon instances"),
        Err(Error::Forbidden { action, .. }) => report.ok(
            WHAT,
            format_args!("not to be seen without {action}, which no run needs; 100 MB is usual, 10 MB on small Amazon instances"),
        ),
        Err(error) => report.warn(WHAT, error, ""),
    }
}

async fn least_limit(client: &Client) -> Result<Option<u64>, Error> {
    #[derive(Default, Deserialize)]
    struct Nodes {
        #[serde(default)]
        nodes: std::collections::HashMap<String, Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        http: Http,
    }
    #[derive(Deserialize)]
    struct Http {
        max_content_length_in_bytes: u64,
    }
    let path = "/_nodes/http?filter_path=nodes.*.http.max_content_length_in_bytes";
    let body = client.send(Request::get(path)).await?;
    // A service that stands before the nodes may answer with less.
    let nodes: Nodes = serde_json::from_slice(&body).unwrap_or_default();
    Ok(nodes
        .nodes
        .values()
        .map(|node| node.http.max_content_length_in_bytes)
        .min())
}

/// Creates, writes and deletes an index of our own.
async fn write_test(report: &mut Report, client: &Client) {
    const WHAT: &str = "target write test";
    let name = format!("syncline-check-{:08x}", fastrand::u32(..));
    let Ok(index) = IndexName::try_from(name.as_str()) else {
        return;
    };
    let path = format!("/{name}");
    if let Err(error) = client.send(Request::put(path)).await {
        return report.fail(
            WHAT,
            error,
            "the role has to cover indices named syncline-check-* for --write-test",
        );
    }
    let body = Bytes::from_static(b"{\"index\":{\"_id\":\"1\"}}\n{\"syncline\":\"check\"}\n");
    let written = client.bulk(&index, body, 1, None).await;
    let deleted = client.delete_index(&index).await;
    match written.map(|items| items.into_iter().find_map(|item| item.error)) {
        Ok(None) => report.ok(WHAT, format_args!("{name:?} was created and written")),
        Ok(Some(error)) => report.fail(
            WHAT,
            format_args!("{name:?} could not be written: {}", error.reason),
            "",
        ),
        Err(error) => report.fail(WHAT, &error, remedy(&error)),
    }
    match deleted {
        Ok(()) => report.ok(WHAT, format_args!("{name:?} was deleted")),
        Err(error) => report.fail(
            WHAT,
            format_args!("{name:?} is left behind: {error}"),
            format_args!("delete it; a run does not delete indices, only --write-test does"),
        ),
    }
}
