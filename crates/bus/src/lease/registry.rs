//! Which readers a stream has.

use std::time::Duration;

use futures::TryStreamExt;

use model::now_ms;

use super::record::{Place, Record, Role, readers_of, store as open};
use crate::{Bus, Error, StreamInfo, reader::stands, stream};

/// A registered reader of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderStatus {
    /// Its name.
    pub consumer: String,
    /// Everything up to here is settled by it; 0 where its floor belongs to an earlier stream of the
    /// same name, or to an end that the stream has lost.
    pub floor: u64,
    /// Above here it may read again: at the floor or, for a reader that passes on what it reads into a
    /// stream that could lose its end, some minutes below.
    pub kept: u64,
    /// Who reads, or did last.
    pub holder: String,
    /// Whether it says that it is reading. A holder that was killed still says so.
    pub held: bool,
    /// How long ago its record was written, as far as the clocks agree.
    pub silent_for: Duration,
    /// What of the stream it reads; all when empty.
    pub filter_subjects: Vec<String>,
}

impl ReaderStatus {
    /// Whether it reads what stands under a subject.
    pub fn reads(&self, subject: &str) -> bool {
        let mut filters = self.filter_subjects.iter();
        self.filter_subjects.is_empty() || filters.any(|filter| stream::covers(filter, subject))
    }
}

/// The readers whose unread messages a stream keeps.
///
/// # Errors
/// When the server does not answer or a record cannot be read.
pub async fn readers(bus: &Bus, stream: &StreamInfo) -> Result<Vec<ReaderStatus>, Error> {
    let Some(store) = open(bus, bus.jetstream()).await? else {
        return Ok(Vec::new());
    };
    let Some(now) = stream::info(bus, &stream.name).await? else {
        return Ok(Vec::new());
    };
    let what = || format!("listing the readers of {}", stream.name);
    let subjects = format!("{}{}*", store.prefix, readers_of(&stream.name));
    let listing = store.stream.info_with_subjects(subjects).await;
    let listing = listing.map_err(|error| Error::request(what(), error))?;
    let subjects: Vec<(String, usize)> = listing
        .try_collect()
        .await
        .map_err(|error| Error::request(what(), error))?;
    let mut readers = Vec::with_capacity(subjects.len());
    for (subject, _) in subjects {
        let key = subject
            .strip_prefix(&store.prefix)
            .unwrap_or(&subject)
            .to_owned();
        let place = Place {
            bus: bus.clone(),
            store: store.clone(),
            key,
        };
        match place.read().await? {
            None => return Err(Error::request(what(), "the server does not answer")),
            Some((_, None)) => {}
            Some((_, Some(record))) => {
                // Until the reader has noticed it, its record names numbers that the stream gives again.
                let stands =
                    now.created == stream.created && stands(bus, &now, &record.mark).await?;
                readers.push(status(record, stands));
            }
        }
    }
    Ok(readers)
}

fn status(record: Record, stands: bool) -> ReaderStatus {
    ReaderStatus {
        consumer: record.name,
        floor: if stands { record.mark.floor } else { 0 },
        kept: if stands { record.mark.kept() } else { 0 },
        holder: record.holder,
        held: record.held,
        silent_for: Duration::from_millis(now_ms().saturating_sub(record.updated)),
        filter_subjects: record.mark.filter_subjects,
    }
}

/// Removes a reader that will never come back: it holds back the purge no more, and one of its name
/// would begin at the stream's first message.
///
/// # Errors
/// When the server does not answer.
pub async fn forget_reader(bus: &Bus, stream: &str, consumer: &str) -> Result<(), Error> {
    let Some(store) = open(bus, bus.jetstream()).await? else {
        return Ok(());
    };
    let key = Role::Reader(consumer.to_owned()).key(stream);
    let what = || format!("removing the record {key}");
    store
        .delete(&key)
        .await
        .map_err(|error| Error::request(what(), error))
}
