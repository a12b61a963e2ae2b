//! What operators and orchestrators ask: ready, live, metrics.

use anyhow::{Context, Result, ensure};
use testkit::ChaosProxy;

use super::{index_name, nodes};
use crate::support::{corpus, equal::until_equal, pipeline::Pipeline, program::PATIENCE};

#[tokio::test]
async fn a_service_waits_for_its_cluster_and_is_ready_once_that_answers() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("late");
    corpus::create(&source.http(), &index, 1, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..300, 0).await?;
    let source_proxy = ChaosProxy::start(source.address()).await?;
    let target_proxy = ChaosProxy::start(target.address()).await?;
    source_proxy.cut();
    target_proxy.cut();
    let pipeline =
        Pipeline::new(&source_proxy.url("http"), &target_proxy.url("http"), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    watcher.readiness_is(503, "source").await?;
    writer.readiness_is(503, "target").await?;
    for program in [&watcher, &writer] {
        let (status, _) = program
            .admin()
            .await?
            .request("GET".parse()?, "/health/live", "")
            .await?;
        ensure!(status == 200, "waiting is no reason to be restarted");
    }
    source_proxy.heal();
    target_proxy.heal();
    watcher.ready().await?;
    writer.ready().await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;

    // The same when the clusters go away while they are in use.
    source_proxy.cut();
    target_proxy.cut();
    corpus::index_numbers(&source.http(), &index, 200..500, 1).await?;
    watcher.readiness_is(503, "source").await?;
    source_proxy.heal();
    writer.readiness_is(503, "target").await?;
    target_proxy.heal();
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    watcher.ready().await?;
    writer.ready().await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn metrics_are_open_metrics_and_count_what_was_done() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("metrics");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..700, 0).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    for (program, changes) in [
        (&watcher, "syncline_watcher_changes_total"),
        (&writer, "syncline_writer_changes_total"),
    ] {
        let page = program.admin().await?.get_json("/metrics").await?;
        let page = page.as_str().context("/metrics is no text")?;
        ensure!(page.ends_with("# EOF\n"), "the page does not end: {page}");
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            ensure!(
                name.starts_with("syncline_") || name.starts_with("process_"),
                "{line}"
            );
            value.parse::<f64>().with_context(|| line.to_owned())?;
        }
        ensure!(
            page.contains(&format!("index=\"{index}\"")),
            "no label for the index: {page}"
        );
        ensure!(program.metric(changes).await? == 700.0, "{page}");
    }
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn an_admin_port_in_use_is_said_with_the_flag_that_changes_it() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?.to_string();
    let ended = crate::support::program::run(["es-writer", "--admin-listen", &taken]).await?;
    ended.refused(1, &[&taken, "--admin-listen"])
}
