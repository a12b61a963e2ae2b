//! What JetStream itself can decide never crosses the network.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::Info;
use futures::TryStreamExt;
use serde_json::{Value, json};
use testkit::wait_until;

use super::Line;
use crate::{
    index_name, nodes,
    support::{
        corpus,
        equal::{contents, until_equal},
        program::{PATIENCE, Program},
    },
};

/// The gateway's consumer, as the server knows it.
async fn consumer(line: &Line) -> Result<Info> {
    let stream = line.jetstream().await?.get_stream("ES_CHANGES").await?;
    let all: Vec<Info> = stream.consumers().try_collect().await?;
    let is_ours = |info: &Info| {
        let description = info.config.description.as_deref();
        description.is_some_and(|text| text.ends_with("reader nats-gateway"))
    };
    // One that was left behind goes after a minute by itself; the newest is in use.
    let ours = all.into_iter().filter(is_ours);
    ours.max_by_key(|info| info.created).context("no consumer")
}

async fn stats(gateway: &Program) -> Result<Value> {
    gateway.admin().await?.get_json("/stats").await
}

fn keeping(indices: &[&str]) -> String {
    format!(
        "filters: [{{ keep: {{ index: '{}' }} }}, {{ drop: {{ operation: delete }} }}]",
        indices.join(",")
    )
}

#[tokio::test]
async fn what_no_rule_lets_through_is_left_in_the_stream_until_other_rules_let_it_through()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let name = index_name("subjects");
    let [wanted, other] = ["wanted", "other"].map(|end| format!("{name}-{end}"));
    for index in [&wanted, &other] {
        corpus::create(&from, index, 2, false).await?;
        corpus::index_numbers(&from, index, 0..1000, 0).await?;
    }
    let line = Line::new(
        &source.url(),
        &target.url(),
        &format!("{name}-*"),
        &keeping(&[&wanted]),
    )
    .await?;
    let gateway = line.gateway(&[])?;
    gateway.ready().await?;
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    until_equal(&from, &to, &wanted, PATIENCE).await?;
    for index in [&wanted, &other] {
        let gone = json!({ "range": { "number": { "lt": 10 } } });
        corpus::delete_by_query(&from, index, gone).await?;
    }
    wait_until(
        "the watcher has published all of it",
        PATIENCE,
        async || {
            let published = watcher.metric("syncline_watcher_changes_total").await;
            published.is_ok_and(|changes| changes >= 2020.0)
        },
    )
    .await?;

    // The server's word: what it has delivered, and what it has left out on the way to the end of the stream.
    let token = |index: &str| model::token::encode(index).into_owned();
    let subjects = |index: &str| {
        ["definition", "index", "update"].map(|kind| format!("es.*.{}.{kind}", token(index)))
    };
    let jetstream = line.jetstream().await?;
    let passed = async || -> Result<bool> {
        let end = jetstream
            .get_stream("ES_CHANGES")
            .await?
            .cached_info()
            .state
            .last_sequence;
        let stats = stats(&gateway).await?;
        let passed = stats["entries"].as_u64().zip(stats["left_out"].as_u64());
        Ok(passed.is_some_and(|(entries, left_out)| entries + left_out == end))
    };
    wait_until(
        "the gateway is at the end of the stream",
        PATIENCE,
        async || passed().await.is_ok_and(|passed| passed),
    )
    .await
    .with_context(|| gateway.last_words())?;
    let (known, stats_now) = (consumer(&line).await?, stats(&gateway).await?);
    let entries = stats_now["entries"].as_u64().context("no number")?;
    let left_out = stats_now["left_out"].as_u64().context("no number")?;
    ensure!(
        known.config.filter_subjects == subjects(&wanted),
        "{:?}",
        known.config
    );
    ensure!(
        stats_now["reads"] == json!(subjects(&wanted)),
        "{stats_now}"
    );
    ensure!(
        known.delivered.consumer_sequence <= entries,
        "{known:?} {stats_now}"
    );
    ensure!(
        left_out >= 4,
        "{stats_now}: a definition, documents, and the deletes of two indices"
    );
    ensure!(
        gateway
            .metric("syncline_gateway_entries_left_out_total")
            .await?
            == left_out as f64
    );
    let dropped = gateway
        .metric("syncline_gateway_changes_by_rule_total")
        .await?;
    ensure!(
        dropped == 0.0,
        "{dropped} changes crossed the network in vain"
    );

    // Other rules count for what comes, whatever the old ones have left out; the deletes stay out.
    line.write(&keeping(&[&wanted, &other]))?;
    let mut both = subjects(&wanted).to_vec();
    both.extend(subjects(&other));
    both.sort();
    wait_until("other subjects are read", PATIENCE, async || {
        stats(&gateway)
            .await
            .is_ok_and(|stats| stats["reads"] == json!(both))
    })
    .await?;
    corpus::index_numbers(&from, &other, 10..1000, 1).await?;
    until_equal(&from, &to, &other, PATIENCE).await?;
    let left = contents(&to, &wanted).await?.len();
    ensure!(left == 1000, "{left}: deletes do not go on");

    // Rules that want everything again.
    line.write("{}")?;
    corpus::index_numbers(&from, &wanted, 0..1000, 2).await?;
    until_equal(&from, &to, &wanted, PATIENCE).await?;
    wait_until("everything is read", PATIENCE, async || {
        let consumer = consumer(&line).await;
        consumer.is_ok_and(|consumer| consumer.config.filter_subjects.is_empty())
    })
    .await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}
