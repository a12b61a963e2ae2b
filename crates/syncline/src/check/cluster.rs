//! What is looked at in the same way at source and target.

use model::{DocumentId, IndexName};
use search::{Client, ClientConfig, Error, MgetOptions, Request, ShardStats, Window};
use serde::Deserialize;

use super::report::Report;

/// Connects; says what answers.
pub(crate) async fn connect(
    report: &mut Report,
    side: &str,
    config: &ClientConfig,
) -> Option<Client> {
    let what = format!("{side} connection");
    match search::connect(config).await {
        Ok(client) => {
            let server = client.server();
            report.ok(
                &what,
                format_args!("{server}, cluster {:?}", server.cluster_name),
            );
            Some(client)
        }
        Err(error) => {
            report.fail(&what, &error, remedy(&error));
            None
        }
    }
}

/// The cluster's health, where it may be seen; nothing that runs needs it.
pub(crate) async fn health(report: &mut Report, side: &str, client: &Client) {
    #[derive(Deserialize)]
    struct Health {
        status: String,
    }
    let what = format!("{side} health");
    let answer = client
        .send(Request::get("/_cluster/health?filter_path=status"))
        .await;
    let health = match answer {
        Ok(body) => serde_json::from_slice::<Health>(&body),
        Err(Error::Forbidden { action, .. }) => {
            return report.ok(
                &what,
                format_args!("not to be seen without {action}, which no run needs"),
            );
        }
        Err(error) => return report.warn(&what, error, ""),
    };
    match health.as_ref().map(|health| health.status.as_str()) {
        Ok("red") => report.warn(
            &what,
            "red: some shards have no primary, and their indices cannot be read or written",
            "see GET /_cluster/allocation/explain there",
        ),
        Ok("yellow") => report.ok(&what, "yellow: some replicas are not allocated"),
        Ok(status) => report.ok(&what, status),
        Err(error) => report.warn(
            &what,
            format_args!("the answer cannot be read: {error}"),
            "",
        ),
    }
}

/// Reads one document of an index as a run does: pinned to the node that holds the primary.
pub(crate) async fn read_one(
    client: &Client,
    index: &IndexName,
    stats: &[ShardStats],
) -> Result<(), Error> {
    let of_index = || stats.iter().filter(|shard| shard.index == *index);
    // An index without documents is searched all the same, for the privilege.
    let written = of_index().find(|shard| shard.global_checkpoint >= 0);
    let Some(shard) = written.or_else(|| of_index().next()) else {
        return Ok(());
    };
    let window = Window {
        index,
        shard: shard.shard,
        node: Some(&shard.node),
        after: -1,
        upto: shard.global_checkpoint,
        size: 1,
    };
    client.read_window(&window).await.map(drop)
}

/// Looks up a document that is not there by its id, as the search for deletes does, and `verify` where
/// the sides differ.
pub(crate) async fn look_up<'a>(
    client: &Client,
    indices: impl Iterator<Item = &'a IndexName>,
) -> Result<(), Error> {
    let id = format!("syncline-check-{:016x}", fastrand::u64(..));
    let Ok(id) = DocumentId::try_from(id.as_str()) else {
        return Ok(());
    };
    let options = MgetOptions::default();
    for index in indices {
        client.mget(index, &[(&id, None)], options).await?;
    }
    Ok(())
}

/// Says whether this side can be compared. A run does not need it.
pub(crate) fn comparing(report: &mut Report, side: &str, outcome: Result<(), Error>) {
    let what = format!("{side} comparing");
    match outcome {
        Ok(()) => report.ok(&what, "`syncline verify` may read everything it needs"),
        Err(error @ Error::Forbidden { .. }) => {
            report.ok(
                &what,
                format_args!("only `syncline verify` needs it: {error}"),
            );
        }
        Err(error) => report.warn(&what, &error, remedy(&error)),
    }
}

/// What to do besides what the error's own sentence says.
pub(crate) fn remedy(error: &Error) -> &'static str {
    match error {
        Error::Forbidden { .. } => {
            "`syncline check --privileges` prints the role with everything it needs"
        }
        _ => "",
    }
}

/// Some names, and how many more there are.
pub(crate) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = names.take(SHOWN).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_names_is_cut_and_counted() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(listed(names.into_iter()), "a, b, c, d, e and 2 more");
        assert_eq!(listed(["a"].into_iter()), "a");
    }
}
