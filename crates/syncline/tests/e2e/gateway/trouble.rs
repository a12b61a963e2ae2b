//! What can go wrong around a gateway: each ends in a dead letter with its reason, in waiting, or in an error,
//! never in silence or loss.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer, wait_until};

use super::{Line, until_seen_through};
use crate::{
    index_name, nodes,
    support::{
        corpus,
        equal::until_equal,
        lost_end::{copy_folder, lose_the_end},
        program::{PATIENCE, run},
    },
};

/// The output is in a server of its own, which loses power: acknowledged messages are gone, and the gateway's
/// floor is above them.
#[tokio::test]
async fn what_the_output_loses_with_its_end_is_given_again_deletes_included() -> Result<()> {
    for runs_through in [false, true] {
        let (source, target) = nodes().await;
        let (from, to) = (source.http(), target.http());
        let index = index_name("lost-output");
        corpus::create(&from, &index, 2, false).await?;
        corpus::index_numbers(&from, &index, 0..1000, 0).await?;
        let store = tempfile::tempdir()?;
        let mut output = NatsServer::start(NatsOptions {
            store: Some(store.path().join("store")),
            ..NatsOptions::default()
        })
        .await?;
        let mut line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
        let input = line.pipeline.nats.url();
        let url = output.url();
        let mut gateway = line.gateway(&["--downstream-url", &url])?;
        gateway.ready().await?;
        let watcher = line.pipeline.watcher()?;
        line.pipeline.log = Some(url.clone());
        let writer = line.pipeline.writer()?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        writer.stop().await?;

        let stream = store.path().join("store/jetstream/$G/streams/ES_GATEWAY");
        let saved = store.path().join("saved");
        output.kill();
        copy_folder(&stream, &saved)?;
        output.restart().await?;
        let published = gateway
            .metric("syncline_gateway_changes_published_total")
            .await?;
        let gone = json!({ "range": { "number": { "lt": 200 } } });
        corpus::delete_by_query(&from, &index, gone).await?;
        corpus::index_numbers(&from, &index, 800..1200, 1).await?;
        wait_until("the output has it all", PATIENCE, async || {
            let now = gateway
                .metric("syncline_gateway_changes_published_total")
                .await;
            now.is_ok_and(|now| now >= published + 600.0)
        })
        .await?;
        // The input holds what may have to be given again, although every reader is past it.
        let readers = run(["readers", "--nats-url", &input]).await?.success()?;
        ensure!(readers.stdout.contains("nats-gateway"), "{readers:?}");
        if runs_through {
            lose_the_end(&mut output, &stream, &saved).await?;
        } else {
            gateway.stop().await?;
            lose_the_end(&mut output, &stream, &saved).await?;
            gateway = line.gateway(&["--downstream-url", &url])?;
        }
        gateway.says(&["has lost its end"]).await?;
        let writer = line.pipeline.writer()?;
        let left = until_equal(&from, &to, &index, PATIENCE).await;
        let left = left.with_context(|| gateway.last_words())?;
        ensure!(left == 1000, "{left}");
        for program in [watcher, gateway, writer] {
            program.stop().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_full_output_makes_the_gateway_wait_and_never_blocks_the_input() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("full-output");
    corpus::create(&from, &index, 1, false).await?;
    for start in (0..40_000).step_by(10_000) {
        corpus::index_padded(&from, &index, start..start + 10_000, 100).await?;
    }
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    // Documents are packed anew, because a rule looks at them, and not compressed.
    line.write("transforms: [{ set: { field: seen, value: true } }]")?;
    let gateway = line.gateway(&["--output-max-bytes", "2MB", "--zstd-level", "0"])?;
    gateway.ready().await?;
    let watcher = line.pipeline.watcher()?;
    gateway.readiness_is(503, "full").await?;
    wait_until("the input has everything", PATIENCE, async || {
        watcher
            .metric("syncline_watcher_changes_total")
            .await
            .is_ok_and(|n| n >= 40_000.0)
    })
    .await?;
    watcher.ready().await?;
    let writer = line.writer()?;
    let seen = |document: &Value| {
        let mut seen = document.clone();
        seen["seen"] = json!(true);
        Some(seen)
    };
    until_seen_through((&from, &index), (&to, &index), seen).await?;
    gateway.ready().await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_loops_or_eats_memory_costs_one_document_and_not_the_gateway() -> Result<()>
{
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("jq");
    corpus::create(&from, &index, 1, false).await?;
    let put = async |id: &str, document: Value| {
        from.put_json(&format!("/{index}/_doc/{id}"), &document)
            .await
    };
    put("good-1", json!({ "do": "nothing" })).await?;
    put("loops", json!({ "do": "loop" })).await?;
    put("eats", json!({ "do": "eat" })).await?;
    put("dives", json!({ "do": "dive" })).await?;
    put("yields-much", json!({ "do": "yield" })).await?;
    put("good-2", json!({ "do": "nothing" })).await?;
    let rules = r#"
transforms:
  - name: trap
    jq: |
      def forever: forever;
      def dive: [dive];
      if .do == "loop" then forever
      elif .do == "eat" then .x = [range(1000000000)]
      elif .do == "dive" then .x = dive
      elif .do == "yield" then ., .
      else .passed = true end
"#;
    let line = Line::new(&source.url(), &target.url(), &index, rules).await?;
    let gateway = line.gateway(&["--jq-memory", "64MB", "--jq-timeout", "3s"])?;
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    let passed = |document: &Value| {
        let mut passed = document.clone();
        passed["passed"] = json!(true);
        (document["do"] == "nothing").then_some(passed)
    };
    until_seen_through((&from, &index), (&to, &index), passed).await?;
    let url = line.pipeline.nats.url();
    let listed = run(["dlq", "list", "--json", "--nats-url", &url])
        .await?
        .success()?;
    let reason = |id: &str| {
        let letters = listed
            .stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut of = letters.filter(|letter| letter["id"] == id);
        of.next()
            .map(|letter| letter["reason"].to_string())
            .unwrap_or_default()
    };
    for (id, words) in [
        ("loops", "took longer than 3s"),
        ("eats", "more memory than 64 MB"),
        ("dives", "was stopped"),
        ("yields-much", "more than one document"),
    ] {
        ensure!(
            reason(id).contains(words) && reason(id).contains("rule trap"),
            "{id}: {}",
            reason(id)
        );
    }
    ensure!(gateway.metric("process_resident_memory_bytes").await? < 200e6);
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_change_is_a_letter_and_a_newer_format_ends_the_gateway() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("foreign");
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    // A rule that looks, so that bodies are opened here and not at the target.
    line.write("transforms: [{ remove: secret }]")?;
    let mut gateway = line.gateway(&[])?;
    gateway.ready().await?;
    let jetstream = line.jetstream().await?;
    let headers = |format: &str| {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [
            ("Syncline-Format", format),
            ("Syncline-Count", "1"),
            ("Syncline-Partition", "by/hand"),
            ("Syncline-Captured", "1"),
        ] {
            headers.insert(name, value);
        }
        headers
    };
    let subject = format!("es.t.{}.index", model::token::encode(&index));
    jetstream
        .publish_with_headers("es.by.hand", headers("1"), "hello".into())
        .await?
        .await?;
    jetstream
        .publish(subject.clone(), "hello".into())
        .await?
        .await?;
    let torn = "{\"index\":{\"_id\":\"1\",\"version\":1}}\n".into();
    jetstream
        .publish_with_headers(subject.clone(), headers("1"), torn)
        .await?
        .await?;
    let foreign = "{\"index\":{\"_id\":\"1\",\"version\":1}}\nno json\n".into();
    jetstream
        .publish_with_headers(subject.clone(), headers("1"), foreign)
        .await?
        .await?;
    wait_until("all are letters", PATIENCE, async || {
        gateway
            .metric("syncline_gateway_refused_total")
            .await
            .is_ok_and(|refused| refused == 4.0)
    })
    .await?;
    let url = line.pipeline.nats.url();
    let listed = run(["dlq", "list", "--json", "--nats-url", &url])
        .await?
        .success()?;
    for words in [
        "no subject of the form",
        "was not published by Syncline",
        "middle of a change",
        "not JSON",
    ] {
        ensure!(listed.stdout.contains(words), "{words}: {listed:?}");
    }
    gateway.ready().await?;
    jetstream
        .publish_with_headers(subject, headers("99"), "x".into())
        .await?
        .await?;
    let status = gateway.wait().await?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(
        gateway.has_said(&["error: ", "format 99", "upgrade the reader"]),
        "{}",
        gateway.last_words()
    );
    Ok(())
}

/// Two gateways of one name: one stands by until the other is killed; two of different names may not fill one
/// stream.
#[tokio::test]
async fn one_gateway_of_a_name_stands_by_and_another_may_not_share_the_output() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("standby-gateway");
    corpus::create(&from, &index, 1, false).await?;
    corpus::index_numbers(&from, &index, 0..500, 0).await?;
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let first = line.gateway(&[])?;
    first.ready().await?;
    let second = line.gateway(&[])?;
    second.says(&["standing by"]).await?;
    ensure!(second.readiness().await?.0 == 503);
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    until_equal(&from, &to, &index, PATIENCE).await?;
    first.kill().await?;
    corpus::index_numbers(&from, &index, 250..750, 1).await?;
    until_equal(&from, &to, &index, PATIENCE).await?;
    second.ready().await?;
    let mut stranger = line.gateway(&["--consumer", "stranger"])?;
    let status = stranger.wait().await?;
    ensure!(
        status.code() == Some(1),
        "{status}: {}",
        stranger.last_words()
    );
    ensure!(
        stranger.has_said(&["error: ", "ES_GATEWAY", "--downstream-url"]),
        "{}",
        stranger.last_words()
    );
    for program in [watcher, second, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn operations_that_are_left_out_are_said_to_be_missing_at_the_target() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("operations");
    corpus::create(&from, &index, 1, false).await?;
    corpus::index_numbers(&from, &index, 0..100, 0).await?;
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let gateway = line.gateway(&["--include-operations", "index,update"])?;
    gateway
        .says(&[
            "leaves out an operation",
            "deleted stay at the target for ever",
        ])
        .await?;
    ensure!(!gateway.has_said(&["stay at the target as they were first"]));
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    until_equal(&from, &to, &index, PATIENCE).await?;
    let gone = json!({ "range": { "number": { "lt": 10 } } });
    corpus::delete_by_query(&from, &index, gone).await?;
    corpus::index_numbers(&from, &index, 90..120, 1).await?;
    wait_until("what is created has come", PATIENCE, async || {
        to.count(&index).await.is_ok_and(|count| count == 120)
    })
    .await?;
    // What JetStream leaves out never comes here.
    let dropped = gateway
        .metric("syncline_gateway_changes_by_rule_total")
        .await?;
    ensure!(
        dropped == 0.0,
        "{dropped} changes crossed the network in vain"
    );
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}
