//! The second look at documents that differed in a scan: they may have been on their way.
//!
//! A document is read again on both sides by its id, which sees every write that was acknowledged.
//! Only what stands still counts as a difference: two looks in a row, the scan being the first,
//! that saw the same two sides. What still changes is looked at again after a pause.

use std::time::Duration;

use bytes::Bytes;
use search::{Found, MgetOptions};

use crate::{VerifyError, digest::Digester, index::SideIndex, suspect::Suspect};

/// The pauses before the looks.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// A document that differs, with what both sides have.
pub(crate) struct Confirmed {
    pub(crate) suspect: Suspect,
    pub(crate) source: Option<Bytes>,
    pub(crate) target: Option<Bytes>,
}

/// Those of the suspects that differ indeed, in the same order. They are read all at once.
pub(crate) async fn confirm(
    source: &SideIndex,
    target: &SideIndex,
    suspects: Vec<Suspect>,
) -> Result<Vec<Confirmed>, VerifyError> {
    let mut confirmed = Vec::new();
    let mut open: Vec<(usize, Suspect)> = suspects.into_iter().enumerate().collect();
    for (look, pause) in PAUSES.into_iter().enumerate() {
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        let both = futures::future::try_join(read(source, &open), read(target, &open)).await?;
        let last = look + 1 == PAUSES.len();
        let mut moving = Vec::new();
        for ((place, mut suspect), (at_source, at_target)) in open.into_iter().zip(zip(both)) {
            let before = (suspect.source, suspect.target);
            suspect.source = at_source.as_ref().map(|seen| seen.digest);
            suspect.target = at_target.as_ref().map(|seen| seen.digest);
            if !suspect.differs() {
                continue;
            }
            if last || before == (suspect.source, suspect.target) {
                let [source, target] = [at_source, at_target].map(|seen| seen.map(|s| s.json));
                confirmed.push((
                    place,
                    Confirmed {
                        suspect,
                        source,
                        target,
                    },
                ));
            } else {
                moving.push((place, suspect));
            }
        }
        open = moving;
    }
    confirmed.sort_by_key(|(place, _)| *place);
    Ok(confirmed
        .into_iter()
        .map(|(_, confirmed)| confirmed)
        .collect())
}

fn zip<T>((one, other): (Vec<T>, Vec<T>)) -> impl Iterator<Item = (T, T)> {
    one.into_iter().zip(other)
}

/// A document as it is now.
struct Seen {
    digest: u128,
    json: Bytes,
}

/// Reads the documents on one side; none where there is none of this id with this routing.
async fn read(
    index: &SideIndex,
    suspects: &[(usize, Suspect)],
) -> Result<Vec<Option<Seen>>, VerifyError> {
    if !index.exists {
        return Ok(suspects.iter().map(|_| None).collect());
    }
    let wanted: Vec<_> = suspects
        .iter()
        .map(|(_, suspect)| (&suspect.id, suspect.routing.as_deref()))
        .collect();
    let options = MgetOptions {
        source: true,
        node: None,
    };
    let found = index
        .patiently(|| index.client.mget(&index.name, &wanted, options))
        .await?;
    let mut digester = Digester::default();
    let seen = found.into_iter().zip(&wanted);
    seen.map(|(found, (id, routing))| {
        let Some(json) = json(found, *routing) else {
            return Ok(None);
        };
        match digester.digest(&json) {
            Ok(digest) => Ok(Some(Seen { digest, json })),
            Err(error) => Err(VerifyError::Document {
                side: index.side,
                index: index.name.to_string(),
                id: id.to_string(),
                error,
            }),
        }
    })
    .collect()
}

/// A look-up finds the document of this id in the shard that the routing leads to, also if it was
/// written with another routing: that is another document.
fn json(found: Found, routing: Option<&str>) -> Option<Bytes> {
    found
        .source
        .filter(|_| found.found && found.routing.as_deref() == routing)
}
