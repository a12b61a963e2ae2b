//! The marks by which a writer finds the gateway that stands before it.
//!
//! A gateway notes in the metadata of its input where it passes on to, and in that of its output where
//! that comes from. A writer reads the output then, whichever of the two was started first, and remembers
//! it in the bucket `SYNCLINE`: one that has followed a mark once never reads around the filter again,
//! not even where the mark is gone because the stream was created anew.

use std::collections::{BTreeMap, HashMap};

use async_nats::jetstream::{response::Response, stream::Info};

use super::{failed, find};
use crate::{
    Bus, Error, StreamInfo,
    connection::REQUEST_TIMEOUT,
    error,
    lease::{Place, escape},
    stream::ES_GATEWAY,
};

/// What the key of a gateway's mark begins with; its name follows.
const GATEWAY: &str = "syncline-gateway-";
/// The key of the mark on an output.
pub(super) const FILLED_FROM: &str = "syncline-filled-from";
/// The key of the name of the gateway that fills it.
const FILLED_BY: &str = "syncline-filled-by";

pub(super) fn gateways(metadata: &HashMap<String, String>) -> BTreeMap<String, String> {
    let marks = metadata.iter();
    marks
        .filter_map(|(key, output)| {
            let name = key.strip_prefix(GATEWAY)?;
            Some((name.to_owned(), output.clone()))
        })
        .collect()
}

/// Says in a stream's metadata that the gateway of that name passes on from `input` to `output`. `bus` is
/// the connection of the one that is marked, which is either of the two.
///
/// # Errors
/// When the stream is missing, another gateway fills the output, or the server denies it.
pub async fn mark(
    bus: &Bus,
    marked: &str,
    gateway: &str,
    (input, output): (&str, &str),
) -> Result<(), Error> {
    let missing = || Error::StreamMissing {
        stream: marked.to_owned(),
    };
    let mut config = find(bus, marked).await?.ok_or_else(missing)?.config;
    let marks = match marked == output {
        true => vec![
            (FILLED_FROM.to_owned(), input),
            (FILLED_BY.to_owned(), gateway),
        ],
        false => vec![(format!("{GATEWAY}{gateway}"), output)],
    };
    let other = marks
        .iter()
        .any(|(key, value)| config.metadata.get(key).is_some_and(|known| known != value));
    if other && marked == output {
        let known = |key| config.metadata.get(key).map_or("?", String::as_str);
        let (by, from) = (known(FILLED_BY), known(FILLED_FROM));
        return Err(Error::StreamUnsuitable {
            stream: output.to_owned(),
            reason: format!(
                "is filled by the gateway {by} from {from}, and one stream takes one gateway: give this one that name \
                 (--consumer), or an output elsewhere (--downstream-url)"
            ),
        });
    }
    let is_marked = |(key, value): &(String, &str)| {
        config.metadata.get(key).is_some_and(|known| known == value)
    };
    if marks.iter().all(is_marked) {
        return Ok(());
    }
    let new = marks
        .into_iter()
        .map(|(key, value)| (key, value.to_owned()));
    config.metadata.extend(new);
    let subject = format!("STREAM.UPDATE.{marked}");
    let what = format!("marking the stream {marked}");
    match bus.jetstream().request(subject.clone(), &config).await {
        Ok(Response::<Info>::Ok(_)) => Ok(()),
        Ok(Response::Err { error }) => Err(error::refused(bus.server_host(), &what, &error)),
        Err(error) => Err(failed(bus, &subject, &what, &error)),
    }
}

/// Which stream a reader has to read that was told to read `stream`: that one, or the output of the
/// gateway that stands before it. `followed` is the output that this process has followed already: a server that
/// loses power may have lost what is remembered there, too.
///
/// # Errors
/// When several gateways do and none of their outputs was followed before, when the mark or the output is gone that
/// was followed before, or when the server does not answer.
pub async fn choose(
    bus: &Bus,
    stream: &str,
    consumer: &str,
    followed: Option<&str>,
    replicas: usize,
) -> Result<String, Error> {
    let key = format!("follows.{}.{}", escape(stream), escape(consumer));
    let place = Place::open(bus, key, replicas, REQUEST_TIMEOUT).await?;
    let remembered = remembered(&place).await?.map(|(_, output)| output);
    let before = remembered.or(followed.map(str::to_owned));
    let choice = choice(stream, outputs(bus, stream).await?, before)?;
    if choice != stream {
        remember(&place, &choice).await?;
        // A writer does not create it: the gateway knows how large it is to be.
        if find(bus, &choice).await?.is_none() {
            return Err(Error::OutputMissing {
                stream: stream.to_owned(),
                output: choice,
            });
        }
    }
    Ok(choice)
}

/// The outputs of all gateways that read a stream. Where it is not there itself, another server has it, and
/// only the output is here.
async fn outputs(bus: &Bus, stream: &str) -> Result<Vec<String>, Error> {
    let info = find(bus, stream).await?.map(|info| StreamInfo::new(&info));
    let mut outputs: Vec<String> =
        info.map_or_else(Vec::new, |info| info.gateways.into_values().collect());
    if stream != ES_GATEWAY
        && let Some(output) = find(bus, ES_GATEWAY).await?
        && output
            .config
            .metadata
            .get(FILLED_FROM)
            .is_some_and(|from| from == stream)
    {
        outputs.push(ES_GATEWAY.to_owned());
    }
    outputs.sort();
    outputs.dedup();
    Ok(outputs)
}

fn choice(stream: &str, outputs: Vec<String>, before: Option<String>) -> Result<String, Error> {
    match (&outputs[..], before) {
        ([], None) => Ok(stream.to_owned()),
        ([], Some(output)) => Err(Error::FilterGone {
            stream: stream.to_owned(),
            output,
        }),
        (_, Some(output)) if outputs.contains(&output) => Ok(output),
        ([output], _) => Ok(output.clone()),
        _ => Err(Error::SeveralGateways {
            stream: stream.to_owned(),
            outputs: outputs.join(", "),
        }),
    }
}

async fn remembered(place: &Place) -> Result<Option<(u64, String)>, Error> {
    let entry = place.store.entry(&place.key).await;
    let entry = entry.map_err(|error| Error::request(format!("reading {}", place.key), error))?;
    Ok(entry
        .filter(|entry| entry.operation == async_nats::jetstream::kv::Operation::Put)
        .map(|entry| {
            let output = String::from_utf8_lossy(&entry.value).into_owned();
            (entry.revision, output)
        }))
}

async fn remember(place: &Place, output: &str) -> Result<(), Error> {
    if remembered(place)
        .await?
        .is_some_and(|(_, known)| known == output)
    {
        return Ok(());
    }
    let value = output.to_owned().into();
    let put = place.store.put(&place.key, value).await;
    put.map(drop)
        .map_err(|error| Error::request(format!("writing {}", place.key), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(outputs: &[&str], before: Option<&str>) -> Option<String> {
        let outputs = outputs.iter().map(|&output| output.to_owned()).collect();
        choice("ES_CHANGES", outputs, before.map(str::to_owned)).ok()
    }

    #[test]
    fn a_mark_is_followed_and_never_forgotten() {
        let is = |name: &str| Some(name.to_owned());
        assert_eq!(chosen(&[], None), is("ES_CHANGES"));
        assert_eq!(chosen(&["A"], None), is("A"));
        assert_eq!(chosen(&["A"], Some("A")), is("A"));
        assert_eq!(chosen(&["A", "B"], Some("B")), is("B"));
        assert_eq!(chosen(&["B"], Some("A")), is("B"), "by the operator's wish");
        assert_eq!(chosen(&[], Some("A")), None, "never around the filter");
        assert_eq!(chosen(&["A", "B"], None), None, "it is not known which");
    }
}
