//! The three modes.

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::{Http, NatsOptions, NatsServer, Product, SearchNode, wait_until};
use tokio::sync::{Mutex, MutexGuard};

use super::free_address;
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    program::{PATIENCE, Program, run, text},
};

/// The indices of the command lines, which several tests use in one cluster.
static INDICES: Mutex<()> = Mutex::const_new(());

const ALL: [&str; 5] = ["assets", "metadata", "users", "logs", "temp_1"];

/// Two clusters with the indices that the command lines name, and a folder for everything.
struct Stage {
    source: &'static SearchNode,
    target: &'static SearchNode,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    async fn set(source: Product, target: Product) -> Result<Stage> {
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
            _alone: alone,
        })
    }

    fn start(&self, name: &str, line: &str) -> Result<Program> {
        Program::called(self.folder.path(), name, line)
    }

    fn gateway(&self, nats: &str) -> Result<Program> {
        let line = format!(
            "--upstream-url {nats} --include-indices \"assets,metadata\" --exclude-patterns \"temp_*,logs\" \
             --lease 2s"
        );
        self.start("nats-gateway", &line)
    }

    fn writer(&self, nats: &str) -> Result<Program> {
        let hosts = self.target.url();
        let line =
            format!("--nats-url {nats} --es-hosts {hosts} --consumer es-writer-aws --lease 2s");
        self.start("es-writer", &line)
    }

    fn watcher(&self, nats: &str, patterns: &str) -> Result<Program> {
        let (hosts, folder) = (
            self.source.url(),
            text(&self.folder.path().join("checkpoint")),
        );
        let line = format!(
            "--es-hosts {hosts} --nats-url {nats} --index-patterns \"{patterns}\" --tenant iconik \
             --checkpoint-path {folder} --lease 2s"
        );
        self.start("es-watcher", &line)
    }

    /// Changes, creates and deletes documents in all indices.
    async fn change(&self, round: usize) -> Result<()> {
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

    /// Waits until the wanted indices are equal, asks `verify` too, and sees that nothing else has come.
    async fn is_right(&self, wanted: &[&str]) -> Result<()> {
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

    async fn verified(&self, wanted: &[&str]) -> Result<()> {
        let (source, target, indices) = (self.source.url(), self.target.url(), wanted.join(","));
        let arguments = [
            "verify",
            &source,
            &target,
            "--indices",
            &indices,
            "--lag",
            "0",
        ];
        run(arguments).await?.success()?;
        for index in wanted {
            assert_equal(&self.source.http(), &self.target.http(), index).await?;
        }
        Ok(())
    }
}

async fn exists(http: &Http, index: &str) -> Result<bool> {
    let head = http
        .request("HEAD".parse()?, &format!("/{index}"), "")
        .await?;
    Ok(head.0 == 200)
}

/// Takes the gateway's marks away, as when the streams are created anew.
async fn unmark(url: &str) -> Result<()> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await?);
    for name in ["ES_CHANGES", "ES_GATEWAY"] {
        let mut config = jetstream
            .get_stream(name)
            .await?
            .cached_info()
            .config
            .clone();
        config
            .metadata
            .retain(|key, _| !key.starts_with("syncline"));
        jetstream.update_stream(&config).await?;
    }
    Ok(())
}

#[tokio::test]
async fn mode_one_has_nothing_between_the_log_and_the_writer() -> Result<()> {
    let stage = Stage::set(Product::Es7_17, Product::Os2).await?;
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let url = nats.url();
    let wanted = ["assets", "metadata", "users"];
    let mut writer = stage.writer(&url)?;
    let mut watcher = stage.watcher(&url, "assets,metadata,users")?;
    stage.is_right(&wanted).await?;
    stage.change(1).await?;
    writer.kill().await?;
    writer = stage.writer(&url)?;
    stage.change(2).await?;
    watcher.kill().await?;
    watcher = stage.watcher(&url, "assets,metadata,users")?;
    stage.is_right(&wanted).await?;
    for program in [watcher, writer] {
        program.stop().await?;
    }
    stage.verified(&wanted).await
}

/// Everything as one program, from one file.
#[tokio::test]
async fn a_gateway_is_a_section_of_up() -> Result<()> {
    let stage = Stage::set(Product::Es8, Product::Os2).await?;
    let folder = stage.folder.path().display().to_string();
    let file = stage.folder.path().join("syncline.yaml");
    std::fs::write(
        stage.folder.path().join("rules.yaml"),
        "filters: [{ drop: { index: users } }]",
    )?;
    std::fs::write(
        &file,
        format!(
            "nats-gateway:\n  embedded: true\n  nats_binary: {binary}\n  nats_listen: {address}\n  \
             store_dir: {folder}/jetstream\n  rules: {folder}/rules.yaml\n  exclude_patterns: temp_*,logs\n\
             es-watcher:\n  es_hosts: [{source}]\n  index_patterns: assets,metadata,users,logs,temp_1\n  \
             checkpoint_path: {folder}/checkpoint\n\
             es-writer:\n  es_hosts: [{target}]\n",
            binary = text(&NatsServer::binary()?),
            address = free_address()?,
            source = stage.source.url(),
            target = stage.target.url(),
        ),
    )?;
    for round in 1..3 {
        let program = Program::start(["up", &text(&file)])?;
        stage.change(round).await?;
        stage.is_right(&["assets", "metadata"]).await?;
        program.stop().await?;
    }
    stage.verified(&["assets", "metadata"]).await
}

#[tokio::test]
async fn mode_two_filters_between_the_streams_and_every_process_may_be_killed() -> Result<()> {
    let stage = Stage::set(Product::Es8, Product::Os2).await?;
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let url = nats.url();
    let wanted = ["assets", "metadata"];
    let mut gateway = stage.gateway(&url)?;
    gateway.ready().await?;
    let mut writer = stage.writer(&url)?;
    let mut watcher = stage.watcher(&url, "assets,metadata,users,logs,temp_1")?;
    stage.is_right(&wanted).await?;
    for round in 1..4 {
        stage.change(round).await?;
        match round {
            1 => {
                gateway.kill().await?;
                gateway = stage.gateway(&url)?;
            }
            2 => {
                writer.kill().await?;
                writer = stage.writer(&url)?;
            }
            _ => {
                watcher.kill().await?;
                watcher = stage.watcher(&url, "assets,metadata,users,logs,temp_1")?;
            }
        }
        stage.change(round + 3).await?;
        stage.is_right(&wanted).await?;
    }
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    stage.verified(&wanted).await
}

#[tokio::test]
async fn mode_three_embeds_the_server_which_may_be_killed_too() -> Result<()> {
    let stage = Stage::set(Product::Os2, Product::Es7_17).await?;
    let address = free_address()?;
    let url = format!("nats://{address}");
    let wanted = ["assets", "metadata"];
    let embedded = || {
        let (binary, store) = (
            text(&NatsServer::binary()?),
            text(&stage.folder.path().join("jetstream")),
        );
        let line = format!(
            "--embedded --nats-listen {address} --store-dir {store} --js-max-memory 64MB \
             --include-indices \"assets,metadata\" --nats-binary {binary} --lease 2s"
        );
        stage.start("nats-gateway", &line)
    };
    let mut gateway = embedded()?;
    gateway.ready().await?;
    let writer = stage.writer(&url)?;
    let watcher = stage.watcher(&url, "assets,metadata,users")?;
    stage.is_right(&wanted).await?;
    stage.change(1).await?;
    gateway.kill().await?;
    gateway = embedded()?;
    stage.change(2).await?;
    stage.is_right(&wanted).await?;
    stage.change(3).await?;
    kill(server_of(&gateway).await?, Signal::SIGKILL)?;
    stage.change(4).await?;
    stage.is_right(&wanted).await?;
    for program in [watcher, writer, gateway] {
        program.stop().await?;
    }
    stage.verified(&wanted).await
}

/// The nats-server that a gateway has started last.
async fn server_of(gateway: &Program) -> Result<Pid> {
    gateway.says(&["nats-server is running"]).await?;
    let lines = gateway.log();
    let line = lines
        .iter()
        .rev()
        .find(|line| line.contains("nats-server is running"))
        .context("it has just said so")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    let pid = line["pid"].as_i64().context("no pid")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

#[tokio::test]
async fn a_writer_that_was_there_first_follows_the_gateway_and_never_reads_around_it() -> Result<()>
{
    let stage = Stage::set(Product::Es8, Product::Es7_17).await?;
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let url = nats.url();
    let writer = stage.writer(&url)?;
    writer.ready().await?;
    let gateway = stage.gateway(&url)?;
    writer
        .says(&["a gateway stands before this writer"])
        .await?;
    writer.ready().await?;
    let watcher = stage.watcher(&url, "assets,metadata,users,logs,temp_1")?;
    stage.is_right(&["assets", "metadata"]).await?;
    // Its old place in the input is given up, so that the input gets room.
    let readers = run(["readers", "--nats-url", &url]).await?.success()?;
    ensure!(!readers.stdout.contains("es-writer-aws"), "{readers:?}");
    gateway.stop().await?;
    writer.stop().await?;
    // The mark is gone, and the writer knows of it all the same.
    unmark(&url).await?;
    let mut writer = stage.writer(&url)?;
    writer
        .says(&["waits, rather than reading around the filter"])
        .await?;
    ensure!(writer.readiness().await?.0 == 503);
    stage.change(1).await?;
    let gateway = stage.gateway(&url)?;
    stage.is_right(&["assets", "metadata"]).await?;
    wait_until("the writer is ready", PATIENCE, async || {
        writer
            .readiness()
            .await
            .is_ok_and(|(status, _)| status == 200)
    })
    .await?;
    ensure!(writer.ended()?.is_none());
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    stage.verified(&["assets", "metadata"]).await
}
