//! Taking away what only the target has.
//!
//! Such a document was deleted at the source where no watcher could know. It is deleted with the
//! version it has at the target, read *before* it is looked for at the source once more: whatever
//! creates it again afterwards comes with a higher version, and survives, whether it arrives before
//! the delete or after.

use bytes::BytesMut;
use model::{Action, Change, Version, wire};
use search::MgetOptions;

use crate::{Side, VerifyError, index::SideIndex, suspect::Suspect};

/// Deletes those of the documents that the source still does not have. Returns how many.
pub(crate) async fn delete_extra(
    source: &SideIndex,
    target: &SideIndex,
    extra: &[&Suspect],
) -> Result<u64, VerifyError> {
    if extra.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = extra
        .iter()
        .map(|suspect| (&suspect.id, suspect.routing.as_deref()))
        .collect();
    // With the documents: without them servers do not say the routing either.
    let options = MgetOptions {
        source: true,
        node: None,
    };
    let at_target = target
        .patiently(|| target.client.mget(&target.name, &ids, options))
        .await?;
    let at_source = source
        .patiently(|| source.client.mget(&source.name, &ids, options))
        .await?;
    let deletes: Vec<Change> = ids
        .iter()
        .zip(at_target.iter().zip(&at_source))
        .filter(|((_, routing), (target, source))| {
            let is_it = |found: &search::Found| found.found && found.routing.as_deref() == *routing;
            is_it(target) && !is_it(source)
        })
        .filter_map(|((id, routing), (target, _))| {
            Some(Change {
                id: (*id).clone(),
                routing: routing.map(Into::into),
                version: Version::try_from(target.version?).ok()?,
                action: Action::Delete,
            })
        })
        .collect();
    if deletes.is_empty() {
        return Ok(0);
    }
    let mut body = BytesMut::new();
    for delete in &deletes {
        wire::write_change(&mut body, delete);
    }
    let body = body.freeze();
    let items = target
        .client
        .bulk(&target.name, body, deletes.len(), None)
        .await
        .map_err(|error| VerifyError::search(Side::Target, &target.name, error))?;
    // A conflict is a document that was written meanwhile: it is none of these any more.
    Ok(items.iter().filter(|item| item.error.is_none()).count() as u64)
}
