//! `syncline up`: the whole pipeline as one process, from one file.

use std::fs;

use anyhow::Result;
use testkit::NatsServer;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    program::{PATIENCE, Program, run, text},
};

#[tokio::test]
async fn one_program_with_one_file_carries_an_index_and_goes_on_after_a_restart() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("up");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..2000, 0).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    fs::write(
        &file,
        format!(
            "nats-server:\n  binary: {binary}\n  listen: 127.0.0.1:{port}\n  store_dir: {folder}/jetstream\n\
             es-watcher:\n  es_hosts: [{source}]\n  index_patterns: {index}\n  checkpoint_path: {folder}/checkpoint\n\
             es-writer:\n  es_hosts: [{target}]\n",
            binary = NatsServer::binary()?.display(),
            folder = folder.path().display(),
            source = source.url(),
            target = target.url(),
        ),
    )?;
    for round in 1..3 {
        let program = Program::start(["up", &text(&file)])?;
        program.ready().await?;
        corpus::index_numbers(&source.http(), &index, 1000..2000 + round * 100, round).await?;
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        program.stop().await?;
    }
    assert_equal(&source.http(), &target.http(), &index).await?;
    Ok(())
}

#[tokio::test]
async fn a_check_of_the_configuration_prints_every_section_of_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    fs::write(
        &file,
        "nats-server: { listen: 127.0.0.1:4333 }\n\
         es-watcher:\n  index_patterns:\n  - assets\n  - -temp_*\n  es_password: hidden\nes-writer: {}\n",
    )?;
    let ended = run(["up", &text(&file), "--check-config"]).await?;
    let said = &ended.stdout;
    anyhow::ensure!(ended.code == Some(0), "{ended:?}");
    for part in [
        "up:",
        "nats-server:",
        "es-watcher:",
        "es-writer:",
        "assets",
        "-temp_*",
        "***",
    ] {
        anyhow::ensure!(said.contains(part), "{part:?} is not shown: {said}");
    }
    anyhow::ensure!(!said.contains("hidden"), "{said}");
    let followed = said.matches("nats://127.0.0.1:4333").count();
    anyhow::ensure!(
        followed == 2,
        "both parts use the server of the file: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_file_with_several_mistakes_is_refused_with_all_of_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("syncline.yaml");
    fs::write(
        &file,
        "es-watcher:\n  index_paterns: a\n  poll_interval: soon\nes-writer:\n  batch_size: 0\n",
    )?;
    let ended = run(["up", &text(&file)]).await?;
    let said = &ended.stderr;
    anyhow::ensure!(ended.code == Some(2), "{ended:?}");
    for part in [
        "index_paterns",
        "index_patterns",
        "poll_interval",
        "soon",
        "batch_size",
        "at least 1",
    ] {
        anyhow::ensure!(said.contains(part), "{part:?} is not said: {said}");
    }
    for line in [":2", ":3", ":5"] {
        anyhow::ensure!(said.contains(line), "line {line} is not named: {said}");
    }
    Ok(())
}
