//! A source that is followed, and the state its changes add up to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use es_watcher::{
    Checkpoints, Deletes, Ledger, Memory, Requests, SearchSource, SourceOptions, SourceRefresh,
};
use model::Version;
use pipeline::ChangeSource;
use search::{Client, ClientConfig, Url};
use tokio_util::sync::CancellationToken;

use crate::load::Documents;

type State = BTreeMap<String, (Version, u64)>;

/// Follows an index into memory, as a target would.
pub(crate) struct Follower {
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    pub(crate) async fn start(url: &str, index: &str, refresh: SourceRefresh) -> Follower {
        let ledger = Ledger::temporary().unwrap();
        let source = start(url, index, refresh, ledger).await;
        let (state, stop) = (Arc::default(), CancellationToken::new());
        let task = tokio::spawn(follow(source, Arc::clone(&state), stop.clone()));
        Follower { state, stop, task }
    }

    pub(crate) fn captured(&self) -> Documents {
        let state = self.state.lock().unwrap();
        state.iter().map(|(id, (_, n))| (id.clone(), *n)).collect()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Starts a source that keeps its ledger there, and its checkpoints in memory.
pub(crate) async fn start(
    url: &str,
    index: &str,
    refresh: SourceRefresh,
    ledger: Ledger,
) -> SearchSource {
    let options = SourceOptions {
        refresh,
        ..options(index)
    };
    start_with(url, options, ledger).await
}

/// How an index is followed.
pub(crate) fn options(index: &str) -> SourceOptions {
    SourceOptions {
        indices: index.parse().unwrap(),
        poll_interval: Duration::from_millis(50),
        refresh: SourceRefresh::Force,
        searches: 4,
        max_rate: None,
        follow: true,
        deletes: Deletes::Every(Duration::from_secs(1)),
    }
}

/// The same with options of its own.
pub(crate) async fn start_with(url: &str, options: SourceOptions, ledger: Ledger) -> SearchSource {
    let config = ClientConfig::new(vec![Url::parse(url).unwrap()]);
    let client = Client::connect(&config).await.unwrap();
    let memory = Memory {
        checkpoints: Checkpoints::in_memory(),
        ledger: Some(ledger),
        registry: Arc::new(()),
        requests: Requests::default(),
        log: None,
    };
    SearchSource::start(client, options, memory, Arc::new(()))
}

async fn follow(mut source: SearchSource, state: Arc<Mutex<State>>, stop: CancellationToken) {
    while let Some(captured) = stop.run_until_cancelled(source.next()).await {
        let captured = captured.unwrap().unwrap();
        for change in captured.batch.changes() {
            let mut state = state.lock().unwrap();
            let held = state.get(change.id.as_str()).map(|(version, _)| *version);
            // As a target that keeps no tombstones: strict for documents, not below for deletes.
            let Some(document) = change.document() else {
                if held.is_some_and(|held| change.version >= held) {
                    state.remove(change.id.as_str());
                }
                continue;
            };
            let document: serde_json::Value = serde_json::from_slice(document.as_bytes()).unwrap();
            if held.is_none_or(|held| change.version > held) {
                let new = (change.version, document["n"].as_u64().unwrap());
                state.insert(change.id.to_string(), new);
            }
        }
        source.confirm(captured.position).await.unwrap();
    }
    source.close().await;
}
