//! What can go wrong between here and JetStream, sorted by what helps.

use async_nats::jetstream::{ErrorCode, context::RequestErrorKind};
use pipeline::Fault;

/// Why something did not work. Each message names the thing, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("the NATS connection is misconfigured: {0}")]
    Configuration(String),
    #[error(
        "{server} refuses the credentials ({reason}): check user, password, token or credentials file"
    )]
    Credentials { server: String, reason: String },
    #[error("no NATS server answers at {server}: {reason}")]
    Unreachable { server: String, reason: String },
    #[error("{server} is nats-server {version}; 2.10 or newer is needed: upgrade the server")]
    TooOld { server: String, version: String },
    #[error(
        "JetStream is not enabled at {server}{account}: start nats-server with -js, or enable JetStream for the account"
    )]
    NoJetStream {
        server: String,
        account: &'static str,
    },
    #[error(
        "the stream {stream} does not exist: the services that use it create it when they start"
    )]
    StreamMissing { stream: String },
    #[error("the stream {stream} {reason}")]
    StreamUnsuitable { stream: String, reason: String },
    #[error(
        "the stream {stream} is full ({reason}): a reader is behind or stopped, or the stream's max_bytes is too small"
    )]
    StreamFull { stream: String, reason: String },
    #[error(
        "{server} has no room left for {what} ({reason}): free disk space, raise the server's JetStream limits, or give the streams a smaller max_bytes"
    )]
    NoRoom {
        server: String,
        what: String,
        reason: String,
    },
    #[error("{what} did not work: {reason}")]
    Request { what: String, reason: String },
    #[error("{what} was refused: {reason}")]
    Refused { what: String, reason: String },
    #[error("the server denies this connection's user what it needs: {0}: grant the permission")]
    Denied(String),
    #[error("not connected to {0}; the client is trying to reconnect")]
    Disconnected(String),
    #[error(
        "a message of {size} bytes for {subject} is above the server's max_payload of {limit}: raise max_payload, or lower the batch size"
    )]
    TooLarge {
        subject: String,
        size: usize,
        limit: usize,
    },
    #[error(
        "the lease {key} was taken by {holder}: this process was paused or cut off for longer than its lease, and stops"
    )]
    Fenced { key: String, holder: String },
    #[error(
        "the record {key} in the bucket SYNCLINE cannot be read ({reason}): upgrade this process if a newer one wrote it, else delete the record and the reader starts at the stream's first message"
    )]
    BadRecord { key: String, reason: String },
    #[error(
        "changes {from} to {to} of the stream {stream} were removed before reader {consumer} had read them: run `syncline verify --repair` for the target, then `nats kv del SYNCLINE {key}` so that the reader starts anew"
    )]
    Unread {
        stream: String,
        consumer: String,
        key: String,
        from: u64,
        to: u64,
    },
    #[error(
        "the stream {stream} has lost its end: this reader had read up to {read}, the stream {what}; that happens when a server loses power before it has synced (see sync_interval). The reader has to start again"
    )]
    LostEnd {
        stream: String,
        read: u64,
        what: String,
    },
    #[error(
        "the stream {stream} has lost its end: it had acknowledged this publisher's messages up to {had}, and now it {what}; that happens when a server loses power before it has synced (see sync_interval). What was lost is published again"
    )]
    LostAcknowledged {
        stream: String,
        had: u64,
        what: String,
    },
    #[error(
        "the stream {stream} is not marked by a gateway any more, and this reader has followed one to {output}: it waits, rather than reading around the filter. Start the gateway, which marks the stream again; or, where there is to be none any more, read under another --consumer"
    )]
    FilterGone { stream: String, output: String },
    #[error(
        "the gateway of the stream {stream} passes on to {output}, which this server does not have: this reader waits for it. Start the gateway, which creates it; or, where its output is at another server (--downstream-url), read there"
    )]
    OutputMissing { stream: String, output: String },
    #[error(
        "the stream {stream} is not marked by a gateway, and one is expected before this reader: it waits, rather than reading what nobody has filtered. Start the gateway, which marks the stream; or, where there is to be none, leave out --expect-gateway"
    )]
    NoGateway { stream: String },
    #[error(
        "the stream {stream} is read by several gateways, which pass on to {outputs}: name the one to read with --stream"
    )]
    SeveralGateways { stream: String, outputs: String },
    #[error("message {sequence} of the stream {stream}: {reason}")]
    Newer {
        stream: String,
        sequence: u64,
        reason: String,
    },
}

impl Error {
    /// Whether trying again can help without anyone changing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::LostAcknowledged { .. }
            | Error::StreamFull { .. }
            | Error::NoRoom { .. }
            | Error::Request { .. }
            | Error::Disconnected(_)
            | Error::FilterGone { .. }
            | Error::OutputMissing { .. }
            | Error::NoGateway { .. }
            | Error::LostEnd { .. } => true,
            Error::Configuration(_)
            | Error::Credentials { .. }
            | Error::TooOld { .. }
            | Error::NoJetStream { .. }
            | Error::StreamMissing { .. }
            | Error::StreamUnsuitable { .. }
            | Error::Refused { .. }
            | Error::Denied(_)
            | Error::TooLarge { .. }
            | Error::Fenced { .. }
            | Error::BadRecord { .. }
            | Error::Unread { .. }
            | Error::SeveralGateways { .. }
            | Error::Newer { .. } => false,
        }
    }

    /// Whether no server was there to answer, rather than one that said no.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. } | Error::Request { .. } | Error::Disconnected(_)
        )
    }

    /// A request that may work when it is sent again.
    pub(crate) fn request(what: impl Into<String>, reason: impl ToString) -> Error {
        Error::Request {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        if error.is_retryable() {
            Fault::retry(error)
        } else {
            Fault::fatal(error)
        }
    }
}

/// What a server's answer to a request about `what` means.
pub(crate) fn refused(server: &str, what: &str, error: &async_nats::jetstream::Error) -> Error {
    let (what, reason) = (what.to_owned(), error.to_string());
    match error.error_code() {
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED => Error::NoRoom {
            server: server.to_owned(),
            what,
            reason,
        },
        // 503: the cluster has no leader just now, or the server is still starting. 429: the stream has more waiting
        // than it can store (`max_buffered_size`, `max_buffered_msgs`), as where many publish on a slow disk.
        _ if error.code() >= 500 || error.code() == 429 => Error::Request { what, reason },
        _ => Error::Refused { what, reason },
    }
}

/// What a failed request about `what` means.
pub(crate) fn failed(what: &str, error: &async_nats::jetstream::context::RequestError) -> Error {
    let reason = match error.kind() {
        RequestErrorKind::NoResponders => "JetStream does not answer just now".to_owned(),
        _ => error.to_string(),
    };
    Error::request(what, reason)
}
