//! A nats-server that comes back from a loss of power without the end of its stream.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, delete_by_query},
    equal::until_equal,
    lost_end::{copy_folder, lose_everything, lose_the_end},
    pipeline::Pipeline,
    program::{PATIENCE, Program},
};

/// The first 200 documents are deleted; others are changed and some are new, or nothing but the deletes is
/// behind what was stored last. The watcher finds its own disk full as well: one that is started then as it opens its
/// stores, one that runs through wherever it stands.
#[tokio::test]
async fn what_the_stream_loses_with_its_end_is_published_again_deletes_included() -> Result<()> {
    for (runs_through, deletes_alone) in [(false, false), (true, false), (false, true)] {
        let (source, target) = nodes().await;
        let index = index_name("lost-end");
        corpus::create(&source.http(), &index, 2, false).await?;
        corpus::index_numbers(&source.http(), &index, 0..1000, 0).await?;
        let folder = tempfile::tempdir()?;
        let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
        let mut watcher =
            Program::start_where_the_disk_may_fill(pipeline.watcher_arguments("watcher"))?;
        let writer = pipeline.writer()?;
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        writer.stop().await?;

        let stream = pipeline.store().join("jetstream/$G/streams/ES_CHANGES");
        let saved = folder.path().join("saved");
        pipeline.nats.kill();
        copy_folder(&stream, &saved)?;
        pipeline.nats.restart().await?;

        let gone = json!({ "range": { "number": { "lt": 200 } } });
        delete_by_query(&source.http(), &index, gone).await?;
        if !deletes_alone {
            corpus::index_numbers(&source.http(), &index, 800..1200, 1).await?;
        }
        let published = if deletes_alone { 1200.0 } else { 1600.0 };
        let client = async_nats::connect(pipeline.nats.url()).await?;
        let log = async_nats::jetstream::new(client)
            .get_stream("ES_CHANGES")
            .await?;
        let deletes = format!("es.default.{}.delete", model::token::encode(&index));
        wait_until("the log has it all", PATIENCE, async || {
            let all = watcher.metric("syncline_watcher_changes_total").await;
            let deletes = log.get_last_raw_message_by_subject(&deletes).await;
            all.is_ok_and(|all| all >= published) && deletes.is_ok()
        })
        .await?;
        if !runs_through {
            watcher.stop().await?;
            lose_the_end(&mut pipeline.nats, &stream, &saved).await?;
            watcher = Program::start_where_the_disk_is_full(pipeline.watcher_arguments("watcher"))?;
            watcher.says(&["free space", "opening it anew"]).await?;
            watcher.limit_files("unlimited")?;
        } else {
            watcher.limit_files("1")?;
            lose_the_end(&mut pipeline.nats, &stream, &saved).await?;
            // Whether it still writes what was before the loss, or opens its stores for what comes after.
            watcher.says(&["free space"]).await?;
            watcher.limit_files("unlimited")?;
        }
        watcher.says(&["the stream has lost its end"]).await?;
        let writer = pipeline.writer()?;
        let left = until_equal(&source.http(), &target.http(), &index, PATIENCE)
            .await
            .with_context(|| watcher.last_words())?;
        ensure!(left == if deletes_alone { 800 } else { 1000 }, "{left}");
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

/// Nobody else creates streams here: whoever uses one has to.
#[tokio::test]
async fn a_server_that_has_lost_everything_is_filled_again_and_nobody_ends() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("lost-all");
    corpus::create(&from, &index, 2, false).await?;
    corpus::index_numbers(&from, &index, 0..1000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let store = pipeline.store();
    let (mut watcher, mut writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&from, &to, &index, PATIENCE).await?;

    // What is under way when the server dies, deletes among it, is nowhere but at the source.
    let loading = corpus::index_numbers(&from, &index, 800..1200, 1);
    tokio::try_join!(loading, lose_everything(&mut pipeline.nats, &store))?;
    delete_by_query(
        &from,
        &index,
        json!({ "range": { "number": { "lt": 200 } } }),
    )
    .await?;
    let left = until_equal(&from, &to, &index, PATIENCE).await;
    let left =
        left.with_context(|| format!("{}\n{}", watcher.last_words(), writer.last_words()))?;
    ensure!(left == 1000, "{left}");
    for program in [&mut watcher, &mut writer] {
        let ended = program.ended()?;
        ensure!(ended.is_none(), "{ended:?}: {}", program.last_words());
    }
    watcher.stop().await?;
    writer.stop().await
}
