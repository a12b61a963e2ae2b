//! Looking documents up by id.

use std::borrow::Cow;

use bytes::Bytes;
use model::{DocumentId, IndexName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Client, Error, Request,
    capture::names_no_node,
    encode,
    refusal::{Refusal, forbidden_item},
};

/// How to look documents up.
#[derive(Debug, Clone, Copy, Default)]
pub struct MgetOptions<'a> {
    /// Return the documents too.
    pub source: bool,
    /// Return the routing too, which servers leave out where the document is not asked for.
    pub routing: bool,
    /// The id of the node whose copies answer; any copy without it.
    pub node: Option<&'a str>,
}

/// What a look-up found; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether the document is there.
    pub found: bool,
    /// Its version.
    pub version: Option<u64>,
    /// The number of the operation that wrote it.
    pub seq_no: Option<u64>,
    /// How often its shard had had a new primary then.
    pub primary_term: Option<u64>,
    /// The routing it was written with; only certain where it or the document was asked for.
    pub routing: Option<String>,
    /// Its `_source`, a slice of the answer, when asked for.
    pub source: Option<Bytes>,
}

#[derive(Serialize)]
struct Wanted<'a> {
    docs: Vec<WantedDocument<'a>>,
}

#[derive(Serialize)]
struct WantedDocument<'a> {
    _id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    docs: Vec<RawFound<'a>>,
}

#[derive(Deserialize)]
struct RawFound<'a> {
    #[serde(borrow)]
    _id: Cow<'a, str>,
    #[serde(default)]
    found: bool,
    _version: Option<u64>,
    _seq_no: Option<u64>,
    _primary_term: Option<u64>,
    _routing: Option<String>,
    #[serde(borrow)]
    _source: Option<&'a RawValue>,
    error: Option<serde_json::Value>,
}

impl Client {
    /// Looks documents up, each with the routing it was written with: without it a routed document
    /// seems not to be there. Sees what was written before the request, refreshed or not. The
    /// outcomes are in the order of the ids.
    ///
    /// # Errors
    /// Also when a single look-up fails: *not found* must mean that a copy looked.
    pub async fn mget(
        &self,
        index: &IndexName,
        documents: &[(&DocumentId, Option<&str>)],
        options: MgetOptions<'_>,
    ) -> Result<Vec<Found>, Error> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let pinned = options.node.map_or(String::new(), |node| {
            format!("&preference=_only_nodes%3A{}", encode(node))
        });
        let routing = match options.routing {
            true => "&stored_fields=_routing",
            false => "",
        };
        let path = format!(
            "/{}/_mget?_source={}{routing}{pinned}",
            encode(index.as_str()),
            options.source
        );
        let docs = documents.iter().map(|(id, routing)| WantedDocument {
            _id: id.as_str(),
            routing: *routing,
        });
        let wanted = Wanted {
            docs: docs.collect(),
        };
        let malformed = |e: String| Error::malformed(format!("mget in {index}"), e);
        let query = serde_json::to_vec(&wanted).map_err(|e| malformed(e.to_string()))?;
        let body = self.send(Request::post(path).json(query)).await?;
        let answer: Answer<'_> =
            serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))?;
        if answer.docs.len() != documents.len() {
            let (got, asked) = (answer.docs.len(), documents.len());
            return Err(malformed(format!("{got} outcomes for {asked} ids")));
        }
        let outcomes = answer.docs.into_iter();
        outcomes
            .map(|raw| raw.outcome(index, options.node, &body))
            .collect()
    }

    /// The shard that a routing, or the id of a document without one, leads to.
    ///
    /// # Errors
    /// When the index is not there, or the privilege (`indices:admin/shards/search_shards`) is missing.
    pub async fn shard_of(&self, index: &IndexName, routing: &str) -> Result<u32, Error> {
        #[derive(Deserialize)]
        struct Shards {
            shards: Vec<Vec<Shard>>,
        }
        #[derive(Deserialize)]
        struct Shard {
            shard: u32,
        }
        let (name, routing) = (encode(index.as_str()), encode(routing));
        let path = format!("/{name}/_search_shards?routing={routing}");
        let body = self.send(Request::get(path)).await?;
        let malformed = |e: String| Error::malformed(format!("the shards of {index}"), e);
        let answer: Shards = serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))?;
        let first = answer.shards.first().and_then(|copies| copies.first());
        first
            .map(|copy| copy.shard)
            .ok_or_else(|| malformed("it names none".to_owned()))
    }
}

impl RawFound<'_> {
    fn outcome(self, index: &IndexName, node: Option<&str>, body: &Bytes) -> Result<Found, Error> {
        if let Some(error) = &self.error {
            return Err(failure(&self._id, index, node, Refusal::from_error(error)));
        }
        Ok(Found {
            found: self.found,
            version: self._version,
            seq_no: self._seq_no,
            primary_term: self._primary_term,
            routing: self._routing,
            source: self._source.map(|raw| body.slice_ref(raw.get().as_bytes())),
        })
    }
}

fn failure(id: &str, index: &IndexName, node: Option<&str>, refusal: Refusal) -> Error {
    let index = index.to_string();
    match node {
        Some(node) if names_no_node(&refusal.reason) => Error::CopyGone {
            index,
            node: node.to_owned(),
        },
        _ if refusal.kind == "index_not_found_exception" => Error::IndexNotFound { index },
        _ if refusal.kind == "security_exception" => {
            forbidden_item(format!("POST /{index}/_mget"), &refusal.reason)
        }
        // No copy, or one that is being moved: it comes back.
        _ => Error::Shards {
            index,
            failed: 1,
            total: 1,
            reason: format!("look-up of {id:?}: {}: {}", refusal.kind, refusal.reason),
        },
    }
}
