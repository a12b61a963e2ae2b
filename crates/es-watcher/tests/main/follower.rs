//! A source that is followed, and the state its changes add up to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use es_watcher::{Checkpoints, SearchSource, SourceOptions, SourceRefresh};
use model::Version;
use pipeline::ChangeSource;
use search::{Client, ClientConfig, Url};
use tokio_util::sync::CancellationToken;

use crate::load::Documents;

type State = BTreeMap<String, (Version, u64)>;

/// Follows an index into memory, newest version of each document.
pub(crate) struct Follower {
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    pub(crate) async fn start(url: &str, index: &str, refresh: SourceRefresh) -> Follower {
        let config = ClientConfig::new(vec![Url::parse(url).unwrap()]);
        let client = Client::connect(&config).await.unwrap();
        let options = SourceOptions {
            indices: index.parse().unwrap(),
            poll_interval: Duration::from_millis(50),
            refresh,
            searches: 4,
            follow: true,
        };
        let checkpoints = Checkpoints::in_memory();
        let source = SearchSource::start(client, options, checkpoints, Arc::new(()));
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

async fn follow(mut source: SearchSource, state: Arc<Mutex<State>>, stop: CancellationToken) {
    while let Some(captured) = stop.run_until_cancelled(source.next()).await {
        let captured = captured.unwrap().unwrap();
        for change in captured.batch.changes() {
            let document: serde_json::Value =
                serde_json::from_slice(change.document().unwrap().as_bytes()).unwrap();
            let new = (change.version, document["n"].as_u64().unwrap());
            let mut state = state.lock().unwrap();
            let known = state.entry(change.id.to_string()).or_insert(new);
            *known = (*known).max(new);
        }
        source.confirm(captured.position).await.unwrap();
    }
    source.close().await;
}
