//! Freeing what every reader has settled.
//!
//! A stream with `DiscardNew` only gets room when something is removed, and it is removed here:
//! everything below the lowest floor of the readers that are registered in the bucket `SYNCLINE`. The
//! message *at* the floor stays, because its time tells a reader that starts again whether the
//! stream is still the one it knows. A reader that passes on what it reads keeps more: see
//! [`crate::passed`].

use std::time::Duration;

use tokio::sync::watch;

use crate::{Bus, Error, ReaderStatus, lease, stream};

/// How often a reader purges while its floor moves.
const INTERVAL: Duration = Duration::from_secs(2);
/// A reader that is silent for so long and holds back the purge is worth a warning, again and again.
const SILENT: Duration = Duration::from_secs(3600);

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// How many messages were removed.
    pub removed: u64,
    /// The reader that is furthest behind; `None` where none is registered.
    pub slowest: Option<ReaderStatus>,
}

/// Removes what all registered readers of the stream have settled. A stream without readers keeps
/// everything.
///
/// # Errors
/// When the server does not answer or denies it.
pub async fn purge_settled(bus: &Bus, stream: &str) -> Result<Purged, Error> {
    let Some(info) = stream::info(bus, stream).await? else {
        return Err(Error::StreamMissing {
            stream: stream.to_owned(),
        });
    };
    let readers = lease::readers(bus, &info).await?;
    // What is kept only to be taken back gives way before it stops the publisher.
    let is_full = info.max_bytes.is_some_and(|most| info.bytes > most / 4 * 3);
    let held = |reader: &ReaderStatus| if is_full { reader.floor } else { reader.kept };
    let Some(slowest) = readers.into_iter().min_by_key(held) else {
        return Ok(Purged {
            removed: 0,
            slowest: None,
        });
    };
    let floor = held(&slowest);
    if floor <= info.first_sequence {
        return Ok(Purged {
            removed: 0,
            slowest: Some(slowest),
        });
    }
    let handle = bus.jetstream().get_stream_no_info(stream).await;
    let handle = handle.map_err(|error| stream::get_error(bus, stream, &error))?;
    let purged = handle.purge().sequence(floor).await;
    let purged = purged.map_err(|error| Error::request(format!("purging {stream}"), error))?;
    Ok(Purged {
        removed: purged.purged,
        slowest: Some(slowest),
    })
}

/// Purges every now and then while this reader's stored floor moves.
pub(crate) async fn purge_while_reading(
    bus: Bus,
    stream: String,
    mut stored: watch::Receiver<u64>,
) {
    let mut warned: Option<tokio::time::Instant> = None;
    let mut failing = false;
    while stored.changed().await.is_ok() {
        tokio::time::sleep(INTERVAL).await;
        stored.mark_unchanged();
        match purge_settled(&bus, &stream).await {
            Ok(purged) => {
                failing = false;
                if purged.removed > 0 {
                    tracing::debug!(
                        stream,
                        removed = purged.removed,
                        "removed what all readers have settled"
                    );
                }
                let Some(slowest) = purged.slowest.filter(|slowest| slowest.silent_for > SILENT)
                else {
                    continue;
                };
                if warned.is_none_or(|at| at.elapsed() > SILENT) {
                    warned = Some(tokio::time::Instant::now());
                    tracing::warn!(
                        stream,
                        reader = slowest.consumer,
                        floor = slowest.floor,
                        silent_hours = slowest.silent_for.as_secs() / 3600,
                        "a reader that is not running holds back the purge; if it never comes back, \
                         remove its record from the bucket SYNCLINE"
                    );
                }
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(stream, %error, "cannot remove what all readers have settled");
            }
            Err(_) => {}
        }
    }
}
