//! The three processes: a watcher, a nats-server, a writer.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;
use testkit::{NatsOptions, NatsServer};

use super::program::{Program, text};

/// A pipeline of its own around two clusters; streams of one nats-server may not share subjects, so
/// each has a nats-server too.
pub(crate) struct Pipeline {
    pub(crate) nats: NatsServer,
    /// The source's hosts.
    pub(crate) source: String,
    /// The target's hosts.
    pub(crate) target: String,
    /// Where both find the nats-server; its own address if not given.
    pub(crate) log: Option<String>,
    /// Index patterns.
    pub(crate) patterns: String,
    /// More flags for both.
    pub(crate) common: Vec<String>,
    /// More flags for watchers.
    pub(crate) of_watcher: Vec<String>,
    folder: TempDir,
}

impl Pipeline {
    /// With a nats-server that runs and nothing else.
    pub(crate) async fn new(source: &str, target: &str, patterns: &str) -> Result<Pipeline> {
        let folder = tempfile::tempdir()?;
        let options = NatsOptions {
            store: Some(folder.path().join("store")),
            ..NatsOptions::default()
        };
        Ok(Pipeline {
            nats: NatsServer::start(options).await?,
            source: source.to_owned(),
            target: target.to_owned(),
            log: None,
            patterns: patterns.to_owned(),
            common: Vec::new(),
            of_watcher: Vec::new(),
            folder,
        })
    }

    /// Where the nats-server stores.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Where the watcher of that name keeps its checkpoints.
    pub(crate) fn checkpoint_path(&self, watcher: &str) -> PathBuf {
        self.folder.path().join(watcher)
    }

    /// The watcher's arguments; `folder` names its checkpoints.
    pub(crate) fn watcher_arguments(&self, folder: &str) -> Vec<String> {
        let checkpoints = text(&self.checkpoint_path(folder));
        let mut arguments = self.arguments(&[
            "es-watcher",
            "--es-hosts",
            &self.source,
            "--index-patterns",
            &self.patterns,
            "--checkpoint-path",
            &checkpoints,
        ]);
        arguments.extend(self.of_watcher.iter().cloned());
        arguments
    }

    /// The writer's arguments.
    pub(crate) fn writer_arguments(&self, consumer: &str) -> Vec<String> {
        self.arguments(&[
            "es-writer",
            "--es-hosts",
            &self.target,
            "--consumer",
            consumer,
        ])
    }

    /// Starts a watcher.
    pub(crate) fn watcher(&self) -> Result<Program> {
        Program::start(self.watcher_arguments("watcher"))
    }

    /// Starts a writer.
    pub(crate) fn writer(&self) -> Result<Program> {
        Program::start(self.writer_arguments("es-writer"))
    }

    /// The arguments of a gateway on the log with a rule file, and more.
    pub(crate) fn gateway_arguments(&self, rules: &Path, more: &[&str]) -> Vec<String> {
        let (url, rules) = (self.nats.url(), text(rules));
        let own = ["nats-gateway", "--upstream-url", &url, "--rules", &rules];
        let arguments = own.iter().chain(&["--lease", "2s"]).chain(more);
        arguments.map(|&text| text.to_owned()).collect()
    }

    fn arguments(&self, own: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = own.iter().map(|&text| text.to_owned()).collect();
        let log = self.log.clone().unwrap_or_else(|| self.nats.url());
        arguments.extend(["--nats-url".to_owned(), log]);
        arguments.extend(self.common.iter().cloned());
        arguments
    }
}
