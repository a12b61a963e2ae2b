//! Which stream is read: the one that was named, or the output of the gateway that stands before it.

use std::time::Duration;

use bus::{Bus, Error, StreamSpec, forget_reader, stream, until_answered};
use model::{SubjectError, expand_filter};
use runtime::health::Readiness;
use tokio_util::sync::CancellationToken;

use crate::Args;

/// How often is looked whether a gateway has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The stream.
    pub(crate) stream: String,
    /// Whether a gateway's mark has led there.
    pub(crate) is_followed: bool,
}

impl Choice {
    /// The gateway's output that this is.
    pub(crate) fn followed(&self) -> Option<&str> {
        self.is_followed.then_some(self.stream.as_str())
    }

    /// The stream as it has to be.
    pub(crate) fn spec(&self, args: &Args) -> StreamSpec {
        let (subjects, most) = match self.is_followed || self.stream == stream::ES_GATEWAY {
            true => (stream::ES_GATEWAY_SUBJECTS, None), // the gateway says how large its own is
            false => (stream::ES_CHANGES_SUBJECTS, args.stream_max_bytes),
        };
        StreamSpec {
            max_bytes: most.map(|size| size.bytes()),
            replicas: args.stream_replicas,
            create: !self.is_followed,
            ..StreamSpec::new(&self.stream, subjects)
        }
    }

    /// The subjects that are wanted of it. Filters are written for what sources publish; behind a gateway the
    /// same subjects stand under its root.
    pub(crate) fn filter_subjects(&self, args: &Args) -> Result<Vec<String>, SubjectError> {
        let given = args.filter_subjects.iter().flat_map(|list| list.iter());
        given
            .map(
                |filter| match self.is_followed && filter.starts_with("es.") {
                    true => expand_filter(&format!("gw.{filter}")),
                    false => expand_filter(filter),
                },
            )
            .collect()
    }
}

/// Chooses, and waits where a mark is gone that was followed before: never around the filter. `None` when the
/// process is to stop first.
pub(crate) async fn choose(
    bus: &Bus,
    args: &Args,
    followed: Option<&str>,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> Result<Option<Choice>, Error> {
    let mut told = false;
    loop {
        let chosen = until_answered(shutdown, || look(bus, args, followed)).await;
        match chosen {
            Err(
                error @ (Error::FilterGone { .. }
                | Error::OutputMissing { .. }
                | Error::NoGateway { .. }),
            ) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "waiting for the gateway");
                }
                readiness.set("stream", Err(error.to_string()));
            }
            chosen => return chosen,
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(bus: &Bus, args: &Args, followed: Option<&str>) -> Result<Choice, Error> {
    let (stream, replicas) = (&args.stream, args.stream_replicas);
    let chosen = stream::choose(bus, stream, &args.consumer, followed, replicas).await?;
    let is_followed = chosen != args.stream;
    if args.expect_gateway && !is_followed && chosen != stream::ES_GATEWAY {
        return Err(Error::NoGateway { stream: chosen });
    }
    Ok(Choice {
        is_followed,
        stream: chosen,
    })
}

/// Whether the choice is another one by now.
pub(crate) async fn has_changed(bus: &Bus, args: &Args, choice: &Choice) -> Result<bool, Error> {
    match look(bus, args, choice.followed()).await {
        Ok(now) => Ok(now != *choice),
        // What is read is filtered, whatever has become of the mark. A stream that is gone is the reader's to notice.
        Err(Error::FilterGone { .. } | Error::OutputMissing { .. }) if choice.is_followed => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Resolves when the choice is another one.
pub(crate) async fn changed(bus: &Bus, args: &Args, choice: &Choice) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if has_changed(bus, args, choice).await.unwrap_or(false) {
            return;
        }
    }
}

/// Lets go of the place that the reader had in the stream before it followed a mark: the gateway reads there
/// now, and nobody else would ever move that floor.
pub(crate) async fn leave(bus: &Bus, args: &Args, choice: &Choice) -> Result<(), Error> {
    if !choice.is_followed {
        return Ok(());
    }
    tracing::info!(
        stream = choice.stream,
        instead_of = args.stream,
        "a gateway stands before this writer"
    );
    let Some(info) = stream::info(bus, &args.stream).await? else {
        return Ok(());
    };
    let mut readers = bus::readers(bus, &info).await?.into_iter();
    match readers.any(|reader| reader.consumer == args.consumer) {
        true => forget_reader(bus, &args.stream, &args.consumer).await,
        false => Ok(()),
    }
}
