//! Making documents of the target those of the source, with versions that let all that is to come
//! win.
//!
//! A document is read from the source again and written with the version that its change has:
//! whatever the writer brings meanwhile is the same or newer, and survives. Where the target holds
//! a version that is not below (somebody wrote there), it is written over that version with that
//! version: then the source's content is there, and its next change, whose number is higher, comes
//! through as a rule.
//!
//! A document that only the target has was deleted at the source where no watcher could know. It
//! is deleted with the version it has at the target, read *before* it is looked for at the source
//! once more: whatever creates it again afterwards comes with a higher version, and survives,
//! whether it arrives before the delete or after.

use bytes::{Bytes, BytesMut};
use model::{Action, Change, Document, Epoch, Version, wire};
use search::{Error, Found, Item, Mark, Outcome, retry};

use crate::{
    VerifyError,
    index::{Patience, SideIndex},
    look::{find, is_it},
    source::Source,
    suspect::Suspect,
};

/// Why a document that the target does not have is in conflict with one there.
const TOMBSTONE: &str = "it was deleted at the target a moment ago, with a version that the target \
    remembers for a minute (index.gc_deletes); repair it again then";

/// What is done about differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    No,
    /// Nothing, but all of them are found, and what would be done is said.
    Plan,
    /// What only the target has is deleted there.
    Extra,
    /// All that differs is made equal.
    All,
}

/// What came of writing documents.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) written: u64,
    /// Those of the written that had a version at the target that their change is not above.
    pub(crate) foreign: u64,
    /// Documents that the target did not take, by their place among the suspects, and why.
    pub(crate) refused: Vec<(usize, String)>,
    /// The size of what was read of the source.
    pub(crate) bytes: usize,
}

/// An index at the target like the source's.
pub(crate) async fn create(source: &Source, target: &SideIndex) -> Result<(), VerifyError> {
    let definition = source.definition().await?;
    let mark = Mark::default();
    let created = target
        .patiently(|| target.client.create_index(&target.name, &definition, &mark))
        .await?;
    if created.outcome == Outcome::Created {
        tracing::info!(index = %target.name, like = %definition.product, "created index");
    }
    Ok(())
}

/// The epoch that what is written gets: that of the target's documents, or, where the source says which
/// history its positions belong to, that which the target's index was given for it.
pub(crate) async fn epoch(
    source: &Source,
    target: &SideIndex,
    usual: Epoch,
) -> Result<Epoch, VerifyError> {
    let Source::Collection(side) = source else {
        return Ok(usual);
    };
    let (said, history) = side.collection.origin();
    let lineage = target.patiently(|| target.client.lineage(&target.name));
    match lineage.await? {
        Some(known) if known.source != said => Err(VerifyError::Elsewhere {
            index: target.name.to_string(),
            known: known.source,
            said,
        }),
        known => Ok(known
            .and_then(|known| known.epoch_of(&history))
            .unwrap_or(usual)),
    }
}

/// Writes those of the documents that the source still has.
pub(crate) async fn write(
    source: &Source,
    target: &SideIndex,
    epoch: Epoch,
    suspects: &[Suspect],
) -> Result<Written, VerifyError> {
    // In this order: what the target has of ours is then not newer than what the source has.
    let held = find(target, suspects, false).await?;
    let wanted = source.find_to_repair(suspects, true).await?;
    let mut written = Written::default();
    let mut writes = Vec::new();
    for (place, suspect) in suspects.iter().enumerate() {
        written.bytes += wanted[place].source.as_ref().map_or(0, Bytes::len);
        if !is_it(&wanted[place], suspect) {
            continue; // it was deleted meanwhile
        }
        if let Some(write) = Write::of(place, suspect, &wanted[place], &held[place], epoch) {
            writes.push(write);
        }
    }
    for (write, refusal) in send(target, &writes).await? {
        match refusal {
            None => {
                written.written += 1;
                written.foreign += u64::from(write.change.over);
            }
            // Something newer has come meanwhile: it is as it should be, or the next look says so.
            Some(Refusal { status: 409, .. }) if held[write.place].found => {}
            Some(Refusal { status: 409, .. }) => {
                written.refused.push((write.place, TOMBSTONE.to_owned()));
            }
            Some(refusal) => written.refused.push((write.place, refusal.reason)),
        }
    }
    Ok(written)
}

/// Deletes those of the documents that the source still does not have. Returns how many.
pub(crate) async fn delete(
    source: &Source,
    target: &SideIndex,
    suspects: &[Suspect],
) -> Result<u64, VerifyError> {
    let held = find(target, suspects, false).await?;
    let wanted = source.find_to_repair(suspects, false).await?;
    let extra = suspects.iter().zip(held.iter().zip(&wanted)).enumerate();
    let deletes: Vec<Write> = extra
        .filter(|(_, (suspect, (held, wanted)))| is_it(held, suspect) && !is_it(wanted, suspect))
        .filter_map(|(place, (suspect, (held, _)))| {
            let version = Version::try_from(held.version?).ok()?;
            Some(Write::new(place, suspect, version, Action::Delete, false))
        })
        .collect();
    let outcomes = send(target, &deletes).await?;
    // A conflict is a document that was written meanwhile: it is none of these any more.
    Ok(outcomes
        .iter()
        .filter(|(_, refusal)| refusal.is_none())
        .count() as u64)
}

/// One line, or two, of a bulk.
struct Write {
    place: usize,
    change: Change,
}

impl Write {
    fn new(place: usize, suspect: &Suspect, version: Version, action: Action, over: bool) -> Write {
        let change = Change {
            id: suspect.id.clone(),
            routing: suspect.routing.clone(),
            version,
            over,
            action,
        };
        Write { place, change }
    }

    /// The source's document for the target. Nothing where a server said no numbers, or ones that
    /// are no version.
    fn of(
        place: usize,
        suspect: &Suspect,
        wanted: &Found,
        held: &Found,
        epoch: Epoch,
    ) -> Option<Write> {
        let document = Document::from_json(wanted.source.clone()?);
        let own = Version::new(epoch, wanted.seq_no?).ok()?;
        // Of any routing: what lies in the shard under this id is what is replaced.
        let held = held.version.filter(|_| held.found);
        let held = held.and_then(|version| Version::try_from(version).ok());
        let (version, over) = match held {
            Some(held) if held >= own => (held, true),
            _ => (own, false),
        };
        Some(Write::new(
            place,
            suspect,
            version,
            Action::Index(document),
            over,
        ))
    }
}

/// Why an action was refused.
struct Refusal {
    status: u16,
    kind: String,
    reason: String,
}

impl Refusal {
    fn of(item: Item) -> Option<Refusal> {
        let (status, error) = (item.status, item.error?);
        Some(Refusal {
            reason: format!("{}: {} (status {status})", error.kind, error.reason),
            kind: error.kind,
            status,
        })
    }
}

/// Sends writes until each has its outcome. What passes by itself is tried again, which is safe:
/// every write has a version.
async fn send<'a>(
    target: &SideIndex,
    writes: &'a [Write],
) -> Result<Vec<(&'a Write, Option<Refusal>)>, VerifyError> {
    let mut outcomes = Vec::new();
    let mut open: Vec<Vec<&Write>> = vec![writes.iter().collect()];
    let mut patience = Patience::new();
    while let Some(mut bulk) = open.pop() {
        if bulk.is_empty() {
            continue;
        }
        let answer = target
            .client
            .bulk(&target.name, body(&bulk), bulk.len(), None)
            .await;
        let items = match answer {
            Ok(items) => items,
            Err(Error::TooLarge { .. }) if bulk.len() > 1 => {
                let half = bulk.split_off(bulk.len() / 2);
                open.extend([half, bulk]);
                continue;
            }
            Err(error @ Error::TooLarge { .. }) => {
                let reason = error.to_string();
                let refusal = Refusal {
                    status: 413,
                    kind: String::new(),
                    reason,
                };
                outcomes.push((bulk[0], Some(refusal)));
                continue;
            }
            Err(error) => {
                patience.wait(target, error).await?;
                open.push(bulk);
                continue;
            }
        };
        let mut later = Vec::new();
        let mut why = None;
        for (item, write) in items.into_iter().zip(bulk) {
            match Refusal::of(item) {
                Some(Refusal {
                    status,
                    kind,
                    reason,
                }) if retry::classify_item(status, &kind) == retry::Decision::Retry => {
                    later.push(write);
                    why = Some((status, reason));
                }
                refusal => outcomes.push((write, refusal)),
            }
        }
        if let Some((status, reason)) = why {
            let error = Error::Unavailable {
                host: target.client.server().to_string(),
                request: format!("POST /{}/_bulk", target.name),
                status,
                reason,
            };
            patience.wait(target, error).await?;
            open.push(later);
        }
    }
    Ok(outcomes)
}

fn body(writes: &[&Write]) -> Bytes {
    let mut body = BytesMut::with_capacity(writes.iter().map(|write| write.change.size()).sum());
    for write in writes {
        wire::write_change(&mut body, &write.change);
    }
    body.freeze()
}
