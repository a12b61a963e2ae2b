//! The three modes with the README's command lines, as separate processes of which each is killed in the middle.

use anyhow::{Result, ensure};
use testkit::{NatsOptions, NatsServer, Product, wait_until};

use super::stage::{
    EMBEDDED, GATEWAY, NATS, Stage, WATCHER, WATCHER_AT_GATEWAY, WATCHER_OF_ALL, WRITER,
    WRITER_AT_GATEWAY,
};
use crate::support::{
    lost_end::lose_everything,
    program::{PATIENCE, Program, run, text},
};

/// What the flags of the gateways select, for `verify`.
const FILTER: &str =
    "filters: [{ keep: { index: 'assets,metadata' } }, { drop: { index: 'temp_*,logs' } }]";

#[tokio::test]
async fn mode_one_has_nothing_between_the_log_and_the_writer() -> Result<()> {
    let stage = Stage::set(Product::Es7_17, Product::Os2).await?;
    let wanted = ["assets", "metadata", "users"];
    let mut running = stage.run([NATS, WRITER, WATCHER]).await?;
    stage.is_right(&wanted).await?;
    for (round, process) in running.iter_mut().enumerate() {
        stage.kill(process, round + 1, &wanted).await?;
    }
    let [nats, writer, watcher] = running;
    for process in [watcher, writer] {
        process.stop().await?;
    }
    drop(nats);
    stage
        .verified("filters: [{ keep: { index: 'assets,metadata,users' } }]")
        .await
}

#[tokio::test]
async fn mode_two_filters_between_the_streams_and_every_process_may_be_killed() -> Result<()> {
    let stage = Stage::set(Product::Es8, Product::Os2).await?;
    let wanted = ["assets", "metadata"];
    let mut running = stage.run([NATS, GATEWAY, WRITER, WATCHER_OF_ALL]).await?;
    stage.is_right(&wanted).await?;
    for (round, process) in running.iter_mut().enumerate() {
        stage.kill(process, round + 1, &wanted).await?;
    }
    let [nats, gateway, writer, watcher] = running;
    for process in [watcher, gateway, writer] {
        process.stop().await?;
    }
    drop(nats);
    stage.verified(FILTER).await
}

#[tokio::test]
async fn mode_three_embeds_the_server_which_may_be_killed_too() -> Result<()> {
    let stage = Stage::set(Product::Os2, Product::Es7_17).await?;
    let wanted = ["assets", "metadata"];
    let lines = [EMBEDDED, WRITER_AT_GATEWAY, WATCHER_AT_GATEWAY];
    let mut running = stage.run(lines).await?;
    stage.is_right(&wanted).await?;
    for (round, process) in running.iter_mut().enumerate() {
        stage.kill(process, round + 1, &wanted).await?;
    }
    let [gateway, writer, watcher] = running;
    stage.kill_server_of(&gateway, 4, &wanted).await?;
    for process in [watcher, writer, gateway] {
        process.stop().await?;
    }
    stage.verified(FILTER).await
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
            address = stage.nats,
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
    stage.verified(FILTER).await
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
async fn a_writer_that_was_there_first_follows_the_gateway_and_never_reads_around_it() -> Result<()>
{
    let stage = Stage::set(Product::Es8, Product::Es7_17).await?;
    let url = stage.url();
    let [nats] = stage.run([NATS]).await?;
    let writer = stage.start(WRITER)?;
    writer.ready().await?;
    let gateway = stage.start(GATEWAY)?;
    writer
        .says(&["a gateway stands before this writer"])
        .await?;
    writer.ready().await?;
    let watcher = stage.start(WATCHER_OF_ALL)?;
    stage.is_right(&["assets", "metadata"]).await?;
    // Its old place in the input is given up, so that the input gets room.
    let readers = run(["readers", "--nats-url", &url]).await?.success()?;
    ensure!(!readers.stdout.contains("es-writer-aws"), "{readers:?}");
    gateway.stop().await?;
    writer.stop().await?;
    // The mark is gone, and the writer knows of it all the same.
    unmark(&url).await?;
    let mut writer = stage.start(WRITER)?;
    writer
        .says(&["waits, rather than reading around the filter"])
        .await?;
    ensure!(writer.readiness().await?.0 == 503);
    stage.change(1).await?;
    let gateway = stage.start(GATEWAY)?;
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
    drop(nats);
    stage.verified(FILTER).await
}

/// The server loses power, and with it the marks and the writer's memory of them. The watcher is first to be back.
#[tokio::test]
async fn a_writer_that_runs_never_reads_around_the_filter_whatever_its_server_has_lost()
-> Result<()> {
    let mut stage = Stage::set(Product::Es8, Product::Os2).await?;
    let store = stage.folder.path().join("store");
    let mut nats = NatsServer::start(NatsOptions {
        store: Some(store.clone()),
        ..NatsOptions::default()
    })
    .await?;
    stage.nats = nats.address();
    let [gateway, mut writer, mut watcher] = stage.run([GATEWAY, WRITER, WATCHER_OF_ALL]).await?;
    stage.is_right(&["assets", "metadata"]).await?;
    gateway.stop().await?;
    stage.change(1).await?;
    lose_everything(&mut nats, &store).await?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(stage.url()).await?);
    wait_until("the watcher has published again", PATIENCE, async || {
        let stream = jetstream.get_stream("ES_CHANGES").await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages > 5)
    })
    .await?;
    let waits = ["waits, rather than reading around the filter"];
    writer.program.says(&waits).await?;
    stage.change(2).await?;
    let gateway = stage.start(GATEWAY)?;
    stage.is_right(&["assets", "metadata"]).await?;
    for process in [&mut writer, &mut watcher] {
        let ended = process.program.ended()?;
        ensure!(ended.is_none(), "{ended:?}");
    }
    gateway.stop().await?;
    for process in [writer, watcher] {
        process.stop().await?;
    }
    stage.verified(FILTER).await
}
