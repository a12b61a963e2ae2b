//! Counting what is alive in a shard, by `_seq_no`: how deletes are noticed.

use std::ops::RangeInclusive;

use bytes::Bytes;
use model::{DocumentId, IndexName};
use serde::Deserialize;

use crate::{
    Client, Error, Request,
    capture::{Shards, copy_gone, search_path},
};

/// One copy of a shard.
#[derive(Debug, Clone, Copy)]
pub struct ShardCopy<'a> {
    /// The index.
    pub index: &'a IndexName,
    /// The shard's number.
    pub shard: u32,
    /// The id of the node whose copy is read.
    pub node: &'a str,
}

/// How many buckets an answer may have: well below the servers' default for `search.max_buckets`.
pub const MOST_BUCKETS: u64 = 10_000;

impl Client {
    /// How many documents the copy holds, refreshed as it is, in each block of `size` sequence
    /// numbers of a range: pairs of block (its first number divided by `size`) and count, lowest
    /// first. Empty blocks are absent.
    ///
    /// The range should not span more than [`MOST_BUCKETS`] blocks.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn count_blocks(
        &self,
        copy: ShardCopy<'_>,
        numbers: &RangeInclusive<u64>,
        size: u64,
    ) -> Result<Vec<(u64, u32)>, Error> {
        let query = format!(
            r#"{{"size":0,"track_total_hits":false,"query":{},"aggs":{{"blocks":{{"histogram":{{"field":"_seq_no","interval":{size},"min_doc_count":1}}}}}}}}"#,
            range(numbers),
        );
        let body = self
            .search_copy(copy, query, "aggregations.blocks.buckets")
            .await?;
        let counted: Counted = parse(copy, &body)?;
        let buckets = counted
            .aggregations
            .map_or(Vec::new(), |a| a.blocks.buckets);
        // A key is a number with a fraction, exact up to 2^53.
        Ok(buckets
            .into_iter()
            .map(|bucket| (bucket.key as u64 / size, bucket.doc_count))
            .collect())
    }

    /// The sequence numbers of the documents that the copy holds, refreshed as it is, in some
    /// ranges: lowest first, and at most `most` of them. In an index that was made by `_shrink` a number
    /// may come several times.
    ///
    /// # Errors
    /// As [`Client::read_window`]. The server returns no more than its `index.max_result_window`, 10,000.
    pub async fn live_numbers(
        &self,
        copy: ShardCopy<'_>,
        ranges: &[RangeInclusive<u64>],
        most: u64,
    ) -> Result<Vec<u64>, Error> {
        let clauses: Vec<String> = ranges.iter().map(range).collect();
        // Not even ids: numbers are read where they are sorted, and nothing is fetched.
        let query = format!(
            r#"{{"size":{},"track_total_hits":false,"stored_fields":"_none_","sort":["_seq_no"],"query":{{"bool":{{"should":[{}]}}}}}}"#,
            most.max(1),
            clauses.join(","),
        );
        let body = self.search_copy(copy, query, "hits.hits.sort").await?;
        let live: Answer<Sorted> = parse(copy, &body)?;
        Ok(live.hits.hits.into_iter().map(|hit| hit.sort[0]).collect())
    }

    /// The documents with the highest sequence numbers up to one that the copy holds, refreshed as it
    /// is: number and id, highest first, at most `most` of them.
    ///
    /// # Errors
    /// As [`Client::read_window`].
    pub async fn newest_documents(
        &self,
        copy: ShardCopy<'_>,
        upto: u64,
        most: u64,
    ) -> Result<Vec<(u64, DocumentId)>, Error> {
        let query = format!(
            r#"{{"size":{most},"track_total_hits":false,"_source":false,"sort":[{{"_seq_no":"desc"}}],"query":{}}}"#,
            range(&(0..=upto)),
        );
        let wanted = "hits.hits.sort,hits.hits._id";
        let body = self.search_copy(copy, query, wanted).await?;
        let newest: Answer<Named> = parse(copy, &body)?;
        let documents = newest.hits.hits.into_iter().map(|hit| {
            let id = DocumentId::try_from(hit._id.as_str());
            let id = id.map_err(|error| Error::malformed("the id of a document", error))?;
            Ok((hit.sort[0], id))
        });
        documents.collect()
    }

    async fn search_copy(
        &self,
        copy: ShardCopy<'_>,
        query: String,
        wanted: &str,
    ) -> Result<Bytes, Error> {
        let path = search_path(copy.index, copy.shard, Some(copy.node));
        let path = format!("{path}&filter_path=timed_out,_shards,{wanted}");
        let answer = self.send(Request::post(path).json(query)).await;
        let body = answer.map_err(|error| copy_gone(error, copy.index, Some(copy.node)))?;
        let complete: Complete = parse(copy, &body)?;
        complete._shards.complete(copy.index, Some(1))?;
        if complete.timed_out {
            return Err(Error::Shards {
                index: copy.index.to_string(),
                failed: 1,
                total: 1,
                reason: "the search timed out on the server".to_owned(),
            });
        }
        Ok(body)
    }
}

fn range(numbers: &RangeInclusive<u64>) -> String {
    let (first, last) = (numbers.start(), numbers.end());
    format!(r#"{{"range":{{"_seq_no":{{"gte":{first},"lte":{last}}}}}}}"#)
}

fn parse<'a, T: Deserialize<'a>>(copy: ShardCopy<'_>, body: &'a [u8]) -> Result<T, Error> {
    let what = || format!("count in shard {} of {}", copy.shard, copy.index);
    serde_json::from_slice(body).map_err(|error| Error::malformed(what(), error))
}

#[derive(Deserialize)]
struct Complete {
    timed_out: bool,
    _shards: Shards,
}

#[derive(Deserialize)]
struct Counted {
    /// Absent in the answer of a copy that has nothing there.
    aggregations: Option<Aggregations>,
}

#[derive(Deserialize)]
struct Aggregations {
    blocks: Blocks,
}

#[derive(Deserialize)]
struct Blocks {
    #[serde(default)]
    buckets: Vec<Bucket>,
}

#[derive(Deserialize)]
struct Bucket {
    key: f64,
    doc_count: u32,
}

#[derive(Deserialize)]
struct Answer<H> {
    /// Absent where nothing is alive.
    #[serde(default = "Hits::none")]
    hits: Hits<H>,
}

#[derive(Deserialize)]
struct Hits<H> {
    #[serde(default = "Vec::new")]
    hits: Vec<H>,
}

impl<H> Hits<H> {
    fn none() -> Hits<H> {
        Hits { hits: Vec::new() }
    }
}

#[derive(Deserialize)]
struct Sorted {
    sort: [u64; 1],
}

#[derive(Deserialize)]
struct Named {
    _id: String,
    sort: [u64; 1],
}
