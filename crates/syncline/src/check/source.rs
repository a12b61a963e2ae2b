//! The source: which indices can be captured, and whether everything capturing does is allowed.

use es_watcher::SourceRefresh;
use search::{Client, ClientConfig, Error, IndexInfo, IndexPatterns, Replication, ShardStats};

use super::{
    cluster::{self, listed, remedy},
    report::Report,
};

/// A source that answers.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) client: Client,
    /// What can be captured; `None` when we may not look.
    pub(crate) indices: Option<Vec<IndexInfo>>,
}

pub(crate) async fn look(
    report: &mut Report,
    config: &ClientConfig,
    patterns: &IndexPatterns,
    refresh: SourceRefresh,
) -> Option<Source> {
    let client = cluster::connect(report, "source", config).await?;
    cluster::health(report, "source", &client).await;
    let indices = indices(report, &client, patterns).await;
    if let Some(indices) = indices.as_deref().filter(|indices| !indices.is_empty()) {
        match refresh {
            SourceRefresh::Force => forced_refresh(report, &client, indices).await,
            SourceRefresh::Natural => natural_refresh(report, &client, indices).await,
        }
        if let Some(stats) = statistics(report, &client, indices).await {
            reading(report, &client, indices, &stats).await;
            let names = indices.iter().map(|index| &index.name);
            looking_up(report, cluster::look_up(&client, names).await);
        }
    }
    Some(Source { client, indices })
}

/// Says which indices are meant, and of each that cannot be captured why.
async fn indices(
    report: &mut Report,
    client: &Client,
    patterns: &IndexPatterns,
) -> Option<Vec<IndexInfo>> {
    const WHAT: &str = "source indices";
    let found = match client.list_indices(patterns).await {
        Ok(found) => found,
        Err(error) => {
            let remedy = match (&error, patterns.names().next()) {
                // A pattern is refused as a whole if it means one index too many.
                (Error::Forbidden { .. }, None) => {
                    "give --indices only what the role covers, or print the role with `syncline check --privileges`"
                }
                _ => remedy(&error),
            };
            report.fail(WHAT, &error, remedy);
            return None;
        }
    };
    let (capturable, refused): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|index| index.uncapturable().is_none());
    for name in patterns.names() {
        let mut known = capturable.iter().chain(&refused);
        let fits = |index: &IndexInfo| {
            index.name.as_str() == name || index.data_stream.as_deref() == Some(name)
        };
        // An alias is found under the name of its index.
        if !known.any(fits) && !exists(client, name).await {
            report.fail(
                WHAT,
                format_args!("there is no index {name:?}"),
                "create it, or correct --indices",
            );
        }
    }
    for index in &refused {
        let Some(reason) = index.uncapturable() else {
            continue;
        };
        let detail = format!("{:?} cannot be captured: {reason}", index.name.as_str());
        match patterns.names().any(|name| name == index.name.as_str()) {
            true => report.fail(
                WHAT,
                detail,
                "a run refuses to start, because this index is asked for by name",
            ),
            false => report.warn(WHAT, detail, "a run leaves this index out and says so"),
        }
    }
    let names = listed(capturable.iter().map(|index| index.name.as_str()));
    match capturable.len() {
        0 => report.fail(
            WHAT,
            format_args!("no index that can be captured matches {patterns}"),
            "correct --indices; hidden indices and those that begin with a dot have to be named",
        ),
        count => report.ok(WHAT, format_args!("{count} can be captured: {names}")),
    }
    let segments = || {
        capturable
            .iter()
            .filter(|index| index.replication == Replication::Segment)
    };
    if segments().count() > 0 {
        let segments: Vec<_> = segments().map(|index| index.name.as_str()).collect();
        report.ok(
            "source replication",
            format_args!(
                "by segments: {}; their primaries are read, because replicas lag behind",
                listed(segments.into_iter())
            ),
        );
    }
    Some(capturable)
}

async fn exists(client: &Client, name: &str) -> bool {
    match model::IndexName::try_from(name) {
        Ok(name) => client.index_exists(&name).await.unwrap_or(false),
        Err(_) => false,
    }
}

async fn forced_refresh(report: &mut Report, client: &Client, indices: &[IndexInfo]) {
    const WHAT: &str = "source refresh";
    for index in indices {
        match client.refresh(&index.name).await {
            Ok(()) => {}
            Err(error @ Error::Forbidden { .. }) => {
                return report.fail(
                    WHAT,
                    error,
                    "or run with --source-refresh natural: changes then arrive when the index refreshes by itself",
                );
            }
            Err(error) => return report.fail(WHAT, error, ""),
        }
    }
    report.ok(WHAT, "may be forced (indices:admin/refresh)");
}

/// An index that never refreshes by itself would never show its changes.
async fn natural_refresh(report: &mut Report, client: &Client, indices: &[IndexInfo]) {
    const WHAT: &str = "source refresh";
    #[derive(serde::Deserialize)]
    struct Settings {
        refresh_interval: Option<String>,
    }
    for index in indices {
        let definition = match client.definition(&index.name).await {
            Ok(definition) => definition,
            Err(error) => return report.fail(WHAT, &error, remedy(&error)),
        };
        let settings: Result<Settings, _> = serde_json::from_str(definition.settings.get());
        let interval = settings.ok().and_then(|settings| settings.refresh_interval);
        if interval.is_some_and(|interval| interval.starts_with('-')) {
            return report.fail(
                WHAT,
                format_args!(
                    "{:?} never refreshes by itself (refresh_interval -1)",
                    index.name.as_str()
                ),
                "use --source-refresh force, or set a refresh interval",
            );
        }
    }
    report.ok(WHAT, "natural: each index refreshes by itself");
}

async fn statistics(
    report: &mut Report,
    client: &Client,
    indices: &[IndexInfo],
) -> Option<Vec<ShardStats>> {
    const WHAT: &str = "source statistics";
    let names: Vec<_> = indices.iter().map(|index| &index.name).collect();
    let stats = match client.shard_stats(&names).await {
        Ok(stats) => stats,
        Err(error) => {
            report.fail(WHAT, &error, remedy(&error));
            return None;
        }
    };
    let shards: u64 = indices.iter().map(|index| u64::from(index.shards)).sum();
    match shards.saturating_sub(stats.len() as u64) {
        0 => report.ok(
            WHAT,
            format_args!("of all {shards} shards (indices:monitor/stats)"),
        ),
        away => report.warn(
            WHAT,
            format_args!("{away} of {shards} shards have no primary now"),
            "a run waits for them; see GET /_cluster/allocation/explain there",
        ),
    }
    Some(stats)
}

async fn reading(
    report: &mut Report,
    client: &Client,
    indices: &[IndexInfo],
    stats: &[ShardStats],
) {
    const WHAT: &str = "source reading";
    for index in indices {
        if let Err(error) = cluster::read_one(client, &index.name, stats).await {
            return report.fail(WHAT, &error, remedy(&error));
        }
    }
    report.ok(
        WHAT,
        "documents with _source and _seq_no, from each primary's node (indices:data/read/search)",
    );
}

/// Deletes are told from changes by looking documents up.
fn looking_up(report: &mut Report, outcome: Result<(), Error>) {
    const WHAT: &str = "source deletes";
    match outcome {
        Ok(()) => report.ok(
            WHAT,
            "documents may be looked up (indices:data/read/mget), as `syncline verify` does too",
        ),
        Err(error @ Error::Forbidden { .. }) => report.fail(
            WHAT,
            error,
            "or run with --deletes off: what is deleted at the source then stays at the target",
        ),
        Err(error) => report.fail(WHAT, &error, remedy(&error)),
    }
}
