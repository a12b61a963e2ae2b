//! Reading a shard without its documents: what a comparison by version needs.
//!
//! A document's id and routing are stored fields: for them a server decompresses the block that holds
//! the document, whether the document is asked for or not, and that is most of the work. Numbers
//! are columns of their own, and cost a fifth.

use bytes::Bytes;
use serde::Deserialize;

use crate::{
    Client, Error, Page, Request, Window,
    capture::{Shards, Total, copy_gone, expect_complete, malformed, parse_headers, search_path},
};

/// The most documents in one answer: servers refuse more unless `index.max_result_window` is raised.
pub const MOST_NUMBERS: u32 = 10_000;

/// What a shard knows of a document besides the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The number of the operation that wrote it.
    pub seq_no: u64,
    /// Its `_version`.
    pub version: u64,
}

impl Client {
    /// The numbers of every document of a window, lowest first, and the size of the answer.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn read_numbers(&self, window: &Window<'_>) -> Result<(Vec<Numbers>, usize), Error> {
        const MEMBERS: &str = r#""version":true,"stored_fields":"_none_""#;
        const FIELDS: &str = "&filter_path=timed_out,_shards,hits.hits._version,hits.hits.sort";
        match self.search_window(window, MEMBERS, FIELDS).await? {
            Some(body) => Ok((parse_numbers(window, &body)?, body.len())),
            None => Ok((Vec::new(), 0)),
        }
    }

    /// How many documents a window has, whatever its size: a server that has deleted nothing there
    /// looks at none of them for it.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn count_window(&self, window: &Window<'_>) -> Result<u64, Error> {
        let path = search_path(window.index, window.shard, window.node);
        let path = format!("{path}&filter_path=timed_out,_shards,hits.total");
        let query = format!(
            r#"{{"query":{{"range":{{"_seq_no":{{"gt":{},"lte":{}}}}}}},"size":0,"track_total_hits":true}}"#,
            window.after, window.upto,
        );
        let answer = self.send(Request::post(path).json(query)).await;
        let body = answer.map_err(|error| copy_gone(error, window.index, window.node))?;
        let counted: Counted = serde_json::from_slice(&body).map_err(|e| malformed(window, e))?;
        expect_complete(window, &counted._shards, counted.timed_out)?;
        counted.hits.total.exact(window)
    }

    /// The documents of a window without their content.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn read_headers(&self, window: &Window<'_>) -> Result<Page, Error> {
        const MEMBERS: &str = r#""version":true,"_source":false"#;
        match self.search_window(window, MEMBERS, "").await? {
            Some(body) => parse_headers(window, &body),
            None => Ok(Page::empty()),
        }
    }

    /// Those of the documents of a window that were written by these operations, without their
    /// content: at most [`MOST_NUMBERS`].
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn read_headers_of(
        &self,
        window: &Window<'_>,
        seq_nos: &[u64],
    ) -> Result<Page, Error> {
        let path = search_path(window.index, window.shard, window.node);
        let query = format!(
            r#"{{"query":{{"terms":{{"_seq_no":{seq_nos:?}}}}},"sort":["_seq_no"],"size":{},"track_total_hits":false,"version":true,"_source":false}}"#,
            seq_nos.len().max(1),
        );
        let answer = self.send(Request::post(path).json(query)).await;
        let body = answer.map_err(|error| copy_gone(error, window.index, window.node))?;
        parse_headers(window, &body)
    }
}

#[derive(Deserialize)]
struct Counted {
    timed_out: bool,
    _shards: Shards,
    hits: CountedHits,
}

#[derive(Deserialize)]
struct CountedHits {
    total: Total,
}

#[derive(Deserialize)]
struct Answer {
    timed_out: bool,
    _shards: Shards,
    /// Absent where there are no hits: `filter_path` leaves out what is empty.
    #[serde(default)]
    hits: Hits,
}

#[derive(Default, Deserialize)]
struct Hits {
    #[serde(default)]
    hits: Vec<RawNumbers>,
}

#[derive(Deserialize)]
struct RawNumbers {
    _version: u64,
    sort: [u64; 1],
}

fn parse_numbers(window: &Window<'_>, body: &Bytes) -> Result<Vec<Numbers>, Error> {
    let answer: Answer = serde_json::from_slice(body).map_err(|e| malformed(window, e))?;
    expect_complete(window, &answer._shards, answer.timed_out)?;
    let hits = answer.hits.hits.into_iter();
    Ok(hits
        .map(|raw| Numbers {
            seq_no: raw.sort[0],
            version: raw._version,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use model::IndexName;

    use super::*;

    #[test]
    fn an_answer_without_hits_is_empty_and_one_that_misses_the_shard_is_an_error() {
        let index = IndexName::try_from("assets").unwrap();
        let window = Window {
            index: &index,
            shard: 0,
            node: None,
            after: -1,
            upto: 9,
            size: 10,
        };
        let parse = |shards: &str, rest: &str| {
            let body = format!(r#"{{"timed_out":false,"_shards":{shards}{rest}}}"#);
            parse_numbers(&window, &Bytes::from(body))
        };
        let all = r#"{"total":1,"successful":1,"failed":0}"#;
        let none = r#"{"total":1,"successful":0,"failed":1}"#;
        assert_eq!(parse(all, "").unwrap(), []);
        let hits = r#","hits":{"hits":[{"_version":36028797018963977,"sort":[7]}]}"#;
        let expected = Numbers {
            seq_no: 7,
            version: 36_028_797_018_963_977,
        };
        assert_eq!(parse(all, hits).unwrap(), [expected]);
        assert!(matches!(parse(none, hits), Err(Error::Shards { .. })));
        assert!(parse(all, r#","hits":{"hits":[{"sort":[7]}]}"#).is_err());
    }
}
