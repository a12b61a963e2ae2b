//! The README's deployment modes as people type them, and what they copy.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Http, NatsServer, Product, SearchNode, wait_until};
use tokio::sync::{Mutex, MutexGuard};

use super::free_address;
use crate::support::{
    corpus,
    equal::until_equal,
    program::{PATIENCE, Program, run, text},
};

pub(super) const NATS: &str = "nats-server -js -sd /data/jetstream";

pub(super) const GATEWAY: &str = r#"
./nats-gateway \
  --upstream-url nats://nats-server:4222 \
  --include-indices "assets,metadata" \
  --exclude-patterns "temp_*,logs"
"#;

pub(super) const EMBEDDED: &str = r#"
./nats-gateway \
  --embedded \
  --nats-listen 0.0.0.0:4222 \
  --store-dir /data/jetstream \
  --js-max-memory 64MB \
  --include-indices "assets,metadata"
"#;

pub(super) const WRITER: &str = r#"
./es-writer \
  --nats-url nats://nats-server:4222 \
  --es-hosts http://target-es:9200 \
  --consumer es-writer-aws
"#;

pub(super) const WRITER_AT_GATEWAY: &str = r#"
./es-writer \
  --nats-url nats://gateway-host:4222 \
  --es-hosts http://target-es:9200
"#;

pub(super) const WATCHER: &str = r#"
./es-watcher \
  --es-hosts http://source-es:9200 \
  --nats-url nats://nats-server:4222 \
  --index-patterns "assets,metadata,users" \
  --tenant iconik
"#;

pub(super) const WATCHER_AT_GATEWAY: &str = r#"
./es-watcher \
  --es-hosts http://source-es:9200 \
  --nats-url nats://gateway-host:4222 \
  --index-patterns "assets,metadata" \
  --tenant iconik
"#;

/// One that copies more than the gateway's filter lets through.
pub(super) const WATCHER_OF_ALL: &str = r#"
./es-watcher --es-hosts http://source-es:9200 --nats-url nats://nats-server:4222 \
  --index-patterns "assets,metadata,users,logs,temp_1" --tenant iconik
"#;

/// The indices of the command lines, which several tests use in one cluster.
static INDICES: Mutex<()> = Mutex::const_new(());

const ALL: [&str; 5] = ["assets", "metadata", "users", "logs", "temp_1"];

/// Two clusters with the indices that the command lines name, a port for a nats-server, and a folder for everything.
pub(super) struct Stage {
    pub(super) source: &'static SearchNode,
    pub(super) target: &'static SearchNode,
    pub(super) folder: TempDir,
    pub(super) nats: SocketAddr,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub(super) async fn set(source: Product, target: Product) -> Result<Stage> {
        let alone = INDICES.lock().await;
        let (source, target) = tokio::join!(SearchNode::shared(source), SearchNode::shared(target));
        for index in ALL {
            for node in [source, target] {
                let path = format!("/{index}");
                node.http().request("DELETE".parse()?, &path, "").await?;
            }
            corpus::create(&source.http(), index, 2, false).await?;
            corpus::index_numbers(&source.http(), index, 0..1000, 0).await?;
        }
        corpus::load(&source.http(), "assets", false).await?;
        Ok(Stage {
            source,
            target,
            folder: tempfile::tempdir()?,
            nats: free_address()?,
            _alone: alone,
        })
    }

    /// Where the nats-server is.
    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.nats)
    }

    /// Types a command line: hosts, ports and folders become those of this stage, nothing else changes.
    pub(super) fn start(&self, line: &str) -> Result<Program> {
        let folder = |name: &str| text(&self.folder.path().join(name));
        let nats = self.nats.to_string();
        let line = line
            .replace("http://source-es:9200", &self.source.url())
            .replace("http://target-es:9200", &self.target.url())
            .replace("nats-server:4222", &nats)
            .replace("gateway-host:4222", &nats)
            .replace("0.0.0.0:4222", &nats)
            .replace("/data/jetstream", &folder("jetstream"));
        if let Some(options) = line.strip_prefix("nats-server ") {
            let (host, port) = (self.nats.ip().to_string(), self.nats.port().to_string());
            let own = ["-a", &host, "-p", &port];
            let options = options.split_whitespace().chain(own);
            return Program::other(&NatsServer::binary()?, options);
        }
        let variables = [
            ("NATS_BINARY", text(&NatsServer::binary()?)),
            ("CHECKPOINT_PATH", folder("checkpoint")),
            // Those that take over after a kill wait for no longer than this.
            ("LEASE", "2s".to_owned()),
        ];
        Program::called(self.folder.path(), &line, variables)
    }

    /// Starts the processes one after the other, each when the one before it is ready.
    pub(super) async fn run<const N: usize>(
        &self,
        lines: [&'static str; N],
    ) -> Result<[Process; N]> {
        let mut running = Vec::with_capacity(N);
        for line in lines {
            let process = Process {
                line,
                program: self.start(line)?,
            };
            process.ready().await?;
            running.push(process);
        }
        running
            .try_into()
            .map_err(|_| anyhow::anyhow!("not {N} processes"))
    }

    /// Changes, creates and deletes documents in all indices.
    pub(super) async fn change(&self, round: usize) -> Result<()> {
        for index in ALL {
            let from = round * 100;
            corpus::index_numbers(&self.source.http(), index, from..from + 300, round).await?;
            let path = format!("/{index}/_doc/{from}?refresh=true");
            self.source
                .http()
                .request("DELETE".parse()?, &path, "")
                .await?;
        }
        Ok(())
    }

    /// Kills a process with signal 9 in the middle of a round of changes, starts it again as it was, and waits until
    /// all is right.
    pub(super) async fn kill(
        &self,
        process: &mut Process,
        round: usize,
        wanted: &[&str],
    ) -> Result<()> {
        self.in_the_middle(round, async || process.kill(self).await)
            .await?;
        self.is_right(wanted).await
    }

    /// Kills the nats-server that a gateway has started last, in the middle of a round of changes.
    pub(super) async fn kill_server_of(
        &self,
        gateway: &Process,
        round: usize,
        wanted: &[&str],
    ) -> Result<()> {
        self.in_the_middle(round, async || {
            kill(server_of(&gateway.program).await?, Signal::SIGKILL)?;
            Ok(())
        })
        .await?;
        self.is_right(wanted).await
    }

    /// Acts when a part of a round's changes has arrived and the rest is on its way.
    async fn in_the_middle(
        &self,
        round: usize,
        act: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = self.written().await?;
        let acting = async {
            wait_until("changes arrive", PATIENCE, async || {
                self.written().await.is_ok_and(|written| written > before)
            })
            .await?;
            act().await
        };
        tokio::try_join!(self.change(round), acting).map(drop)
    }

    /// How many writes the target has seen.
    async fn written(&self) -> Result<u64> {
        let path = "/assets,metadata/_stats/indexing";
        let stats = self.target.http().get_json(path).await?;
        let total = &stats["_all"]["primaries"]["indexing"]["index_total"];
        total.as_u64().context("no statistics")
    }

    /// Waits until the wanted indices are equal, and sees that nothing else has come.
    pub(super) async fn is_right(&self, wanted: &[&str]) -> Result<()> {
        let (source, target) = (self.source.http(), self.target.http());
        for index in wanted {
            until_equal(&source, &target, index, PATIENCE).await?;
        }
        for index in ALL.iter().filter(|index| !wanted.contains(index)) {
            ensure!(
                !exists(&target, index).await?,
                "{index} went around the filter"
            );
        }
        Ok(())
    }

    /// Compares all indices as the filter `rules` sees them: equal with it, and not without it.
    pub(super) async fn verified(&self, rules: &str) -> Result<()> {
        let file = self.folder.path().join("filter.yaml");
        std::fs::write(&file, rules)?;
        let (source, target, file) = (self.source.url(), self.target.url(), text(&file));
        let indices = ALL.join(",");
        let verify = ["verify", &source, &target, "--indices", &indices];
        let verify = [&verify[..], &["--lag", "0", "--tenant", "iconik"]].concat();
        let through = run([&verify[..], &["--rules", &file]].concat()).await?;
        let through = through.success()?;
        ensure!(through.stdout.contains("equal: yes"), "{through:?}");
        let without = run(verify).await?;
        ensure!(
            without.code == Some(3),
            "equal without the filter, too: {without:?}"
        );
        Ok(())
    }
}

/// A process that was started with a command line, and can be again.
pub(super) struct Process {
    line: &'static str,
    pub(super) program: Program,
}

impl Process {
    async fn ready(&self) -> Result<()> {
        match self.line.starts_with("nats-server ") {
            true => self.program.says(&["Server is ready"]).await,
            false => self.program.ready().await,
        }
    }

    async fn kill(&mut self, stage: &Stage) -> Result<()> {
        self.program.signal(Signal::SIGKILL)?;
        self.program.wait().await?;
        self.program = stage.start(self.line)?;
        Ok(())
    }

    /// Asks it to stop, and checks that it does so in order.
    pub(super) async fn stop(self) -> Result<()> {
        self.program.stop().await
    }
}

async fn exists(http: &Http, index: &str) -> Result<bool> {
    let head = http
        .request("HEAD".parse()?, &format!("/{index}"), "")
        .await?;
    Ok(head.0 == 200)
}

async fn server_of(gateway: &Program) -> Result<Pid> {
    gateway.says(&["nats-server is running"]).await?;
    let lines = gateway.log();
    let line = lines
        .iter()
        .rev()
        .find(|line| line.contains("nats-server is running"))
        .context("it has just said so")?;
    let line: Value = serde_json::from_str(line)?;
    let pid = line["pid"].as_i64().context("no pid")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}
