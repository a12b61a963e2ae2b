//! Reading changes: where each shard's history stands, and windows of it by `_seq_no`.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use model::{DocumentId, IndexName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{Client, Error, Request, encode, refusal::Refusal, request::index_lists};

/// Where the history of one shard stands, by its primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStats {
    /// The index.
    pub index: IndexName,
    /// What identifies the index; another one means another index of the same name.
    pub index_uuid: String,
    /// The shard's number.
    pub shard: u32,
    /// The id of the node that holds the primary.
    pub node: String,
    /// How often a primary was chosen. A round is void when it changes.
    pub primary_term: u64,
    /// What identifies the history; another one means that numbers were used again.
    pub history_uuid: String,
    /// The highest sequence number given to an operation; -1 before the first.
    pub max_seq_no: i64,
    /// The highest number up to which the primary has processed everything.
    pub local_checkpoint: i64,
    /// The highest number up to which every copy has everything. Nothing above it is certain.
    pub global_checkpoint: i64,
    /// How often the shard was refreshed since it is where it is.
    pub refreshes: u64,
    /// How many deletes it has carried out since it is where it is: a hint, no more.
    pub deletes: u64,
}

/// A part of a shard's history.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// The index.
    pub index: &'a IndexName,
    /// The shard's number.
    pub shard: u32,
    /// The id of the node whose copy is read; any copy without it.
    pub node: Option<&'a str>,
    /// Documents above this number …
    pub after: i64,
    /// … and not above this one.
    pub upto: i64,
    /// At most so many; the server refuses more than its `index.max_result_window`, 10,000.
    pub size: u32,
}

/// The documents of a window, lowest number first.
#[derive(Debug, Clone)]
pub struct Page {
    /// The documents.
    pub hits: Vec<Hit>,
    /// The size of the answer they are slices of.
    pub bytes: usize,
}

/// A document as a shard holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its `_id`.
    pub id: DocumentId,
    /// The routing it was written with, if any.
    pub routing: Option<Box<str>>,
    /// The number of the operation that wrote it; `u64::MAX` where it was not asked for.
    pub seq_no: u64,
    /// The source's own `_version`: 1 for a document that was created by that operation.
    pub version: u64,
    /// Its `_source`, a slice of the answer; empty where it was not asked for.
    pub source: Bytes,
}

impl Client {
    /// Where every shard of the given indices stands. A shard whose primary is away or still
    /// recovering at the moment is absent.
    ///
    /// # Errors
    /// When an index does not exist or statistics are refused (privilege `monitor`).
    pub async fn shard_stats(&self, indices: &[&IndexName]) -> Result<Vec<ShardStats>, Error> {
        const FIELDS: &str = "indices.*.uuid,indices.*.shards.*.routing.primary,\
            indices.*.shards.*.routing.state,indices.*.shards.*.routing.node,\
            indices.*.shards.*.seq_no,indices.*.shards.*.retention_leases.primary_term,\
            indices.*.shards.*.commit.user_data.history_uuid,indices.*.shards.*.refresh.total,\
            indices.*.shards.*.indexing.delete_total";
        let mut stats = Vec::new();
        for list in index_lists(indices.iter().map(|name| name.as_str())) {
            let path =
                format!("/{list}/_stats/docs,refresh,indexing?level=shards&filter_path={FIELDS}");
            let body = self.send(Request::get(path)).await?;
            parse_stats(&body, &mut stats)
                .map_err(|e| Error::malformed(format!("GET /{list}/_stats"), e))?;
        }
        Ok(stats)
    }

    /// Makes everything written before visible to searches.
    ///
    /// # Errors
    /// Also when only some shards were refreshed.
    pub async fn refresh(&self, index: &IndexName) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Refreshed {
            _shards: Shards,
        }
        let path = format!("/{}/_refresh?filter_path=_shards", encode(index.as_str()));
        let body = self.send(Request::post(path)).await?;
        let refreshed: Refreshed = serde_json::from_slice(&body)
            .map_err(|e| Error::malformed(format!("refresh of {index}"), e))?;
        refreshed._shards.complete(index, None)
    }

    /// Reads a window of one shard's history: every document whose latest visible operation lies in
    /// it. Only what is at or below the global checkpoint, and was refreshed since, is certain. A page
    /// that is full may end between two documents of one number, where they share numbers.
    ///
    /// # Errors
    /// [`Error::CopyGone`] when the node holds no copy any more; [`Error::Shards`] or another when
    /// the answer is not complete; [`Error::AnswerTooLarge`] when a smaller window should be asked
    /// for; [`Error::NoSource`] for a document without source.
    pub async fn read_window(&self, window: &Window<'_>) -> Result<Page, Error> {
        // The answer is taken whole: a filter_path would parse and write every document again.
        match self.search_window(window, r#""version":true"#, "").await? {
            Some(body) => parse_page(window, &body),
            None => Ok(Page::empty()),
        }
    }

    /// Of the documents with these ids, those of a window, of any routing.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn read_documents(&self, window: &Window<'_>, ids: &[&str]) -> Result<Page, Error> {
        let path = search_path(window.index, window.shard, window.node);
        let query = json!({
            "query": { "bool": { "filter": [
                { "range": { "_seq_no": { "gt": window.after, "lte": window.upto } } },
                { "ids": { "values": ids } },
            ] } },
            "sort": ["_seq_no"], "size": window.size, "track_total_hits": false, "version": true,
        });
        let request = Request::post(path).json(query.to_string());
        match self.send(request.answer_limit(answer_limit(window))).await {
            Ok(body) => parse_page(window, &body),
            Err(Error::Rejected { reason, .. }) if has_no_mapping(&reason) => {
                self.expect_nothing(window).await.map(|()| Page::empty())
            }
            Err(error) => Err(copy_gone(error, window.index, window.node)),
        }
    }

    /// Whether any shard of an index has a document with this id, under whichever routing, as far as
    /// searches see it.
    ///
    /// # Errors
    /// Also when not every shard has answered.
    pub async fn has_id(&self, index: &IndexName, id: &DocumentId) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Counted {
            count: u64,
            _shards: Shards,
        }
        let query = json!({ "query": { "ids": { "values": [id.as_str()] } } });
        let path = format!("/{}/_count", encode(index.as_str()));
        let body = self
            .send(Request::post(path).json(query.to_string()))
            .await?;
        let counted: Counted = serde_json::from_slice(&body)
            .map_err(|e| Error::malformed(format!("count of {index}"), e))?;
        counted._shards.complete(index, None)?;
        Ok(counted.count > 0)
    }

    /// The answer to a search for a window, with more members in its body and parameters in its
    /// path; none where the copy holds nothing and so has no mapping.
    pub(crate) async fn search_window(
        &self,
        window: &Window<'_>,
        members: &str,
        parameters: &str,
    ) -> Result<Option<Bytes>, Error> {
        let path = search_path(window.index, window.shard, window.node) + parameters;
        let query = format!(
            r#"{{"query":{{"range":{{"_seq_no":{{"gt":{},"lte":{}}}}}}},"sort":["_seq_no"],"size":{},"track_total_hits":false,{members}}}"#,
            window.after, window.upto, window.size,
        );
        let request = Request::post(path)
            .json(query)
            .answer_limit(answer_limit(window));
        match self.send(request).await {
            Ok(body) => Ok(Some(body)),
            Err(Error::Rejected { reason, .. }) if has_no_mapping(&reason) => {
                self.expect_nothing(window).await.map(|()| None)
            }
            Err(error) => Err(copy_gone(error, window.index, window.node)),
        }
    }

    /// An index without any mapping has not even `_seq_no` to sort by. That is fine while the copy
    /// holds nothing, as when all it has seen is the delete of a missing document; else it is only
    /// late, and an empty page would lose what it holds.
    async fn expect_nothing(&self, window: &Window<'_>) -> Result<(), Error> {
        let path = search_path(window.index, window.shard, window.node);
        let request = Request::post(path).json(r#"{"size":1,"_source":false}"#);
        let answer = self.send(request).await;
        let body = answer.map_err(|error| copy_gone(error, window.index, window.node))?;
        let what = || format!("search in shard {} of {}", window.shard, window.index);
        let whole: Unsorted =
            serde_json::from_slice(&body).map_err(|e| Error::malformed(what(), e))?;
        whole._shards.complete(window.index, Some(1))?;
        if whole.timed_out || !whole.hits.hits.is_empty() {
            return Err(Error::Shards {
                index: window.index.to_string(),
                failed: 1,
                total: 1,
                reason: "the copy does not know the mapping yet".to_owned(),
            });
        }
        Ok(())
    }
}

impl Page {
    pub(crate) fn empty() -> Page {
        Page {
            hits: Vec::new(),
            bytes: 0,
        }
    }
}

/// How large a page may become. Documents may suddenly be much larger than those before, and a page
/// is held in memory; a single document is taken whatever its size, and servers take none above
/// 100 MB. So is a single number, which only a shrunk index gives to several documents.
fn answer_limit(window: &Window<'_>) -> usize {
    let is_one = window.size == 1 || window.upto.saturating_sub(window.after) == 1;
    if is_one { 256 << 20 } else { 24 << 20 }
}

fn has_no_mapping(reason: &str) -> bool {
    reason.contains("No mapping found for [_seq_no]")
}

/// A search in one shard, by the copy on a node if one is named.
pub(crate) fn search_path(index: &IndexName, shard: u32, node: Option<&str>) -> String {
    let pinned = node.map_or(String::new(), |node| {
        format!("%7C_only_nodes%3A{}", encode(node))
    });
    format!(
        "/{}/_search?preference=_shards%3A{shard}{pinned}&request_cache=false&allow_partial_search_results=false",
        encode(index.as_str()),
    )
}

/// A pinned search whose node has left fails in one of several ways.
pub(crate) fn copy_gone(error: Error, index: &IndexName, node: Option<&str>) -> Error {
    let Some(node) = node else {
        return error;
    };
    let gone = match &error {
        Error::Rejected { reason, .. } => names_no_node(reason),
        Error::Unavailable { reason, .. } => {
            reason.contains("missing shards") || reason.contains("all shards failed")
        }
        _ => false,
    };
    match gone {
        true => Error::CopyGone {
            index: index.to_string(),
            node: node.to_owned(),
        },
        false => error,
    }
}

/// Whether a reason says that `_only_nodes` left no copy.
pub(crate) fn names_no_node(reason: &str) -> bool {
    reason.contains("no data nodes with criteria")
}

#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    indices: BTreeMap<String, IndexStats>,
}

#[derive(Deserialize)]
struct IndexStats {
    uuid: String,
    #[serde(default)]
    shards: BTreeMap<u32, Vec<CopyStats>>,
}

/// One copy of a shard. A copy that is being built lacks most of it.
#[derive(Deserialize)]
struct CopyStats {
    routing: Routing,
    seq_no: Option<SeqNo>,
    retention_leases: Option<Leases>,
    commit: Option<Commit>,
    #[serde(default)]
    refresh: Refresh,
    #[serde(default)]
    indexing: Indexing,
}

#[derive(Deserialize)]
struct Routing {
    primary: bool,
    state: RoutingState,
    node: Option<String>,
}

/// While a copy is recovering, its numbers are those of the past.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum RoutingState {
    Started,
    Relocating,
    #[serde(other)]
    Other,
}

impl Routing {
    fn is_primary_in_office(&self) -> bool {
        self.primary && self.state != RoutingState::Other
    }
}

#[derive(Deserialize)]
struct SeqNo {
    max_seq_no: i64,
    local_checkpoint: i64,
    global_checkpoint: i64,
}

#[derive(Deserialize)]
struct Leases {
    primary_term: u64,
}

#[derive(Deserialize)]
struct Commit {
    user_data: UserData,
}

#[derive(Deserialize)]
struct UserData {
    history_uuid: String,
}

#[derive(Default, Deserialize)]
struct Refresh {
    #[serde(default)]
    total: u64,
}

#[derive(Default, Deserialize)]
struct Indexing {
    #[serde(default)]
    delete_total: u64,
}

fn parse_stats(body: &[u8], into: &mut Vec<ShardStats>) -> Result<(), String> {
    let stats: Stats = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    for (name, index) in stats.indices {
        let name = IndexName::try_from(name).map_err(|e| e.to_string())?;
        let primaries = index.shards.into_iter().flat_map(|(shard, copies)| {
            copies
                .into_iter()
                .filter(|copy| copy.routing.is_primary_in_office())
                .map(move |copy| (shard, copy))
        });
        for (shard, copy) in primaries {
            let (Some(node), Some(seq_no), Some(leases), Some(commit)) = (
                copy.routing.node,
                copy.seq_no,
                copy.retention_leases,
                copy.commit,
            ) else {
                continue;
            };
            into.push(ShardStats {
                index: name.clone(),
                index_uuid: index.uuid.clone(),
                shard,
                node,
                primary_term: leases.primary_term,
                history_uuid: commit.user_data.history_uuid,
                max_seq_no: seq_no.max_seq_no,
                local_checkpoint: seq_no.local_checkpoint,
                global_checkpoint: seq_no.global_checkpoint,
                refreshes: copy.refresh.total,
                deletes: copy.indexing.delete_total,
            });
        }
    }
    Ok(())
}

/// How many shards took part in an answer.
#[derive(Deserialize)]
pub(crate) struct Shards {
    total: u64,
    successful: u64,
    failed: u64,
    #[serde(default)]
    failures: Vec<serde_json::Value>,
}

impl Shards {
    /// Fails unless none failed and, where a number is expected, exactly so many answered.
    pub(crate) fn complete(&self, index: &IndexName, expected: Option<u64>) -> Result<(), Error> {
        let missing = expected.map_or(0, |n| n.saturating_sub(self.successful));
        let failed = self.failed.max(missing);
        if failed == 0 {
            return Ok(());
        }
        let reason = match self.failures.first() {
            Some(failure) => Refusal::from_error(&failure["reason"]).reason,
            None => "no copy of it answered".to_owned(),
        };
        Err(Error::Shards {
            index: index.to_string(),
            failed,
            total: self.total.max(expected.unwrap_or(0)),
            reason,
        })
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    timed_out: bool,
    _shards: Shards,
    #[serde(borrow)]
    hits: Hits<'a>,
}

/// How many documents a search has found.
#[derive(Deserialize)]
pub(crate) struct Total {
    value: u64,
    relation: Option<Box<str>>,
}

impl Total {
    /// Fails where the server has stopped counting.
    pub(crate) fn exact(&self, window: &Window<'_>) -> Result<u64, Error> {
        match self.relation.as_deref() {
            None | Some("eq") => Ok(self.value),
            Some(other) => Err(malformed(window, format!("a total that is {other:?}"))),
        }
    }
}

#[derive(Deserialize)]
struct Unsorted {
    timed_out: bool,
    _shards: Shards,
    hits: UnsortedHits,
}

#[derive(Deserialize)]
struct UnsortedHits {
    hits: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Hits<'a> {
    #[serde(borrow)]
    hits: Vec<RawHit<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct RawHit<'a> {
    #[serde(borrow)]
    _id: Cow<'a, str>,
    _routing: Option<Box<str>>,
    _version: u64,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
    sort: [u64; 1],
}

pub(crate) fn parse_page(window: &Window<'_>, body: &Bytes) -> Result<Page, Error> {
    let mut hits = Vec::new();
    for raw in parse_hits(window, body)? {
        let seq_no = raw.sort[0];
        let document = raw.document(window, body)?;
        hits.push(Hit { seq_no, ..document });
    }
    Ok(Page {
        hits,
        bytes: body.len(),
    })
}

/// A page whose documents were not asked for.
pub(crate) fn parse_headers(window: &Window<'_>, body: &Bytes) -> Result<Page, Error> {
    let hits = parse_hits(window, body)?.into_iter();
    let hits: Result<_, _> = hits.map(|raw| raw.hit(window, Bytes::new())).collect();
    Ok(Page {
        hits: hits?,
        bytes: body.len(),
    })
}

fn parse_hits<'a>(window: &Window<'_>, body: &'a Bytes) -> Result<Vec<RawHit<'a>>, Error> {
    // Checked once as a whole, which is quicker than string by string.
    let text = std::str::from_utf8(body).map_err(|e| malformed(window, e))?;
    let answer: Answer<'_> = serde_json::from_str(text).map_err(|e| malformed(window, e))?;
    expect_complete(window, &answer._shards, answer.timed_out)?;
    Ok(answer.hits.hits)
}

/// Fails unless the one shard has answered completely.
pub(crate) fn expect_complete(
    window: &Window<'_>,
    shards: &Shards,
    timed_out: bool,
) -> Result<(), Error> {
    shards.complete(window.index, Some(1))?;
    match timed_out {
        false => Ok(()),
        true => Err(Error::Shards {
            index: window.index.to_string(),
            failed: 1,
            total: 1,
            reason: "the search timed out on the server".to_owned(),
        }),
    }
}

pub(crate) fn malformed(window: &Window<'_>, reason: impl std::fmt::Display) -> Error {
    let what = format!("search in shard {} of {}", window.shard, window.index);
    Error::malformed(what, reason.to_string())
}

impl RawHit<'_> {
    /// With its content, which is in this answer, and without its number.
    pub(crate) fn document(self, window: &Window<'_>, body: &Bytes) -> Result<Hit, Error> {
        let Some(source) = self._source else {
            return Err(Error::NoSource {
                index: window.index.to_string(),
                id: self._id.into_owned(),
            });
        };
        let source = body.slice_ref(source.get().as_bytes());
        let hit = self.hit(window, source)?;
        Ok(Hit {
            seq_no: u64::MAX,
            ..hit
        })
    }

    fn hit(self, window: &Window<'_>, source: Bytes) -> Result<Hit, Error> {
        Ok(Hit {
            id: DocumentId::try_from(&*self._id).map_err(|e| malformed(window, e))?,
            routing: self._routing,
            seq_no: self.sort[0],
            version: self._version,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fmt::Write as _, time::Instant};

    fn page(body: &str) -> Result<Page, Error> {
        let index = IndexName::try_from("assets").unwrap();
        let window = Window {
            index: &index,
            shard: 0,
            node: None,
            after: -1,
            upto: 9,
            size: 10,
        };
        parse_page(&window, &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn answer(shards: &str, timed_out: bool, hits: &str) -> String {
        format!(
            r#"{{"took":1,"timed_out":{timed_out},"_shards":{shards},"hits":{{"max_score":null,"hits":[{hits}]}}}}"#
        )
    }

    const ALL: &str = r#"{"total":1,"successful":1,"skipped":0,"failed":0}"#;

    #[test]
    fn a_document_is_a_slice_of_the_answer_with_every_byte_as_it_was() {
        let source = "{\n \"a\" :  1.50, \"u\":\"\\u00e9é\" }";
        let hit = format!(
            r#"{{"_index":"assets","_type":"_doc","_id":"a \"b\"/é","_version":3,"_score":null,"_routing":"r\u00e9","_ignored":["x"],"_source":{source},"sort":[7]}}"#
        );
        let page = page(&answer(ALL, false, &hit)).unwrap();
        let hit = &page.hits[0];
        assert_eq!(hit.id.as_str(), "a \"b\"/é");
        assert_eq!(hit.routing.as_deref(), Some("ré"));
        assert_eq!((hit.seq_no, hit.version), (7, 3));
        assert_eq!(hit.source, source);
    }

    #[test]
    fn an_answer_that_misses_the_shard_is_an_error_and_never_an_empty_page() {
        for (shards, timed_out) in [
            (
                r#"{"total":0,"successful":0,"skipped":0,"failed":0}"#,
                false,
            ),
            (
                r#"{"total":1,"successful":0,"failed":1,"failures":[{"shard":0,"reason":{"type":"x","reason":"boom"}}]}"#,
                false,
            ),
            (ALL, true),
        ] {
            let error = page(&answer(shards, timed_out, "")).unwrap_err();
            assert!(matches!(error, Error::Shards { .. }), "{error}");
        }
        assert!(page(&answer(ALL, false, "")).unwrap().hits.is_empty());
    }

    #[test]
    fn a_document_without_source_is_named() {
        let hit = r#"{"_id":"x1","_version":1,"sort":[0]}"#;
        let error = page(&answer(ALL, false, hit)).unwrap_err().to_string();
        assert!(error.contains("x1") && error.contains("_source"), "{error}");
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        let whole = answer(
            ALL,
            false,
            r#"{"_id":"a","_version":1,"_source":{},"sort":[0]}"#,
        );
        for end in 0..whole.len() {
            assert!(page(&whole[..end]).is_err());
        }
    }

    #[test]
    fn shards_without_a_started_primary_are_absent() {
        let body = br#"{"indices":{"a.b":{"uuid":"U","shards":{
            "0":[{"routing":{"primary":false,"state":"STARTED","node":"r"}},
                 {"routing":{"primary":true,"state":"STARTED","node":"n"},"refresh":{"total":5},"indexing":{"delete_total":4},
                  "seq_no":{"max_seq_no":9,"local_checkpoint":8,"global_checkpoint":7},
                  "retention_leases":{"primary_term":2},"commit":{"user_data":{"history_uuid":"H"}}}],
            "1":[{"routing":{"primary":true,"state":"STARTED","node":"n"}}],
            "2":[{"routing":{"primary":true,"state":"INITIALIZING","node":"n"},
                  "seq_no":{"max_seq_no":3,"local_checkpoint":3,"global_checkpoint":3},
                  "retention_leases":{"primary_term":2},"commit":{"user_data":{"history_uuid":"H"}}}]}}}}"#;
        let mut stats = Vec::new();
        parse_stats(body, &mut stats).unwrap();
        assert_eq!(
            stats,
            [ShardStats {
                index: IndexName::try_from("a.b").unwrap(),
                index_uuid: "U".into(),
                shard: 0,
                node: "n".into(),
                primary_term: 2,
                history_uuid: "H".into(),
                max_seq_no: 9,
                local_checkpoint: 8,
                global_checkpoint: 7,
                refreshes: 5,
                deletes: 4,
            }]
        );
        parse_stats(b"{}", &mut stats).unwrap();
    }

    #[test]
    #[ignore = "a measurement: cargo test -p search --release -- --ignored --nocapture"]
    fn how_long_reading_a_page_takes() {
        for (bytes, count) in [(300, 5_000), (1_000, 5_000), (100_000, 100)] {
            let mut hits = String::new();
            for n in 0..count {
                let comma = if n == 0 { "" } else { "," };
                let field = r#""carrier":"UA","#;
                let mut source = field.repeat(bytes / field.len());
                source.pop();
                write!(
                    hits,
                    r#"{comma}{{"_index":"flights","_id":"{n:020}","_version":1,"_score":null,"_source":{{{source}}},"sort":[{n}]}}"#
                )
                .unwrap();
            }
            let body = Bytes::from(answer(ALL, false, &hits));
            let index = IndexName::try_from("flights").unwrap();
            let window = Window {
                index: &index,
                shard: 0,
                node: None,
                after: -1,
                upto: 9,
                size: 10,
            };
            let (rounds, started) = (20, Instant::now());
            for _ in 0..rounds {
                assert_eq!(parse_page(&window, &body).unwrap().hits.len(), count);
            }
            let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(rounds) / count as f64;
            println!(
                "{bytes} bytes: {each:.3} µs a document, {:.0} MB/s",
                bytes as f64 / each
            );
        }
    }
}
