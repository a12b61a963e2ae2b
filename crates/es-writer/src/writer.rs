//! A search cluster as a [`Writer`].

use std::{pin::Pin, time::Duration};

use bytes::BytesMut;
use model::{Change, IndexDefinition, IndexName, wire};
use pipeline::{Fault, Outcome, Writer};
use search::{Client, Error, Item, retry};

/// Kept of a reader's tenure when a bulk is given its deadline: the answer must be here before its
/// end.
const MARGIN: Duration = Duration::from_millis(200);

/// Writes by `_bulk`, with external versions and an outcome for each document.
#[derive(Debug, Clone)]
pub struct SearchWriter {
    client: Client,
}

impl SearchWriter {
    /// A writer into `client`'s cluster.
    pub fn new(client: Client) -> SearchWriter {
        SearchWriter { client }
    }

    /// Writes a bulk; one that the cluster finds too large is written in halves.
    fn bulk<'a>(
        &'a self,
        index: &'a IndexName,
        changes: &'a [&'a Change],
        deadline: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Outcome>, Error>> + Send + 'a>> {
        Box::pin(async move {
            let mut body = BytesMut::with_capacity(changes.iter().map(|c| c.size()).sum());
            for change in changes {
                wire::write_change(&mut body, change);
            }
            let answer = self
                .client
                .bulk(index, body.freeze(), changes.len(), deadline)
                .await;
            match answer {
                Ok(items) => Ok(items.into_iter().zip(changes).map(outcome).collect()),
                Err(error @ Error::TooLarge { .. }) if changes.len() == 1 => {
                    Ok(vec![Outcome::Refused(error.to_string())])
                }
                Err(Error::TooLarge { .. }) => {
                    let (first, second) = changes.split_at(changes.len() / 2);
                    let mut outcomes = self.bulk(index, first, deadline).await?;
                    outcomes.extend(self.bulk(index, second, deadline).await?);
                    Ok(outcomes)
                }
                Err(error) => Err(error),
            }
        })
    }
}

impl Writer for SearchWriter {
    async fn write(
        &self,
        index: &IndexName,
        changes: &[&Change],
        deadline: Option<Duration>,
    ) -> Result<Vec<Outcome>, Fault> {
        let deadline = deadline.map(|rest| rest.saturating_sub(MARGIN).max(MARGIN / 4));
        self.bulk(index, changes, deadline).await.map_err(fault)
    }

    async fn define(&self, index: &IndexName, definition: &IndexDefinition) -> Result<(), Fault> {
        let creation = self
            .client
            .create_index(index, definition)
            .await
            .map_err(fault)?;
        if creation.outcome == search::Outcome::Created {
            tracing::info!(%index, like = %definition.product, "created index");
            for left_out in creation.left_out {
                tracing::debug!(%index, ?left_out, "a setting of the source is left out");
            }
        }
        Ok(())
    }
}

fn outcome((item, change): (Item, &&Change)) -> Outcome {
    let Some(error) = item.error else {
        return Outcome::Applied; // a delete of what is not there (404) comes without an error
    };
    let reason = || format!("{}: {} (status {})", error.kind, error.reason, item.status);
    match (item.status, retry::classify_item(item.status, &error.kind)) {
        (409, _) => Outcome::AlreadyApplied,
        (_, retry::Decision::Retry) => Outcome::Retry(reason()),
        // The index is gone, or may not be created by writing: somebody can still create it.
        (404, _) if error.kind == "index_not_found_exception" => Outcome::Retry(reason()),
        (_, retry::Decision::Fatal) => {
            tracing::debug!(id = %change.id, reason = reason(), "refused");
            Outcome::Refused(reason())
        }
    }
}

/// What a failure of a whole request means for the writer.
fn fault(error: Error) -> Fault {
    match retry::classify(&error) {
        retry::Decision::Retry => Fault::retry(error),
        retry::Decision::Fatal => Fault::fatal(error),
    }
}

#[cfg(test)]
mod tests {
    use model::{Action, DocumentId, Epoch, Version};

    use super::*;

    fn of(item: &str) -> Outcome {
        let item: Item = serde_json::from_str(item).unwrap();
        let change = Change {
            id: DocumentId::try_from("1").unwrap(),
            routing: None,
            version: Version::new(Epoch(0), 1).unwrap(),
            action: Action::Delete,
        };
        outcome((item, &&change))
    }

    #[test]
    fn every_answer_of_a_bulk_has_its_outcome() {
        assert_eq!(of(r#"{"status":201}"#), Outcome::Applied);
        assert_eq!(of(r#"{"status":404}"#), Outcome::Applied);
        let answer = |status: u16, kind: &str| {
            of(&format!(
                r#"{{"status":{status},"error":{{"type":"{kind}","reason":"why"}}}}"#
            ))
        };
        assert_eq!(
            answer(409, "version_conflict_engine_exception"),
            Outcome::AlreadyApplied
        );
        assert!(matches!(
            answer(429, "es_rejected_execution_exception"),
            Outcome::Retry(_)
        ));
        assert!(matches!(
            answer(503, "unavailable_shards_exception"),
            Outcome::Retry(_)
        ));
        assert!(matches!(
            answer(403, "cluster_block_exception"),
            Outcome::Retry(_)
        ));
        assert!(matches!(
            answer(404, "index_not_found_exception"),
            Outcome::Retry(_)
        ));
        assert_eq!(
            answer(400, "mapper_parsing_exception"),
            Outcome::Refused("mapper_parsing_exception: why (status 400)".into())
        );
    }
}
