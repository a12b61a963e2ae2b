//! A search cluster as a [`Writer`].

use std::{pin::Pin, sync::Arc, time::Duration};

use bus::Lineages;
use bytes::BytesMut;
use futures::future::BoxFuture;
use model::{Change, IndexDefinition, IndexName, Lineage, Version, wire};
use pipeline::{Fault, Outcome, Tenure, Writer};
use search::{Choices, Client, Error, Existing, Item, Mark, Plan, retry};

use crate::{clear, positions::Positions};

/// Kept of a reader's tenure when a bulk is given its deadline: the answer must be here before its
/// end.
const MARGIN: Duration = Duration::from_millis(200);

/// What a server says of a name that is an alias or a data stream.
const NO_INDEX: [&str; 2] = [
    "no write index is defined for alias",
    "are allowed in data streams",
];

/// How many differences of an index are told.
const MOST_TOLD: usize = 10;

/// Writes by `_bulk`, with external versions and an outcome for each document.
#[derive(Debug, Clone)]
pub struct SearchWriter {
    pub(crate) client: Client,
    told: Option<Arc<dyn Told>>,
    choices: Choices,
    pub(crate) positions: Arc<Positions>,
}

/// Hears which epochs a target holds.
pub trait Told: std::fmt::Debug + Send + Sync + 'static {
    /// Remembers them, so that the source begins above.
    fn tell<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<(), Fault>>;
}

impl Told for Lineages {
    fn tell<'a>(&'a self, lineage: &'a Lineage) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.merge(lineage).await?;
            Ok(())
        })
    }
}

impl SearchWriter {
    /// A writer into `client`'s cluster.
    pub fn new(client: Client) -> SearchWriter {
        SearchWriter {
            client,
            told: None,
            choices: Choices::default(),
            positions: Arc::default(),
        }
    }

    /// Follows the source as somebody has chosen.
    pub fn choosing(self, choices: Choices) -> SearchWriter {
        SearchWriter { choices, ..self }
    }

    /// Tells whoever hands out epochs when the target holds higher ones than a source gives.
    pub fn telling(self, told: impl Told) -> SearchWriter {
        SearchWriter {
            told: Some(Arc::new(told)),
            ..self
        }
    }

    /// Where an index comes from then, if it may come from there.
    async fn descend(
        &self,
        index: &IndexName,
        known: Option<&Lineage>,
        said: &Lineage,
    ) -> Result<Lineage, Fault> {
        let known = known.cloned().unwrap_or_default();
        let joined = known.join(said).map_err(|reason| {
            Fault::fatal(format!(
                "index {index} of the target: {reason}; give each source an index of its own at the target, or, if the \
                 source has moved there, delete `syncline` from the `_meta` of the index's mapping"
            ))
        })?;
        if joined.is_ahead {
            tracing::warn!(
                %index,
                "the target holds a higher epoch than the source gives, as after the loss of the source's checkpoints"
            );
            match &self.told {
                Some(told) => told.tell(&joined.lineage).await?,
                None => {
                    return Err(Fault::fatal(format!(
                        "another process has filled index {index} of the target meanwhile: stop that one and run this again"
                    )));
                }
            }
        }
        Ok(joined.lineage)
    }

    /// Creates an index that is not there.
    async fn create(
        &self,
        index: &IndexName,
        definition: &IndexDefinition,
        plan: &Plan,
        lineage: Option<Lineage>,
    ) -> Result<Existing, Fault> {
        let mark = Mark {
            lineage,
            settings: plan.given.clone(),
            columns: plan.columns.clone(),
            ..Mark::default()
        };
        let created = self.client.create_index(index, definition, &mark).await;
        let creation = created.map_err(fault)?;
        if creation.outcome == search::Outcome::AlreadyThere {
            return Err(Fault::retry(format!(
                "somebody else has created index {index} of the target meanwhile"
            )));
        }
        tracing::info!(%index, like = %definition.product, "created index");
        for left_out in creation.left_out {
            tracing::debug!(%index, ?left_out, "a setting of the source is left out");
        }
        Ok(Existing {
            definition: definition.clone(),
            mark,
        })
    }

    /// Writes a bulk; one that the cluster finds too large is written in halves.
    pub(crate) fn bulk<'a>(
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

    async fn define(
        &self,
        index: &IndexName,
        definition: &IndexDefinition,
    ) -> Result<usize, Fault> {
        let client = &self.client;
        let existing = client.existing(index).await.map_err(fault)?;
        let plan = client.plan_for(index, definition, existing.as_ref(), self.choices);
        let plan = plan.map_err(fault)?;
        let known = existing
            .as_ref()
            .and_then(|there| there.mark.lineage.as_ref());
        let lineage = match &definition.lineage {
            Some(said) => Some(self.descend(index, known, said).await?),
            None => None,
        };
        let existing = match existing {
            Some(existing) => existing,
            None => {
                self.create(index, definition, &plan, lineage.clone())
                    .await?
            }
        };
        if !plan.added.is_empty() {
            tracing::info!(%index, fields = plan.added.join(", "), "adding fields to the mapping");
        }
        if !plan.settings.is_empty() {
            let settings: Vec<&str> = plan.settings.keys().map(String::as_str).collect();
            tracing::info!(%index, settings = settings.join(", "), "settings follow the source");
        }
        let drift = client.carry_out(index, &existing, &plan, lineage).await;
        let drift = drift.map_err(fault)?;
        for drift in drift.iter().take(MOST_TOLD) {
            tracing::warn!(%index, "{drift}; it stays so");
        }
        Ok(drift.len())
    }

    async fn clear(&self, index: &IndexName, upto: Version, tenure: &Tenure) -> Result<(), Fault> {
        let removed = clear::clear(self, index, upto, tenure).await?;
        if removed > 0 {
            tracing::info!(%index, %upto, documents = removed, "removed what is gone at the source");
        }
        Ok(())
    }

    async fn reached(&self, indices: &[(IndexName, Version)]) -> Result<(), Fault> {
        self.positions.tell(self, indices).await
    }
}

fn outcome((item, change): (Item, &&Change)) -> Outcome {
    let Some(error) = item.error else {
        return Outcome::Applied; // a delete of what is not there (404) comes without an error
    };
    let reason = || format!("{}: {} (status {})", error.kind, error.reason, item.status);
    match (item.status, retry::classify_item(item.status, &error.kind)) {
        (409, _) => match error.held_version() {
            Some(held) if held > change.version.get() => Outcome::Superseded(held),
            _ => Outcome::AlreadyApplied,
        },
        (_, retry::Decision::Retry) => Outcome::Retry(reason()),
        // The index is gone, or may not be created by writing: somebody can still create it.
        (404, _) if error.kind == "index_not_found_exception" => Outcome::Retry(reason()),
        // Something else has its name, which says nothing of the document.
        (400, _) if NO_INDEX.iter().any(|sign| error.reason.contains(sign)) => {
            Outcome::Retry(reason())
        }
        (_, retry::Decision::Fatal) => {
            tracing::debug!(id = %change.id, reason = reason(), "refused");
            Outcome::Refused(reason())
        }
    }
}

/// What a failure of a whole request means for the writer.
pub(crate) fn fault(error: Error) -> Fault {
    match (retry::classify(&error), &error) {
        // Somebody can open it again.
        (retry::Decision::Retry, _) | (_, Error::IndexClosed { .. }) => Fault::retry(error),
        (retry::Decision::Fatal, _) => Fault::fatal(error),
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
            over: false,
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
        let conflict = |held: u64| {
            of(&format!(
                r#"{{"status":409,"error":{{"type":"version_conflict_engine_exception",
                "reason":"[1]: version conflict, current version [{held}] is higher or equal to the one provided [1]"}}}}"#
            ))
        };
        assert_eq!(conflict(1), Outcome::AlreadyApplied);
        assert_eq!(conflict(9), Outcome::Superseded(9));
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
        for reason in [
            "no write index is defined for alias [a]. The write index may be explicitly disabled using is_write_index=false",
            "only write ops with an op_type of create are allowed in data streams",
        ] {
            let item = format!(
                r#"{{"status":400,"error":{{"type":"illegal_argument_exception","reason":"{reason}"}}}}"#
            );
            assert!(matches!(of(&item), Outcome::Retry(_)), "{reason}");
        }
        assert_eq!(
            answer(400, "mapper_parsing_exception"),
            Outcome::Refused("mapper_parsing_exception: why (status 400)".into())
        );
    }
}
