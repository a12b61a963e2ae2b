//! What can go wrong with a cluster, each as one sentence with the remedy.

use std::{path::PathBuf, time::Duration};

/// A failed operation on a cluster. [`crate::retry::classify`] says whether to try again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A certificate or key file cannot be used.
    #[error("the {what} {path:?} {problem}; {remedy}")]
    Certificate {
        /// Which of the files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No connection could be made.
    #[error(
        "cannot connect to {host}: {reason}; check that the cluster runs and that the address and port are right"
    )]
    Connect {
        /// The host's URL.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The two sides cannot agree on an encrypted connection.
    #[error("cannot establish an encrypted connection to {host}: {problem}; {remedy}")]
    Tls {
        /// The host's URL.
        host: String,
        /// Who refused what.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The connection broke in the middle of a request.
    #[error("the connection to {host} broke during {request}: {reason}")]
    Interrupted {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// The innermost cause.
        reason: String,
    },
    /// No complete answer came in time.
    #[error(
        "{host} did not answer {request} within {after:?}; the cluster is overloaded, or the request timeout is too short"
    )]
    Timeout {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// How long we waited.
        after: Duration,
    },
    /// The cluster does not know us (401).
    #[error("{host} refuses {who}: {remedy}")]
    Unauthorized {
        /// The host's URL.
        host: String,
        /// What we showed.
        who: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The cluster knows us and does not let us do this (403).
    #[error("{who} may not do {request}: the privilege {action} is missing; {remedy}")]
    Forbidden {
        /// What we showed.
        who: String,
        /// Method and path.
        request: String,
        /// The action that was refused, such as `indices:admin/refresh`.
        action: String,
        /// What to do.
        remedy: String,
    },
    /// There is no such index.
    #[error("there is no index {index:?}")]
    IndexNotFound {
        /// Its name.
        index: String,
    },
    /// The name stands for something that documents cannot be kept equal in.
    #[error(
        "{index:?} is {what}, and no index: only an index, or an alias of one, can be kept equal; remove or rename it there, or leave this index out"
    )]
    NoIndex {
        /// The name.
        index: String,
        /// What it stands for.
        what: String,
    },
    /// The index is closed: nothing can be read from it or written to it.
    #[error("the index {index:?} is closed; open it, or leave it out")]
    IndexClosed {
        /// Its name.
        index: String,
    },
    /// The request is larger than the server takes (413).
    #[error(
        "{host} refuses {request} of {bytes} bytes as too large; send smaller batches, or raise http.max_content_length there"
    )]
    TooLarge {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// The body's size before compression.
        bytes: usize,
    },
    /// The answer is larger than we take at once.
    #[error(
        "the answer of {host} to {request} has more than {limit} bytes, which is too much at once"
    )]
    AnswerTooLarge {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// The most that was to be taken, in bytes.
        limit: usize,
    },
    /// The cluster has too much to do (429), or has closed the index for writing for now.
    #[error("{host} cannot take {request} now: {reason}")]
    Busy {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// The server's reason.
        reason: String,
    },
    /// The cluster, or what stands before it, cannot answer now (500 and above).
    #[error("{host} cannot answer {request} now ({status}): {reason}")]
    Unavailable {
        /// The host's URL.
        host: String,
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The server's reason.
        reason: String,
    },
    /// The cluster refuses the request for what it says.
    #[error("{request} was rejected ({status} {kind}): {reason}")]
    Rejected {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The server's name for it.
        kind: String,
        /// The server's reason.
        reason: String,
    },
    /// The answer is not what this API answers.
    #[error(
        "{what} is not an answer we can read: {reason}; check that the address is that of an Elasticsearch or OpenSearch cluster"
    )]
    Malformed {
        /// The answer of what.
        what: String,
        /// Where reading failed.
        reason: String,
    },
    /// Not every shard took part, so the answer is worth nothing.
    #[error("{failed} of {total} shards of {index:?} failed: {reason}")]
    Shards {
        /// The index.
        index: String,
        /// How many shards failed or are missing in the answer.
        failed: u64,
        /// How many were asked.
        total: u64,
        /// The server's reason.
        reason: String,
    },
    /// The copy that a round is pinned to is not there any more: throw the round away.
    #[error("node {node} no longer holds the copy of {index:?} that this round reads")]
    CopyGone {
        /// The index.
        index: String,
        /// The node's id.
        node: String,
    },
    /// A scroll is not there any more, or not whole: what was read of it has to be read again.
    #[error("the scroll over shard {shard} of {index:?} is lost: {reason}")]
    ScrollGone {
        /// The index.
        index: String,
        /// The shard's number.
        shard: u32,
        /// What the server says.
        reason: String,
    },
    /// The cluster opens no more scrolls.
    #[error("no scroll over {index:?} can be opened: {reason}")]
    NoScroll {
        /// The index.
        index: String,
        /// The server's reason.
        reason: String,
    },
    /// A document came without its source.
    #[error(
        "document {id:?} of {index:?} has no _source; an index with _source disabled cannot be captured"
    )]
    NoSource {
        /// The index.
        index: String,
        /// The document.
        id: String,
    },
    /// The target cannot have an index like the source's.
    #[error("cannot create {index:?} like the source's index: {reason}; {remedy}")]
    Incompatible {
        /// The index.
        index: String,
        /// The server's reason.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No AWS credentials, or they cannot sign.
    #[error(
        "cannot sign requests with AWS credentials: {reason}; check the environment, the profile or the instance's role"
    )]
    Credentials {
        /// What the credential chain says.
        reason: String,
    },
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Error {
        Error::Malformed {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}
