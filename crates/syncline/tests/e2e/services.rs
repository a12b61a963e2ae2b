//! Watcher, nats-server and writer as three processes.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{ChaosProxy, Http, Product, SearchNode, wait_until};
use tokio::task::JoinSet;

use super::{index_name, nodes};
use crate::support::{
    corpus,
    equal::{assert_equal, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, Program},
};

/// Writes into a source until told to stop: several tasks that index, update and
/// delete the same documents.
struct Load(JoinSet<Result<()>>, tokio::sync::watch::Sender<bool>);

impl Load {
    fn start(http: &Http, index: &str) -> Load {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            tasks.spawn(load(http.clone(), index.to_owned(), task, stopped.clone()));
        }
        Load(tasks, stop)
    }

    async fn stop(mut self) -> Result<()> {
        self.1.send_replace(true);
        while let Some(ended) = self.0.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn load(
    http: Http,
    index: String,
    task: u64,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(task);
    let mut written = 0;
    while !*stop.borrow() {
        let mut body = String::new();
        for _ in 0..random.usize(1..60) {
            let id = random.u32(0..3000).to_string();
            written += 1;
            let change = json!({ "by": task, "written": written });
            let lines = if random.u32(0..5) == 0 {
                format!("{}\n", json!({ "delete": { "_id": id } }))
            } else if random.bool() {
                format!("{}\n{change}\n", json!({ "index": { "_id": id } }))
            } else {
                let update = json!({ "update": { "_id": id, "retry_on_conflict": 20 } });
                format!(
                    "{update}\n{}\n",
                    json!({ "doc": { format!("task{task}"): written }, "doc_as_upsert": true })
                )
            };
            body.push_str(&lines);
        }
        http.post_ndjson(&format!("/{index}/_bulk"), body).await?;
    }
    Ok(())
}

#[tokio::test]
async fn changes_of_concurrent_writers_arrive_through_the_stream() -> Result<()> {
    for (from, to) in [
        (Product::Es8, Product::Os2),
        (Product::Os2, Product::Es7_17),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let index = index_name("live");
        let with_join = corpus::has_join(from, to);
        corpus::create(&source.http(), &index, 3, with_join).await?;
        corpus::load(&source.http(), &index, with_join).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
        let load = Load::start(&source.http(), &index);
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        watcher.ready().await?;
        writer.ready().await?;
        // A good while of load behind the backfill.
        wait_until("much has been written", PATIENCE, async || {
            writer
                .metric("syncline_writer_changes_total")
                .await
                .is_ok_and(|changes| changes > 6000.0)
        })
        .await?;
        load.stop().await?;
        until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
        wait_until("the watcher is not behind", PATIENCE, async || {
            watcher
                .metric("syncline_watcher_behind_operations")
                .await
                .is_ok_and(|behind| behind == 0.0)
        })
        .await?;
        watcher.stop().await?;
        writer.stop().await?;
        assert_equal(&source.http(), &target.http(), &index).await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_writers_read_one_stream_into_two_targets_each_by_its_own_filter() -> Result<()> {
    let (source, target) = nodes().await;
    let other = SearchNode::shared(Product::Es7_17).await;
    let (wanted, unwanted) = (index_name("wanted"), index_name("unwanted"));
    let mut pipeline = Pipeline::new(
        &source.url(),
        &target.url(),
        &format!("{wanted},{unwanted}"),
    )
    .await?;
    for index in [&wanted, &unwanted] {
        corpus::create(&source.http(), index, 2, false).await?;
        corpus::index_numbers(&source.http(), index, 0..1000, 0).await?;
    }
    let mut watcher = pipeline.watcher_arguments("watcher");
    watcher.extend(["--tenant".to_owned(), "iconik".to_owned()]);
    let watcher = Program::start(watcher)?;
    let everything = pipeline.writer()?;
    other.url().clone_into(&mut pipeline.target);
    let mut filtered = pipeline.writer_arguments("filtered");
    // The short form, with the index's name as an operator would type it.
    filtered.extend([
        "--filter-subjects".to_owned(),
        format!("es.iconik.{}", escaped(&wanted)),
    ]);
    let filtered = Program::start(filtered)?;
    for index in [&wanted, &unwanted] {
        until_equal(&source.http(), &target.http(), index, PATIENCE).await?;
    }
    until_equal(&source.http(), &other.http(), &wanted, PATIENCE).await?;
    corpus::index_numbers(&source.http(), &wanted, 900..1100, 1).await?;
    corpus::index_numbers(&source.http(), &unwanted, 900..1100, 1).await?;
    until_equal(&source.http(), &target.http(), &unwanted, PATIENCE).await?;
    until_equal(&source.http(), &other.http(), &wanted, PATIENCE).await?;
    let (status, _) = other
        .http()
        .request("HEAD".parse()?, &format!("/{unwanted}"), "")
        .await?;
    ensure!(status == 404, "the filter let through what it should not");
    for program in [watcher, everything, filtered] {
        program.stop().await?;
    }
    Ok(())
}

/// How a name with dots stands in a subject.
fn escaped(index: &str) -> String {
    index.replace('.', "%2E")
}

#[tokio::test]
async fn of_two_watchers_and_writers_of_one_name_one_stands_by_until_the_other_is_killed()
-> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("standby");
    corpus::create(&source.http(), &index, 2, false).await?;
    corpus::index_numbers(&source.http(), &index, 0..1000, 0).await?;
    let mut pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    // With a folder of its own, as on another machine: what the first has published it cannot know.
    let second_watcher = Program::start(pipeline.watcher_arguments("second"))?;
    let second_writer = pipeline.writer()?;
    for second in [&second_watcher, &second_writer] {
        second.says(&["standing by"]).await?;
        ensure!(
            second.readiness().await?.0 == 503,
            "one that stands by is not ready"
        );
    }
    // One is killed, the other is only paused, and wakes up when its successor has begun.
    watcher.kill().await?;
    writer.signal(Signal::SIGSTOP)?;
    corpus::index_numbers(&source.http(), &index, 500..1500, 1).await?;
    for second in [&second_watcher, &second_writer] {
        second.ready().await?;
    }
    second_watcher
        .says(&["kept another ledger", "syncline verify"])
        .await?;
    writer.signal(Signal::SIGCONT)?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let mut writer = writer;
    let status = writer.wait().await?;
    ensure!(
        status.code() == Some(1),
        "a fenced writer has to stop: {status}"
    );
    ensure!(
        writer.has_said(&["error: ", "lease", "was taken by"]),
        "{}",
        writer.last_words()
    );
    corpus::index_numbers(&source.http(), &index, 0..200, 2).await?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    second_watcher.stop().await?;
    second_writer.stop().await
}

#[tokio::test]
async fn what_a_writer_has_sent_before_its_end_changes_nothing_when_it_comes_after_its_successors()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("late");
    corpus::index_numbers(&from, &index, 0..100, 1).await?;
    let proxy = ChaosProxy::start(target.address()).await?;
    let mut pipeline = Pipeline::new(&source.url(), &proxy.url("http"), &index).await?;
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let (watcher, first) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&from, &to, &index, PATIENCE).await?;
    // It sends this, and nothing arrives.
    proxy.half_open();
    corpus::index_numbers(&from, &index, 0..100, 2).await?;
    wait_until("the bulk is under way", PATIENCE, async || proxy.held() > 0).await?;
    first.kill().await?;
    pipeline.target = target.url();
    let second = pipeline.writer()?;
    corpus::index_numbers(&from, &index, 0..50, 3).await?;
    from.delete(&format!("/{index}/_doc/60?refresh=true"))
        .await?;
    until_equal(&from, &to, &index, PATIENCE).await?;
    // Now it arrives: whatever the target makes of it, it counts it.
    let counted = async || -> Result<u64> {
        let stats = to.get_json(&format!("/{index}/_stats/indexing")).await?;
        let indexing = &stats["_all"]["primaries"]["indexing"];
        let of = |what: &str| indexing[what].as_u64().unwrap_or(0);
        Ok(of("index_total") + of("index_failed"))
    };
    let before = counted().await?;
    proxy.heal();
    wait_until("the late bulk has arrived", PATIENCE, async || {
        counted().await.is_ok_and(|now| now >= before + 100)
    })
    .await?;
    ensure!(assert_equal(&from, &to, &index).await? == 99);
    watcher.stop().await?;
    second.stop().await
}
