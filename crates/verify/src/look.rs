//! Looking at documents again by their ids, which sees every write that was acknowledged.

use bytes::Bytes;
use futures::future::try_join;
use model::IndexName;
use search::{Found, Hit, MgetOptions};

use crate::{
    By, Side, VerifyError, digest::Digester, index::SideIndex, lens::look_through, rule::Rule,
    source::Source, suspect::Suspect,
};

/// How many documents are looked at together, at most, where a cluster has them ...
pub(crate) const BATCH: usize = 256;
/// ... and how large they may be together, in bytes.
const BATCH_BYTES: usize = 2 << 20;

/// Cuts suspects into batches that can be looked at together; those of one id stay together.
pub(crate) fn batches(suspects: &[Suspect], most: usize) -> Vec<&[Suspect]> {
    let (mut batches, mut start, mut end, mut bytes) = (Vec::new(), 0, 0, 0);
    for same_id in suspects.chunk_by(|one, other| one.id == other.id) {
        let more: usize = same_id.iter().map(|suspect| suspect.bytes).sum();
        let full = end - start + same_id.len() > most || bytes + more > BATCH_BYTES;
        if full && end > start {
            batches.push(&suspects[start..end]);
            (start, bytes) = (end, 0);
        }
        (end, bytes) = (end + same_id.len(), bytes + more);
    }
    batches.extend((end > start).then(|| &suspects[start..end]));
    batches
}

/// What both sides have of a document.
pub(crate) struct Looked {
    /// With what it is compared by now.
    pub(crate) suspect: Suspect,
    pub(crate) source: Option<Seen>,
    pub(crate) target: Option<Seen>,
}

/// A document as one side has it.
pub(crate) struct Seen {
    digest: u128,
    /// The source's `_seq_no`, the target's `_version`.
    pub(crate) number: u64,
    /// Its content, where that is compared.
    pub(crate) json: Bytes,
}

/// Looks at a batch, all at once; in the same order.
pub(crate) async fn look(
    source: &Source,
    target: &SideIndex,
    rule: Rule,
    suspects: &[Suspect],
) -> Result<Vec<Looked>, VerifyError> {
    let content = rule.by == By::Content;
    let at_target = find(target, suspects, content);
    let (at_source, at_target) = try_join(source.find(suspects, content), at_target).await?;
    let at_source = seen((Side::Source, source.name()), rule, suspects, at_source)?;
    let at_target = seen((Side::Target, &target.name), rule, suspects, at_target)?;
    let looked = suspects.iter().zip(at_source.into_iter().zip(at_target));
    Ok(looked
        .map(|(suspect, (source, target))| Looked {
            suspect: Suspect {
                source: source.as_ref().map(|seen| seen.digest),
                target: target.as_ref().map(|seen| seen.digest),
                ..suspect.clone()
            },
            source,
            target,
        })
        .collect())
}

/// The documents that were found on a side; none where there is none of this id with this routing.
fn seen(
    (side, index): (Side, &IndexName),
    rule: Rule,
    suspects: &[Suspect],
    found: Vec<Found>,
) -> Result<Vec<Option<Seen>>, VerifyError> {
    let mut digester = Digester::default();
    let seen = found.into_iter().zip(suspects);
    seen.map(|(found, suspect)| {
        if !is_it(&found, suspect) {
            return Ok(None);
        }
        let hit = Hit {
            id: suspect.id.clone(),
            routing: None,
            seq_no: found.seq_no.unwrap_or(u64::MAX),
            version: found.version.unwrap_or(u64::MAX),
            source: found.source.unwrap_or_default(),
        };
        let digest = rule.digest(side, &hit, &mut digester);
        Ok(Some(Seen {
            digest: digest.map_err(|error| VerifyError::Document {
                side,
                index: index.to_string(),
                id: suspect.id.to_string(),
                error,
            })?,
            number: match side {
                Side::Source => hit.seq_no,
                Side::Target => hit.version,
            },
            json: hit.source,
        }))
    })
    .collect()
}

/// Looks documents up, each with its routing.
pub(crate) async fn find(
    index: &SideIndex,
    suspects: &[Suspect],
    content: bool,
) -> Result<Vec<Found>, VerifyError> {
    if !index.exists {
        return Ok(suspects.iter().map(|_| Found::default()).collect());
    }
    let wanted: Vec<_> = suspects
        .iter()
        .map(|suspect| (&suspect.id, suspect.routing.as_deref()))
        .collect();
    // What a lens makes of a document only its content says.
    let content = content || index.lens.is_some();
    let options = MgetOptions {
        source: content,
        routing: !content,
        node: None,
    };
    index.throttle.take(suspects.len()).await;
    let found = index
        .patiently(|| index.client.mget(&index.name, &wanted, options))
        .await?;
    let found = found.into_iter().zip(suspects);
    Ok(found
        .map(|(found, suspect)| look_through(index.lens.as_deref(), &suspect.id, found))
        .collect())
}

/// A look-up finds the document of this id in the shard that the routing leads to, also if it was
/// written with another routing: that is another document.
pub(crate) fn is_it(found: &Found, suspect: &Suspect) -> bool {
    found.found && found.routing.as_deref() == suspect.routing.as_deref()
}

#[cfg(test)]
mod tests {
    use model::DocumentId;

    use super::*;

    #[test]
    fn batches_hold_every_suspect_once_and_never_part_those_of_one_id() {
        for (ids, bytes) in [(1, 10), (3, 10), (1, 1 << 20), (300, 0), (2, 5 << 20)] {
            let suspects: Vec<Suspect> = (0..1_000)
                .map(|n| Suspect {
                    id: DocumentId::try_from((n / ids).to_string().as_str()).unwrap(),
                    routing: Some(n.to_string().into()),
                    source: None,
                    target: None,
                    bytes,
                })
                .collect();
            let batches = batches(&suspects, BATCH);
            assert_eq!(batches.concat(), suspects);
            for pair in batches.windows(2) {
                assert_ne!(pair[0].last().unwrap().id, pair[1][0].id);
            }
            let fits = |batch: &&[Suspect]| {
                batch.len() <= BATCH && batch.len() * bytes <= BATCH_BYTES
                    || batch[0].id == batch[batch.len() - 1].id
            };
            assert!(batches.iter().all(fits), "{ids} {bytes}");
        }
        assert!(batches(&[], BATCH).is_empty());
    }
}
