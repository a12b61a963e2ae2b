//! Removes what is not above a version: the documents that a source has said are all gone.
//!
//! A search cannot ask for versions, so every document's version is read, without its content, and the
//! older ones are deleted one by one under that version. Until that is done nothing else is written; what is
//! above the version is left alone, so it can be done twice.

use model::{Action, Change, IndexName, Version};
use pipeline::{Fault, Outcome, Tenure};
use search::{Error, Hit, MOST_NUMBERS, ShardStats, Window};

use crate::{SearchWriter, writer::fault};

/// Deletes what is not above `upto`. Returns how much that was.
pub(crate) async fn clear(
    writer: &SearchWriter,
    index: &IndexName,
    upto: Version,
    tenure: &Tenure,
) -> Result<usize, Fault> {
    match writer.client.refresh(index).await {
        Err(Error::IndexNotFound { .. }) => return Ok(0),
        refreshed => refreshed.map_err(fault)?,
    }
    let shards = writer.client.shard_stats(&[index]).await.map_err(fault)?;
    let mut removed = 0;
    for shard in &shards {
        removed += clear_shard(writer, index, shard, upto, tenure).await?;
    }
    let expected = shards_of(writer, index).await?;
    if shards.len() < expected {
        let away = expected - shards.len();
        return Err(Fault::retry(format!(
            "{away} of {expected} primaries of index {index} are away: what they hold cannot be removed yet"
        )));
    }
    Ok(removed)
}

/// How many shards the index has, whether their primaries are there or not.
async fn shards_of(writer: &SearchWriter, index: &IndexName) -> Result<usize, Fault> {
    #[derive(serde::Deserialize)]
    struct Settings {
        number_of_shards: String,
    }
    let definition = writer.client.definition(index).await.map_err(fault)?;
    let settings: Settings =
        serde_json::from_str(definition.settings.get()).map_err(Fault::fatal)?;
    settings.number_of_shards.parse().map_err(Fault::fatal)
}

async fn clear_shard(
    writer: &SearchWriter,
    index: &IndexName,
    shard: &ShardStats,
    upto: Version,
    tenure: &Tenure,
) -> Result<usize, Fault> {
    let (mut after, mut removed) = (-1, 0);
    loop {
        let window = Window {
            index,
            shard: shard.shard,
            node: Some(&shard.node),
            after,
            upto: shard.max_seq_no,
            size: MOST_NUMBERS,
        };
        let page = writer.client.read_headers(&window).await.map_err(fault)?;
        let old = |hit: &&Hit| hit.version <= upto.get();
        let deletes: Vec<Change> = page
            .hits
            .iter()
            .filter(old)
            .map(|hit| delete(hit, upto))
            .collect();
        removed += deletes.len();
        if !deletes.is_empty() {
            delete_all(writer, index, &deletes, tenure).await?;
        }
        match page.hits.last() {
            // Several documents can share a number, in an index that was shrunk.
            Some(last) if page.hits.len() >= MOST_NUMBERS as usize => {
                let last = last.seq_no as i64;
                after = if last - 1 > after { last - 1 } else { last };
            }
            _ => return Ok(removed),
        }
    }
}

fn delete(hit: &Hit, upto: Version) -> Change {
    Change {
        id: hit.id.clone(),
        routing: hit.routing.clone(),
        version: upto,
        over: false,
        action: Action::Delete,
    }
}

async fn delete_all(
    writer: &SearchWriter,
    index: &IndexName,
    deletes: &[Change],
    tenure: &Tenure,
) -> Result<(), Fault> {
    let deadline = tenure.remaining();
    if deadline.is_some_and(|rest| rest.is_zero()) {
        return Err(Fault::retry("the lease has run out and is not renewed yet"));
    }
    let deletes: Vec<&Change> = deletes.iter().collect();
    let outcomes = pipeline::Writer::write(writer, index, &deletes, deadline).await?;
    let failed = outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Retry(reason) | Outcome::Refused(reason) => Some(reason),
        Outcome::Applied | Outcome::AlreadyApplied | Outcome::Superseded(_) => None,
    });
    match failed {
        Some(reason) => Err(Fault::retry(reason)),
        None => Ok(()),
    }
}
