//! The cluster as far as searches go: what is sent has a key's filter in it, what comes back is whole.

use std::time::Duration;

use bytes::Bytes;
use search::{Client, Error, Product, Request, encode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    compile::Guarded,
    positions::Waiting,
    problem::{Kind, Problem},
};

/// The cluster stops by itself a little before we stop waiting.
const GRACE: Duration = Duration::from_millis(500);

/// The part of the time for a search that it may wait until it is sent.
const QUEUE_SHARE: u32 = 5;

/// Sends searches, so many at once.
#[derive(Debug)]
pub(crate) struct Backend {
    client: Client,
    permits: Semaphore,
    timeout: Duration,
    max_answer: usize,
    keep_alive: String,
    waiting: Waiting,
}

#[derive(Deserialize)]
struct Opened {
    #[serde(alias = "pit_id")]
    id: String,
}

impl Backend {
    pub(crate) fn new(
        client: Client,
        concurrency: usize,
        timeout: Duration,
        max_answer: usize,
        snapshot_time: Duration,
    ) -> Backend {
        Backend {
            client,
            permits: Semaphore::new(concurrency),
            timeout,
            max_answer,
            keep_alive: format!("{}ms", snapshot_time.as_millis()),
            waiting: Waiting::default(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Searches an index.
    pub(crate) async fn search(&self, index: &str, search: &Guarded) -> Result<Bytes, Problem> {
        let path = format!(
            "/{}/_search?allow_partial_search_results=false",
            encode(index)
        );
        let request = Request::post(path).json(search.to_json(self.timeout.as_millis()));
        self.send(request).await.map_err(problem)
    }

    /// Searches a snapshot.
    pub(crate) async fn search_snapshot(
        &self,
        id: &str,
        search: Guarded,
    ) -> Result<Bytes, Problem> {
        let body = search
            .in_snapshot(id, &self.keep_alive)
            .to_json(self.timeout.as_millis());
        let path = "/_search?allow_partial_search_results=false";
        self.send(Request::post(path).json(body))
            .await
            .map_err(|error| match error {
                Failure::Search(Error::Rejected { status: 404, .. }) => {
                    let detail = "the snapshot it reads from is over; begin without a cursor";
                    Problem::of(Kind::BadCursor, "cursor", detail)
                }
                other => problem(other),
            })
    }

    /// Several searches in one request. The answer has one part for each, in their order.
    pub(crate) async fn search_all(&self, searches: &[(&str, &Guarded)]) -> Result<Bytes, Problem> {
        let mut body = String::new();
        for (index, search) in searches {
            let header = json!({ "index": index, "allow_partial_search_results": false });
            body.push_str(&format!(
                "{header}\n{}\n",
                search.to_json(self.timeout.as_millis())
            ));
        }
        self.send(Request::post("/_msearch").ndjson(body))
            .await
            .map_err(problem)
    }

    /// Holds on to an index as it is now. Its name is given back with every page.
    pub(crate) async fn open_snapshot(&self, index: &str) -> Result<String, Problem> {
        let refused = || {
            let detail = "the search cluster has no snapshots to read lists from (Elasticsearch has them since 7.11, OpenSearch since 2.4); leave it out";
            Problem::of(Kind::BadParameter, "snapshot", detail)
        };
        let server = self.client.server();
        let (has, path) = match server.product {
            Product::Elasticsearch => (server.version.at_least(7, 11), "_pit"),
            Product::OpenSearch => (server.version.at_least(2, 4), "_search/point_in_time"),
        };
        if !has {
            return Err(refused());
        }
        let path = format!("/{}/{path}?keep_alive={}", encode(index), self.keep_alive);
        let answer = self.send(Request::post(path)).await.map_err(problem)?;
        let opened: Result<Opened, _> = serde_json::from_slice(&answer);
        opened.map(|opened| opened.id).map_err(|error| {
            tracing::error!(%error, "the search cluster opened no snapshot");
            Problem::new(Kind::Unavailable, "the search cluster opened no snapshot")
        })
    }

    /// Lets go of a snapshot. Where that does not work it ends by itself, a little later.
    pub(crate) async fn close_snapshot(&self, id: &str) {
        let request = match self.client.server().product {
            Product::Elasticsearch => {
                Request::delete("/_pit").json(json!({ "id": id }).to_string())
            }
            Product::OpenSearch => Request::delete("/_search/point_in_time")
                .json(json!({ "pit_id": [id] }).to_string()),
        };
        if let Err(error) = self.client.send(request.timeout(Some(self.timeout))).await {
            tracing::debug!(%error, "a snapshot was not closed and ends by itself");
        }
    }

    async fn send(&self, request: Request) -> Result<Bytes, Failure> {
        // A burst waits for a moment; who comes too much is told so, and the cluster is spared.
        let permit = tokio::time::timeout(self.timeout / QUEUE_SHARE, self.permits.acquire());
        let Ok(Ok(_permit)) = permit.await else {
            return Err(Failure::Full);
        };
        let request = request
            .timeout(Some(self.timeout + GRACE))
            .answer_limit(self.max_answer);
        Ok(self.client.send(request).await?)
    }
}

#[derive(Debug)]
enum Failure {
    Full,
    Search(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Search(error)
    }
}

/// What a failure is to a caller; its reason is for the log.
fn problem(failure: Failure) -> Problem {
    let error = match failure {
        Failure::Full => {
            let detail = "too many searches are under way; come back in a moment";
            return Problem::new(Kind::Busy, detail).retry_after(1);
        }
        Failure::Search(error) => error,
    };
    match &error {
        Error::Timeout { .. } => {
            tracing::warn!(%error, "the search cluster did not answer in time");
            Problem::new(Kind::Timeout, "the search cluster did not answer in time")
        }
        Error::Busy { .. } => {
            tracing::warn!(%error, "the search cluster is busy");
            Problem::new(Kind::Busy, "the search cluster is busy").retry_after(1)
        }
        Error::AnswerTooLarge { .. } => {
            let detail = "the answer is too large; ask for fewer documents or fewer fields";
            Problem::new(Kind::TooCostly, detail)
        }
        Error::IndexNotFound { .. } | Error::IndexClosed { .. } => {
            tracing::info!(%error, "an index went away between two looks");
            let detail = "the index is being replaced; try again";
            Problem::new(Kind::Unavailable, detail).retry_after(1)
        }
        Error::Rejected { .. } => {
            tracing::warn!(%error, "the search cluster refuses a search");
            Problem::new(
                Kind::BadParameter,
                "the search cluster cannot carry out this search",
            )
        }
        _ => {
            tracing::error!(%error, "the search cluster cannot be used");
            Problem::new(Kind::Unavailable, "the search cluster cannot answer now").retry_after(1)
        }
    }
}
