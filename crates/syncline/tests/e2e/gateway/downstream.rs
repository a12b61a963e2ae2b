//! A gateway between two servers, each with a door of its own, and a downstream that is away.

use anyhow::{Result, ensure};
use testkit::{NatsOptions, NatsServer};

use super::Line;
use crate::{
    index_name, nodes,
    support::{
        corpus,
        equal::until_equal,
        program::{PATIENCE, Program},
    },
};

async fn with_user(name: &str, password: &str) -> Result<NatsServer> {
    NatsServer::start(NatsOptions {
        config: format!("authorization {{ user: {name}, password: {password} }}"),
        ..NatsOptions::default()
    })
    .await
}

#[tokio::test]
async fn changes_cross_to_another_server_with_its_own_credentials_and_wait_while_it_is_away()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("downstream");
    corpus::create(&from, &index, 2, false).await?;
    corpus::index_numbers(&from, &index, 0..500, 0).await?;
    let mut downstream = with_user("edge", "s3cret").await?;
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let there = downstream.url();
    let mut denied = line.gateway(&["--downstream-url", &there])?;
    ensure!(denied.wait().await?.code() == Some(1));
    ensure!(
        denied.has_said(&["error: ", "credentials"]),
        "{}",
        denied.last_words()
    );

    let access = [
        "--downstream-url",
        &there,
        "--downstream-user",
        "edge",
        "--downstream-password",
        "s3cret",
    ];
    let gateway = line.gateway(&access)?;
    gateway.ready().await?;
    let mut arguments = line.pipeline.writer_arguments("es-writer");
    let at = arguments
        .iter()
        .position(|argument| argument == "--nats-url");
    if let Some(url) = at.and_then(|at| arguments.get_mut(at + 1)) {
        url.clone_from(&there);
    }
    arguments.extend(["--nats-user", "edge", "--nats-password", "s3cret"].map(str::to_owned));
    let writer = Program::start(&arguments)?;
    let watcher = line.pipeline.watcher()?;
    until_equal(&from, &to, &index, PATIENCE).await?;

    downstream.kill();
    corpus::index_numbers(&from, &index, 250..750, 1).await?;
    gateway.readiness_is(503, "output").await?;
    downstream.restart().await?;
    until_equal(&from, &to, &index, PATIENCE).await?;
    gateway.ready().await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}
