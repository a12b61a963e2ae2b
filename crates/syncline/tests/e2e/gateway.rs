//! The gateway between two streams: the deployment modes of the README with their command lines, ports and
//! folders aside, and every process killed in the middle; rules, the admin API, and what can go wrong.

mod admin;
mod downstream;
mod guide;
mod microvm;
mod modes;
mod refusals;
mod rules;
mod stage;
mod subjects;
mod trouble;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Http, wait_until};

use crate::support::{
    equal::{Contents, contents, difference},
    pipeline::Pipeline,
    program::{PATIENCE, Program, text},
};

/// A port that nobody has just now.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A pipeline with a gateway in it, that has a rule file.
struct Line {
    pipeline: Pipeline,
    folder: TempDir,
}

impl Line {
    async fn new(source: &str, target: &str, patterns: &str, rules: &str) -> Result<Line> {
        let mut pipeline = Pipeline::new(source, target, patterns).await?;
        pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
        let line = Line {
            pipeline,
            folder: tempfile::tempdir()?,
        };
        line.write(rules)?;
        Ok(line)
    }

    fn rules(&self) -> PathBuf {
        self.folder.path().join("rules.yaml")
    }

    /// Replaces the rule file.
    fn write(&self, rules: &str) -> Result<()> {
        let new = self.folder.path().join("rules.new");
        std::fs::write(&new, rules)?;
        Ok(std::fs::rename(new, self.rules())?)
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (url, rules) = (self.pipeline.nats.url(), text(&self.rules()));
        let own = [
            "nats-gateway",
            "--upstream-url",
            &url,
            "--rules",
            &rules,
            "--lease",
            "2s",
        ];
        own.iter()
            .chain(more)
            .map(|&text| text.to_owned())
            .collect()
    }

    fn gateway(&self, more: &[&str]) -> Result<Program> {
        Program::start(self.arguments(more))
    }

    /// A writer that is there before the gateway and waits for it.
    fn writer(&self) -> Result<Program> {
        let mut arguments = self.pipeline.writer_arguments("es-writer");
        arguments.push("--expect-gateway".to_owned());
        Program::start(arguments)
    }

    async fn jetstream(&self) -> Result<async_nats::jetstream::Context> {
        let client = async_nats::connect(self.pipeline.nats.url()).await?;
        Ok(async_nats::jetstream::new(client))
    }
}

/// Waits until a target has what `lens` makes of the documents of a source, and nothing else.
async fn until_seen_through(
    (source, index): (&Http, &str),
    (target, place): (&Http, &str),
    lens: impl Fn(&Value) -> Option<Value>,
) -> Result<usize> {
    let wanted = async || -> Result<Contents> {
        let all = contents(source, index).await?;
        let seen = all
            .into_iter()
            .filter_map(|(key, document)| Some((key, lens(&document)?)));
        Ok(seen.collect())
    };
    let is_so = wait_until("the target has what it should", PATIENCE, async || {
        match (wanted().await, contents(target, place).await) {
            (Ok(wanted), Ok(found)) => difference(&wanted, &found).is_none(),
            _ => false,
        }
    });
    let waited = is_so.await;
    let (wanted, found) = (wanted().await?, contents(target, place).await?);
    match (difference(&wanted, &found), waited) {
        (None, _) => Ok(wanted.len()),
        (Some(difference), Err(late)) => Err(late.context(difference)),
        (Some(difference), Ok(())) => bail!("it was right and is not any more: {difference}"),
    }
}
