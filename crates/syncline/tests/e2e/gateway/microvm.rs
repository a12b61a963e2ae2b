//! Mode three in a microVM: kernel, root drive and data drive as Firecracker gets them, under an emulated processor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testkit::{
    Http, SearchNode,
    microvm::{MicroVm, MicroVmImages, MicroVmOptions, data_drive},
    wait_until,
};

use crate::{
    index_name, nodes,
    support::{
        corpus,
        equal::{assert_equal, until_equal},
        program::{Program, binary, run, text},
    },
};

/// An emulated processor is tens of times slower than this one.
const PATIENCE: Duration = Duration::from_secs(240);

/// A guest that lets one index pass, with a watcher of two and a writer on this machine.
struct Stage {
    source: &'static SearchNode,
    target: &'static SearchNode,
    wanted: String,
    hidden: String,
    images: MicroVmImages,
    options: MicroVmOptions,
    folder: TempDir,
}

impl Stage {
    async fn set() -> Result<Stage> {
        let build = tokio::task::spawn_blocking(|| MicroVmImages::build(&binary()));
        let (source, target) = nodes().await;
        let (wanted, hidden) = (index_name("microvm"), index_name("hidden"));
        for index in [&wanted, &hidden] {
            corpus::create(&source.http(), index, 2, false).await?;
            corpus::load(&source.http(), index, false).await?;
            corpus::index_numbers(&source.http(), index, 0..2000, 0).await?;
        }
        let folder = tempfile::tempdir()?;
        let drive = folder.path().join("data.ext4");
        data_drive(&drive, 1024)?;
        let mut options = MicroVmOptions::new(vec![drive])?;
        options.settings = vec![
            format!("INCLUDE_INDICES={wanted}"),
            "REPORT_EVERY=5".to_owned(),
        ];
        Ok(Stage {
            source,
            target,
            wanted,
            hidden,
            images: build.await??,
            options,
            folder,
        })
    }

    async fn boot(&self) -> Result<MicroVm> {
        MicroVm::boot(&self.images, &self.options).await
    }

    fn watcher(&self, nats: &str) -> Result<Program> {
        let (hosts, folder) = (
            self.source.url(),
            text(&self.folder.path().join("checkpoint")),
        );
        let (wanted, hidden) = (&self.wanted, &self.hidden);
        let line = format!(
            "./es-watcher --es-hosts {hosts} --nats-url {nats} --index-patterns \"{wanted},{hidden}\" --tenant iconik \
             --checkpoint-path {folder} --lease 5s"
        );
        Program::called(self.folder.path(), &line, [])
    }

    fn writer(&self, nats: &str) -> Result<Program> {
        let hosts = self.target.url();
        let line = format!("./es-writer --nats-url {nats} --es-hosts {hosts} --lease 5s");
        Program::called(self.folder.path(), &line, [])
    }

    async fn is_right(&self) -> Result<()> {
        let (source, target) = (self.source.http(), self.target.http());
        until_equal(&source, &target, &self.wanted, PATIENCE).await?;
        let (status, _) = target
            .request("HEAD".parse()?, &format!("/{}", self.hidden), "")
            .await?;
        ensure!(
            status == 404,
            "{} has passed the filter: {status}",
            self.hidden
        );
        Ok(())
    }

    async fn change(&self, round: usize) -> Result<()> {
        for index in [&self.wanted, &self.hidden] {
            let from = round * 100;
            let http = self.source.http();
            corpus::index_numbers(&http, index, from..from + 300, round).await?;
            http.delete(&format!("/{index}/_doc/{from}?refresh=true"))
                .await?;
        }
        Ok(())
    }

    async fn verified(&self) -> Result<()> {
        let (source, target) = (self.source.url(), self.target.url());
        let arguments = ["verify", &source, &target, "--indices", &self.wanted];
        run([&arguments[..], &["--lag", "0"]].concat())
            .await?
            .success()?;
        assert_equal(&self.source.http(), &self.target.http(), &self.wanted).await?;
        Ok(())
    }
}

/// The number of the last message of a stream in the guest, and how many it holds.
async fn stream(nats: &str, name: &str) -> Result<(u64, u64)> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats).await?);
    let stream = jetstream.get_stream(name).await?;
    let state = &stream.cached_info().state;
    Ok((state.last_sequence, state.messages))
}

/// Ends a guest by Ctrl+Alt+Del; returns what it has said about its memory.
async fn stop(guest: MicroVm) -> Result<String> {
    let console = guest.stop().await?;
    ensure!(
        console.contains("stopped in order, exit code 0"),
        "it did not stop in order: {console}"
    );
    let own = console.lines().filter(|line| line.contains("microvm:"));
    Ok(own.collect::<Vec<_>>().join("\n"))
}

#[tokio::test]
async fn the_microvm_filters_and_its_backlog_survives_a_reboot() -> Result<()> {
    let stage = Stage::set().await?;
    let guest = stage.boot().await?;
    let nats = guest.nats_url();
    let health = Http::new(&guest.admin_url());
    ensure!(health.request("GET".parse()?, "/health", "").await?.0 == 200);

    // Nobody reads: all of it waits on the data drive.
    let watcher = stage.watcher(&nats)?;
    wait_until(
        "the gateway has passed something on",
        PATIENCE,
        async || {
            stream(&nats, "ES_GATEWAY")
                .await
                .is_ok_and(|(_, messages)| messages > 0)
        },
    )
    .await
    .with_context(|| guest.console().unwrap_or_default())?;
    watcher.stop().await?;
    let (input, _) = stream(&nats, "ES_CHANGES").await?;
    let (_, waiting) = stream(&nats, "ES_GATEWAY").await?;
    println!("{}", stop(guest).await?);

    let guest = stage.boot().await?;
    ensure!(stream(&nats, "ES_CHANGES").await?.0 == input);
    ensure!(stream(&nats, "ES_GATEWAY").await?.1 >= waiting);
    let (watcher, writer) = (stage.watcher(&nats)?, stage.writer(&nats)?);
    stage.is_right().await?;
    stage.change(1).await?;
    stage.is_right().await?;
    watcher.stop().await?;
    writer.stop().await?;
    println!("{}", stop(guest).await?);
    stage.verified().await
}

#[tokio::test]
async fn what_a_microvm_loses_when_its_power_is_cut_comes_again() -> Result<()> {
    let stage = Stage::set().await?;
    let mut guest = stage.boot().await?;
    let nats = guest.nats_url();
    let (watcher, writer) = (stage.watcher(&nats)?, stage.writer(&nats)?);
    stage.is_right().await?;
    stage.change(1).await?;
    guest.kill();
    stage.change(2).await?;
    let guest = stage.boot().await?;
    stage.change(3).await?;
    if let Err(error) = stage.is_right().await {
        let (input, output) = (
            stream(&nats, "ES_CHANGES").await,
            stream(&nats, "ES_GATEWAY").await,
        );
        let stats = Http::new(&guest.admin_url()).get_json("/stats").await;
        return Err(error.context(format!(
            "input {input:?}, output {output:?}, {stats:?}\nwatcher: {}\nwriter: {}\nguest: {}",
            watcher.last_words(),
            writer.last_words(),
            guest.console()?
        )));
    }
    watcher.stop().await?;
    writer.stop().await?;
    stop(guest).await?;
    stage.verified().await
}
