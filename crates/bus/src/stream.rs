//! Streams that cannot lose what is unread.
//!
//! A stream of ours is kept by Limits and refuses new messages when it is full (`DiscardNew`), so a
//! slow reader slows the publisher. Every other combination drops something some reader has not seen:
//! `DiscardOld` the oldest, `max_age` the late, Interest what comes while no consumer exists, WorkQueue
//! what another reader acknowledged. A stream that exists with one of those is refused.

mod marks;

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    context::{GetStreamErrorKind, RequestErrorKind},
    response::Response,
    stream::{
        Config, DiscardPolicy, Info, RawMessageError, RawMessageErrorKind, RetentionPolicy,
        StorageType,
    },
};

use crate::{Bus, Error, error};

pub use marks::{choose, mark};

/// The stream of what sources publish.
pub const ES_CHANGES: &str = "ES_CHANGES";
/// Its subjects.
pub const ES_CHANGES_SUBJECTS: &str = "es.>";
/// The stream of what the gateway lets through.
pub const ES_GATEWAY: &str = "ES_GATEWAY";
/// Its subjects.
pub const ES_GATEWAY_SUBJECTS: &str = "gw.>";
/// The stream of what could not be written.
pub const ES_DLQ: &str = "ES_DLQ";
/// Its subjects.
pub const ES_DLQ_SUBJECTS: &str = "dlq.>";

/// How long the server recognises a message by its id. Larger windows cost it memory.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What a stream has to be.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// The subjects it must take.
    pub subjects: Vec<String>,
    /// Its share of the server's storage, in bytes, when it is created; the server reserves it.
    pub max_bytes: Option<u64>,
    /// On how many servers each message is kept, when it is created.
    pub replicas: usize,
    /// Whether to create it when it is missing.
    pub create: bool,
}

impl StreamSpec {
    /// A stream with one subject pattern on one server, created when missing.
    pub fn new(name: &str, subjects: &str) -> StreamSpec {
        StreamSpec {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            max_bytes: None,
            replicas: 1,
            create: true,
        }
    }

    fn config(&self) -> Config {
        Config {
            name: self.name.clone(),
            subjects: self.subjects.clone(),
            max_bytes: self
                .max_bytes
                .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            discard: DiscardPolicy::New,
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            num_replicas: self.replicas.max(1),
            duplicate_window: DUPLICATE_WINDOW,
            allow_direct: true,
            ..Config::default()
        }
    }
}

/// A stream that exists and is fit.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// When it was created, in nanoseconds since 1970: tells it from another of the same name.
    pub created: u64,
    /// On how many servers each message is kept.
    pub replicas: usize,
    /// Its limit, in bytes.
    pub max_bytes: Option<u64>,
    /// What it holds, in bytes.
    pub bytes: u64,
    /// How many messages it holds.
    pub messages: u64,
    /// The number of its oldest message; one above the last when it is empty.
    pub first_sequence: u64,
    /// The number of its newest message.
    pub last_sequence: u64,
    /// When the newest message was stored, in nanoseconds since 1970.
    pub last_time: u64,
    /// The gateways that read it, each with the stream it passes on to: nobody else may.
    pub gateways: BTreeMap<String, String>,
    /// The stream that a gateway fills it from.
    pub filled_from: Option<String>,
}

impl StreamInfo {
    fn new(info: &Info) -> StreamInfo {
        StreamInfo {
            name: info.config.name.clone(),
            created: nanos(info.created.unix_timestamp_nanos()),
            replicas: info.config.num_replicas,
            max_bytes: u64::try_from(info.config.max_bytes)
                .ok()
                .filter(|bytes| *bytes > 0),
            bytes: info.state.bytes,
            messages: info.state.messages,
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            last_time: nanos(info.state.last_timestamp.unix_timestamp_nanos()),
            gateways: marks::gateways(&info.config.metadata),
            filled_from: info.config.metadata.get(marks::FILLED_FROM).cloned(),
        }
    }
}

pub(crate) fn nanos(time: i128) -> u64 {
    u64::try_from(time).unwrap_or(0)
}

/// Makes sure that the stream exists and cannot lose what is unread. One that exists is taken as it
/// is: its limits are the operator's.
///
/// # Errors
/// When it is missing and may not be created, when it would lose unread changes or does not take the
/// subjects, or when the server does not answer.
pub async fn ensure(bus: &Bus, spec: &StreamSpec) -> Result<StreamInfo, Error> {
    if let Some(info) = find(bus, &spec.name).await? {
        check(&info, spec)?;
        return Ok(StreamInfo::new(&info));
    }
    if !spec.create {
        return Err(Error::StreamMissing {
            stream: spec.name.clone(),
        });
    }
    let what = format!("creating the stream {}", spec.name);
    let subject = format!("STREAM.CREATE.{}", spec.name);
    match bus
        .jetstream()
        .request(subject.clone(), &spec.config())
        .await
    {
        Ok(Response::<Info>::Ok(info)) => {
            tracing::info!(
                stream = spec.name,
                max_bytes = spec.max_bytes,
                "created the stream"
            );
            check(&info, spec)?;
            Ok(StreamInfo::new(&info))
        }
        // Somebody else was quicker, with other limits: it is there.
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
            let missing = || Error::StreamMissing {
                stream: spec.name.clone(),
            };
            let info = find(bus, &spec.name).await?.ok_or_else(missing)?;
            check(&info, spec)?;
            Ok(StreamInfo::new(&info))
        }
        Ok(Response::Err { error }) => Err(error::refused(bus.server_host(), &what, &error)),
        Err(error) => Err(failed(bus, &subject, &what, &error)),
    }
}

/// What a stream holds now; `None` when it does not exist.
///
/// # Errors
/// When the server does not answer.
pub async fn info(bus: &Bus, stream: &str) -> Result<Option<StreamInfo>, Error> {
    Ok(find(bus, stream).await?.map(|info| StreamInfo::new(&info)))
}

async fn find(bus: &Bus, name: &str) -> Result<Option<Info>, Error> {
    let what = format!("looking up the stream {name}");
    let subject = format!("STREAM.INFO.{name}");
    match bus.jetstream().request(subject.clone(), &()).await {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error })
            if error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
        {
            Ok(None)
        }
        Ok(Response::Err { error }) => Err(error::refused(bus.server_host(), &what, &error)),
        Err(error) => Err(failed(bus, &subject, &what, &error)),
    }
}

/// What a request to JetStream's API that got no answer means.
pub(crate) fn failed(
    bus: &Bus,
    subject: &str,
    what: &str,
    error: &async_nats::jetstream::context::RequestError,
) -> Error {
    let denied = match error.kind() {
        RequestErrorKind::TimedOut => bus.denied(&format!("$JS.API.{subject}")),
        _ => None,
    };
    denied.unwrap_or_else(|| error::failed(what, error))
}

fn check(info: &Info, spec: &StreamSpec) -> Result<(), Error> {
    let config = &info.config;
    let loses = unfit(config)
        .map(|(setting, remedy)| format!("would lose unread changes ({setting}): {remedy}"));
    let misses = || {
        let missing = spec
            .subjects
            .iter()
            .find(|subject| !takes(config, subject))?;
        Some(format!(
            "does not take the subjects {missing}: add them (`nats stream edit {} --subjects …`)",
            config.name
        ))
    };
    match loses.or_else(misses) {
        None => Ok(()),
        Some(reason) => Err(Error::StreamUnsuitable {
            stream: config.name.clone(),
            reason,
        }),
    }
}

/// The setting by which a stream would drop what a reader has not seen, and what to do about it.
fn unfit(config: &Config) -> Option<(String, String)> {
    let name = &config.name;
    let edit = |options: &str| format!("`nats stream edit {name} {options}`");
    let anew = || {
        format!(
            "its type cannot be changed; delete it (`nats stream rm {name}`) and it is created anew"
        )
    };
    match config.retention {
        RetentionPolicy::Limits => {}
        RetentionPolicy::Interest => return Some(("Interest retention".to_owned(), anew())),
        RetentionPolicy::WorkQueue => return Some(("WorkQueue retention".to_owned(), anew())),
    }
    if config.storage == StorageType::Memory {
        return Some(("memory storage".to_owned(), anew()));
    }
    if !config.max_age.is_zero() {
        return Some((format!("max_age {:?}", config.max_age), edit("--max-age=0")));
    }
    if config.discard == DiscardPolicy::Old {
        return Some((
            "it discards old messages when it is full".to_owned(),
            edit("--discard=new"),
        ));
    }
    if config.max_messages_per_subject > 0 && !config.discard_new_per_subject {
        return Some((
            "a limit of messages per subject".to_owned(),
            edit("--max-msgs-per-subject=-1"),
        ));
    }
    if config.no_ack {
        return Some(("it does not acknowledge".to_owned(), edit("--ack")));
    }
    None
}

/// Whether a stream takes everything that matches `wanted`.
fn takes(config: &Config, wanted: &str) -> bool {
    // A mirror has no subjects of its own.
    config.mirror.is_some()
        || config
            .subjects
            .iter()
            .any(|subject| covers(subject, wanted))
}

/// Whether every subject that matches `narrow` matches `wide`.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", Some(_)) => return true,
            (_, Some(">")) | (_, None) => return false,
            ("*", Some(_)) => {}
            (token, Some(wanted)) if token == wanted => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

/// What asking for a stream by name can answer with besides the stream.
pub(crate) fn get_error(
    bus: &Bus,
    name: &str,
    error: &async_nats::jetstream::context::GetStreamError,
) -> Error {
    let what = format!("looking up the stream {name}");
    match error.kind() {
        GetStreamErrorKind::JetStream(error)
            if error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
        {
            Error::StreamMissing {
                stream: name.to_owned(),
            }
        }
        GetStreamErrorKind::JetStream(error) => error::refused(bus.server_host(), &what, &error),
        _ => Error::request(what, error),
    }
}

/// Whether a message is no longer there.
pub(crate) fn is_not_found(error: &RawMessageError) -> bool {
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => true,
        RawMessageErrorKind::JetStream(answer) => answer.code() == 404,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_is_below_it_and_nothing_else() {
        assert!(covers("es.>", "es.>"));
        assert!(covers(">", "es.>"));
        assert!(covers("es.>", "es.t.*.index"));
        assert!(covers("es.*.>", "es.t.>"));
        assert!(!covers("es.*", "es.>"));
        assert!(!covers("es.t.>", "es.>"));
        assert!(!covers("es.>", "gw.>"));
        assert!(!covers("es.t.a", "es.t"));
    }

    #[test]
    fn the_stream_we_create_is_one_we_would_take() {
        assert_eq!(
            unfit(&StreamSpec::new(ES_CHANGES, ES_CHANGES_SUBJECTS).config()),
            None
        );
    }
}
