//! Reading a shard in the order in which it is stored.
//!
//! A server that is asked for documents that lie next to each other decompresses each block of them
//! once; in any other order, that of their numbers too, once for each document. That is most of what
//! reading costs it. A scroll keeps its place in that order, and sees the shard as it was at its first
//! page.
//!
//! A server moves a scroll's place when it answers: what it answered and nobody received is gone.
//! So no page is asked for twice, and the documents are counted: a scroll that ends with fewer than it
//! had at its first page is an error.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use model::IndexName;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Client, Error, Page, Request, Window,
    capture::{
        RawHit, Shards, Total, copy_gone, expect_complete, malformed, parse_page, search_path,
    },
    retry,
};

/// How long a server keeps a scroll that nobody asks for its next page.
const KEEP: &str = "1m";
/// How large a page may become, in bytes. Unlike a window's, its size in documents is chosen once.
const ANSWER_LIMIT: usize = 8 << 20;
/// How long clearing may take: it ends by itself otherwise.
const CLEARING: Duration = Duration::from_secs(5);

/// A scroll that is open on a server, to be cleared whatever happens.
#[derive(Debug)]
pub struct Scroll {
    client: Client,
    index: IndexName,
    shard: u32,
    id: String,
    /// How many documents were there at the first page.
    total: u64,
    /// How many of them were given.
    given: u64,
}

impl Client {
    /// A few of the documents of a window in the order in which they are stored: what its size says.
    /// None where the window has none or the copy does not know it.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn sample(&self, window: &Window<'_>) -> Result<Page, Error> {
        let path = search_path(window.index, window.shard, window.node);
        let query = json!({
            "query": range(window), "sort": ["_doc"], "size": window.size,
            "track_total_hits": false, "version": true,
        });
        let request = Request::post(path).json(query.to_string());
        let answer = self.send(request.answer_limit(ANSWER_LIMIT)).await;
        let body = answer.map_err(|error| copy_gone(error, window.index, window.node))?;
        parse_page(window, &body)
    }

    /// Opens a scroll over a window in pages of its size, and reads the first one. The order is that in
    /// which the shard stores its documents, and they come without their numbers.
    ///
    /// # Errors
    /// As [`Client::read_window`]; [`Error::NoScroll`] where the server has too many open.
    pub async fn open_scroll(&self, window: &Window<'_>) -> Result<(Scroll, Page), Error> {
        let path = search_path(window.index, window.shard, window.node) + "&scroll=" + KEEP;
        let query = json!({
            "query": range(window), "sort": ["_doc"], "size": window.size, "version": true,
        });
        let request = Request::post(path)
            .json(query.to_string())
            .answer_limit(ANSWER_LIMIT)
            .once();
        let answer = self.send(request).await;
        let body = answer.map_err(|error| refused(error, window))?;
        let mut scroll = Scroll {
            client: self.clone(),
            index: window.index.clone(),
            shard: window.shard,
            id: id(window, &body)?,
            total: 0,
            given: 0,
        };
        match scroll.take(&body) {
            Ok((page, total)) => {
                scroll.total = total;
                Ok((scroll, page))
            }
            Err(error) => {
                scroll.clear().await;
                Err(error)
            }
        }
    }
}

impl Scroll {
    /// The next page; none when every document was given.
    ///
    /// # Errors
    /// Any ends the scroll: [`Error::ScrollGone`] for one that may pass by itself, for what was read
    /// has to be read again.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        if self.given >= self.total {
            return Ok(None);
        }
        let query = json!({ "scroll": KEEP, "scroll_id": self.id });
        let request = Request::post("/_search/scroll")
            .json(query.to_string())
            .answer_limit(ANSWER_LIMIT)
            .once();
        let taken = match self.client.send(request).await {
            Ok(body) => self.take(&body),
            Err(error) => Err(error),
        };
        let (page, _) = taken.map_err(|error| self.gone(error))?;
        match page.hits.is_empty() {
            false => Ok(Some(page)),
            true => {
                let (given, total) = (self.given, self.total);
                Err(self.lost(format!("it ended with {given} of {total} documents")))
            }
        }
    }

    /// Lets go of what the server holds for it.
    pub async fn clear(self) {
        let query = json!({ "scroll_id": [self.id] });
        let request = Request::delete("/_search/scroll")
            .json(query.to_string())
            .timeout(Some(CLEARING));
        match self.client.send(request).await {
            Ok(_) | Err(Error::Rejected { status: 404, .. }) => {}
            Err(error) => tracing::debug!(
                index = %self.index, shard = self.shard, %error,
                "a scroll was not cleared and ends by itself in {KEEP}"
            ),
        }
    }

    /// The documents of an answer, and how many there are in all.
    fn take(&mut self, body: &Bytes) -> Result<(Page, u64), Error> {
        let window = Window {
            index: &self.index,
            shard: self.shard,
            node: None,
            after: -1,
            upto: i64::MAX,
            size: 0,
        };
        let (page, total, id) = parse(&window, body)?;
        self.id = id;
        self.given += page.hits.len() as u64;
        Ok((page, total))
    }

    /// What a failure in the middle means.
    fn gone(&self, error: Error) -> Error {
        let is_missing = matches!(&error, Error::Rejected { status: 404, .. });
        match is_missing || retry::classify(&error) == retry::Decision::Retry {
            true => self.lost(error.to_string()),
            false => error,
        }
    }

    fn lost(&self, reason: String) -> Error {
        Error::ScrollGone {
            index: self.index.to_string(),
            shard: self.shard,
            reason,
        }
    }
}

fn range(window: &Window<'_>) -> serde_json::Value {
    json!({ "range": { "_seq_no": { "gt": window.after, "lte": window.upto } } })
}

/// Why no scroll was opened.
fn refused(error: Error, window: &Window<'_>) -> Error {
    match &error {
        Error::Busy { reason, .. } | Error::Unavailable { reason, .. }
            if reason.contains("too many scroll contexts") =>
        {
            Error::NoScroll {
                index: window.index.to_string(),
                reason: reason.clone(),
            }
        }
        _ => copy_gone(error, window.index, window.node),
    }
}

/// The id alone, so that a scroll whose first page cannot be used is cleared too.
fn id(window: &Window<'_>, body: &Bytes) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Opened<'a> {
        #[serde(borrow)]
        _scroll_id: Cow<'a, str>,
    }
    let opened: Opened<'_> = serde_json::from_slice(body).map_err(|e| malformed(window, e))?;
    Ok(opened._scroll_id.into_owned())
}

/// The documents of an answer, how many there are in all, and how to ask for the next ones.
fn parse(window: &Window<'_>, body: &Bytes) -> Result<(Page, u64, String), Error> {
    // Checked once as a whole, which is quicker than string by string.
    let text = std::str::from_utf8(body).map_err(|e| malformed(window, e))?;
    let answer: Answer<'_> = serde_json::from_str(text).map_err(|e| malformed(window, e))?;
    // `terminated_early` says nothing here: so servers end every page but the first.
    expect_complete(window, &answer._shards, answer.timed_out)?;
    let total = answer.hits.total.exact(window)?;
    let hits = answer.hits.hits.into_iter();
    let hits: Result<Vec<_>, _> = hits.map(|raw| raw.document(window, body)).collect();
    let page = Page {
        hits: hits?,
        bytes: body.len(),
    };
    Ok((page, total, answer._scroll_id.into_owned()))
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    _scroll_id: Cow<'a, str>,
    timed_out: bool,
    _shards: Shards,
    #[serde(borrow)]
    hits: Hits<'a>,
}

#[derive(Deserialize)]
struct Hits<'a> {
    total: Total,
    #[serde(borrow)]
    hits: Vec<RawHit<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"{"total":1,"successful":1,"skipped":0,"failed":0}"#;
    const HIT: &str = r#"{"_index":"a","_id":"x","_version":3,"_score":null,"_routing":"r","_source":{"a": 1},"sort":[0]}"#;

    fn answer(shards: &str, timed_out: bool, relation: &str, hit: &str) -> String {
        format!(
            r#"{{"_scroll_id":"abc==","took":1,"timed_out":{timed_out},"terminated_early":true,"_shards":{shards},
            "hits":{{"total":{{"value":9,"relation":"{relation}"}},"max_score":null,"hits":[{hit}]}}}}"#
        )
    }

    fn read(body: &str) -> Result<(Page, u64, String), Error> {
        let index = IndexName::try_from("a").unwrap();
        let window = Window {
            index: &index,
            shard: 0,
            node: None,
            after: -1,
            upto: 9,
            size: 10,
        };
        parse(&window, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_page_says_how_many_documents_there_are_and_how_to_go_on() {
        let (page, total, id) = read(&answer(ALL, false, "eq", HIT)).unwrap();
        assert_eq!((total, id.as_str(), page.hits.len()), (9, "abc==", 1));
        let hit = &page.hits[0];
        assert_eq!((hit.id.as_str(), hit.routing.as_deref()), ("x", Some("r")));
        assert_eq!((hit.version, hit.seq_no), (3, u64::MAX));
        assert_eq!(hit.source, r#"{"a": 1}"#);
    }

    #[test]
    fn a_page_that_is_not_complete_is_an_error_and_never_a_shorter_page() {
        let none = r#"{"total":1,"successful":0,"skipped":0,"failed":1}"#;
        let absent = r#"{"total":0,"successful":0,"skipped":0,"failed":0}"#;
        for (shards, timed_out) in [(none, false), (absent, false), (ALL, true)] {
            let error = read(&answer(shards, timed_out, "eq", HIT)).unwrap_err();
            assert!(matches!(error, Error::Shards { .. }), "{error}");
        }
        // Without the number of all nobody would notice an early end.
        let error = read(&answer(ALL, false, "gte", HIT)).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        let hit = HIT.replace(r#""_source":{"a": 1},"#, "");
        let error = read(&answer(ALL, false, "eq", &hit)).unwrap_err();
        assert!(matches!(error, Error::NoSource { .. }), "{error}");
        let whole = answer(ALL, false, "eq", HIT);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err());
        }
    }
}
