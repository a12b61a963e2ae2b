//! The tools that a copy is compared with.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use testkit::{Http, SearchNode, Tool};

use super::Context;
use super::bare::Bodies;
use super::runs::Run;
use crate::indices::Index;
use crate::process::Process;

const ELASTICDUMP: &str = "6.125.1";

/// A way to copy an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `syncline sync`, as it comes.
    Sync,
    /// elasticdump with so many documents at a time; 100 is its default.
    Elasticdump(u32),
    /// The target's `_reindex` from remote with so many documents at a time; 1,000 is its default.
    Reindex(u32),
    /// Nothing but bulks.
    Bare,
}

impl Way {
    pub(super) fn title(self) -> String {
        match self {
            Way::Sync => "syncline sync".to_owned(),
            Way::Elasticdump(100) => "elasticdump, --limit 100 (default)".to_owned(),
            Way::Elasticdump(limit) => format!("elasticdump, --limit {limit}"),
            Way::Reindex(1000) => "_reindex from remote, size 1000 (default)".to_owned(),
            Way::Reindex(size) => format!("_reindex from remote, size {size}"),
            Way::Bare => "bare _bulk, prebuilt bodies, reads nothing".to_owned(),
        }
    }
}

/// Two clusters and an index in the first.
pub(super) struct Clusters {
    pub(super) source: SearchNode,
    pub(super) target: SearchNode,
    pub(super) index: Index,
    pub(super) documents: u64,
    pub(super) bodies: Bodies,
    /// Absent where it cannot be installed.
    pub(super) elasticdump: Option<PathBuf>,
}

impl Clusters {
    /// Copies into a new, empty index of the same mapping and settings, and counts there.
    pub(super) async fn copy(&self, way: Way, context: &Context) -> Result<Run> {
        let target = self.target.http();
        self.index.create(&target).await?;
        let run = match way {
            Way::Sync => self.sync(context).await,
            Way::Elasticdump(limit) => self.dump(limit, context).await,
            Way::Reindex(size) => self.reindex(size, &target).await,
            Way::Bare => {
                self.bodies
                    .load(&self.target.url(), self.index.name())
                    .await
            }
        };
        let run = run.with_context(|| way.title())?;
        let count = target.count(self.index.name()).await?;
        ensure!(
            count == self.documents,
            "{}: {count} documents have arrived of {}",
            way.title(),
            self.documents
        );
        Ok(run)
    }

    async fn sync(&self, context: &Context) -> Result<Run> {
        let letters = context.program.file("refused.ndjson").display().to_string();
        let (source, target) = (self.source.url(), self.target.url());
        let arguments = ["sync", &source, &target, "--indices", self.index.name()];
        let arguments = [&arguments[..], &["--dead-letters", &letters]].concat();
        self.to_its_end(context.program.command("sync", &arguments)?)
            .await
    }

    async fn dump(&self, limit: u32, context: &Context) -> Result<Run> {
        let Some(elasticdump) = &self.elasticdump else {
            bail!("it is not installed");
        };
        let input = format!("--input={}/{}", self.source.url(), self.index.name());
        let output = format!("--output={}/{}", self.target.url(), self.index.name());
        let limit = format!("--limit={limit}");
        let arguments = [&input, &output, "--type=data", &limit];
        let log = context.program.file("elasticdump.log");
        self.to_its_end(Process::start("elasticdump", elasticdump, &arguments, log)?)
            .await
    }

    async fn to_its_end(&self, mut process: Process) -> Result<Run> {
        let finished = process.succeed().await?;
        Ok(Run {
            documents: self.documents,
            elapsed: finished.elapsed,
            used: Some(finished.used),
        })
    }

    async fn reindex(&self, size: u32, target: &Http) -> Result<Run> {
        let index = self.index.name();
        let body = json!({
            "source": { "remote": { "host": self.source.url() }, "index": index, "size": size },
            "dest": { "index": index },
        });
        let began = Instant::now();
        let answer = target
            .post_json("/_reindex?wait_for_completion=false", &body)
            .await?;
        let task = answer["task"].as_str().context("_reindex without a task")?;
        let path = format!("/_tasks/{task}");
        loop {
            let state = target.get_json(&path).await?;
            if state["completed"] == true {
                let failures = &state["response"]["failures"];
                let fine =
                    state["error"].is_null() && failures.as_array().is_some_and(Vec::is_empty);
                ensure!(fine, "_reindex failed: {state}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Run {
            documents: self.documents,
            elapsed: began.elapsed(),
            used: None,
        })
    }
}

/// Installs elasticdump into the cache. Where that fails the reason is printed and there is no comparison with it.
pub(super) fn elasticdump() -> Option<PathBuf> {
    match install() {
        Ok(program) => Some(program),
        Err(error) => {
            eprintln!("without elasticdump, which cannot be installed: {error:#}");
            None
        }
    }
}

fn install() -> Result<PathBuf> {
    let folder = testkit::cache().join(format!("tools/elasticdump-{ELASTICDUMP}"));
    let program = folder.join("node_modules/.bin/elasticdump");
    if program.exists() {
        return Ok(program);
    }
    eprintln!("installing elasticdump {ELASTICDUMP} from the npm registry (about 110 MB)…");
    let partial = folder.with_extension("partial");
    std::fs::create_dir_all(&partial)?;
    let output = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(&partial)
        .arg(format!("elasticdump@{ELASTICDUMP}"))
        .output()
        .with_context(|| Tool::NPM.remedy())?;
    ensure!(
        output.status.success(),
        "npm: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    std::fs::rename(&partial, &folder)?;
    Ok(program)
}
