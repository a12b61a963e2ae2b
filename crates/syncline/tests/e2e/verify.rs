//! `syncline verify`: exit codes, repair, a run that goes on, and comparing while changes flow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::wait_until;

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, index_numbers},
    equal::{assert_equal, until_equal},
    program::{PATIENCE, Program, run, text},
};

#[tokio::test]
async fn a_repair_changes_nothing_without_yes_and_makes_equal_with_it() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("repair");
    corpus::create(&source.http(), &index, 2, false).await?;
    let documents = corpus::load(&source.http(), &index, false).await?;
    let (from, to) = (source.url(), target.url());
    run(["sync", &from, &to, "--indices", &index])
        .await?
        .success()?;
    index_numbers(&source.http(), &index, 0..40, 1).await?;
    index_numbers(&target.http(), &index, 100..107, 1).await?;
    let verify = ["verify", &from, &to, "--indices", &index, "--lag", "0"];
    let with = |more: &[&'static str]| run([&verify[..], more].concat());

    for by in ["--by=content", "--by=version"] {
        let planned = with(&["--repair", by]).await?;
        let plan = "a repair would write 40 and delete 7 documents; nothing was changed";
        ensure!(
            planned.code == Some(3) && planned.stdout.contains(plan),
            "{planned:?}"
        );
    }
    let repaired = with(&["--repair", "--yes", "--by", "version"])
        .await?
        .success()?;
    let said = "repaired: 40 documents written, 7 deleted";
    ensure!(repaired.stdout.contains(said), "{repaired:?}");
    ensure!(assert_equal(&source.http(), &target.http(), &index).await? == documents + 40);
    let equal = with(&["--by", "version", "--json"]).await?.success()?;
    let report: Value = serde_json::from_str(&equal.stdout)?;
    ensure!(report["equal"] == true && report["indices"][0]["by"] == "version");

    with(&["--yes"]).await?.refused(2, &["--repair"])?;
    run(["verify", &from, &from, "--indices", &index, "--repair"])
        .await?
        .refused(1, &["the same cluster"])
}

#[tokio::test]
async fn an_interrupted_run_goes_on_with_the_next_index() -> Result<()> {
    let (source, target) = nodes().await;
    let name = index_name("state");
    let indices = ["a", "b", "c"].map(|letter| format!("{name}-{letter}"));
    for index in &indices {
        for node in [source, target] {
            index_numbers(&node.http(), index, 0..20, 1).await?;
        }
    }
    let folder = tempfile::tempdir()?;
    let state = text(&folder.path().join("state.json"));
    let (from, to, pattern) = (source.url(), target.url(), format!("{name}-*"));
    let verify = [
        "verify",
        &from,
        &to,
        "--indices",
        &pattern,
        "--state",
        &state,
    ];
    // It breaks off at the second index.
    let path = |what: &str| format!("/{}/{what}", indices[1]);
    target
        .http()
        .post_json(&path("_close"), &Value::Null)
        .await?;
    run(verify).await?.refused(1, &[&indices[1], "closed"])?;
    target
        .http()
        .post_json(&path("_open"), &Value::Null)
        .await?;
    ensure!(std::fs::read_to_string(&state)?.contains(&indices[0]));
    // What was found is not looked at again: nobody notices this.
    index_numbers(&target.http(), &indices[0], 20..21, 1).await?;
    let other = [&verify[..], &["--by", "version"]].concat();
    run(other).await?.refused(1, &["another comparison"])?;
    let resumed = run([&verify[..], &["--json"]].concat()).await?.success()?;
    let report: Value = serde_json::from_str(&resumed.stdout)?;
    let goes_on = report["resumed"].as_array().context("no list")?;
    ensure!(goes_on.len() == 1 && goes_on[0]["index"] == *indices[0]);
    ensure!(report["indices"].as_array().map(Vec::len) == Some(3));
    // The run was complete, so the next one begins anew.
    ensure!(!std::path::Path::new(&state).exists());
    let anew = run([&verify[..], &["--lag", "0"]].concat()).await?;
    ensure!(anew.code == Some(3) && anew.stdout.contains("at the target only: 1"));
    Ok(())
}

#[tokio::test]
async fn an_index_that_was_created_anew_is_not_taken_for_the_one_that_was_equal() -> Result<()> {
    let (source, target) = nodes().await;
    let name = index_name("anew");
    let indices = ["a", "b"].map(|letter| format!("{name}-{letter}"));
    for index in &indices {
        for node in [source, target] {
            index_numbers(&node.http(), index, 0..20, 1).await?;
        }
    }
    let folder = tempfile::tempdir()?;
    let state = text(&folder.path().join("state.json"));
    let (from, to, pattern) = (source.url(), target.url(), format!("{name}-*"));
    let verify = [
        "verify",
        &from,
        &to,
        "--indices",
        &pattern,
        "--state",
        &state,
        "--lag",
        "0",
    ];
    let path = format!("/{}", indices[1]);
    target
        .http()
        .post_json(&format!("{path}/_close"), &Value::Null)
        .await?;
    run(verify).await?.refused(1, &["closed"])?;
    target
        .http()
        .post_json(&format!("{path}/_open"), &Value::Null)
        .await?;
    target.http().delete(&format!("/{}", indices[0])).await?;
    index_numbers(&target.http(), &indices[0], 0..19, 1).await?;
    let found = run(verify).await?;
    ensure!(
        found.code == Some(3) && found.stdout.contains("missing at the target: 1"),
        "{found:?}"
    );
    Ok(())
}

/// Changes documents round after round, and some again and again.
async fn write(index: &str) -> Result<()> {
    let (source, _) = nodes().await;
    for round in 0.. {
        let first = round % 200 * 50;
        index_numbers(&source.http(), index, first..first + 50, round).await?;
        index_numbers(&source.http(), index, 0..3, round).await?;
    }
    Ok(())
}

#[tokio::test]
async fn while_changes_flow_nothing_that_arrives_counts_as_different() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("live");
    // So many that by version their positions are compared.
    index_numbers(&source.http(), &index, 0..11_000, 0).await?;
    let (from, to) = (source.url(), target.url());
    let follow = || Program::follow(["sync", &from, &to, "--indices", &index]);
    let sync = follow()?;
    until_equal(&source.http(), &target.http(), &index, PATIENCE).await?;
    let flows = async {
        for by in ["content", "version", "content", "version"] {
            let verify = [
                "verify",
                &from,
                &to,
                "--indices",
                &index,
                "--json",
                "--lag",
                "3s",
            ];
            let ended = run([&verify[..], &["--by", by]].concat()).await?;
            let report: Value = serde_json::from_str(&ended.stdout)?;
            let found = &report["indices"][0];
            ensure!(
                found["left"] == 0 && found["target_exists"] == true,
                "{ended:?}"
            );
            // Not known while something changes, and equal otherwise.
            let changing = found["changing"]["count"] != 0;
            ensure!(
                ended.code == Some(if changing { 3 } else { 0 }),
                "{ended:?}"
            );
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = flows => done?,
        ended = write(&index) => ended?,
    }
    // Without anybody who brings the changes they stand still.
    sync.stop().await?;
    index_numbers(&source.http(), &index, 10_990..11_010, 7).await?;
    for by in ["content", "version"] {
        let verify = [
            "verify",
            &from,
            &to,
            "--indices",
            &index,
            "--json",
            "--lag",
            "100ms",
        ];
        let ended = run([&verify[..], &["--by", by]].concat()).await?;
        let report: Value = serde_json::from_str(&ended.stdout)?;
        let found = &report["indices"][0];
        ensure!(
            ended.code == Some(3) && found["missing"]["count"] == 10,
            "{ended:?}"
        );
        ensure!(
            found["different"]["count"].as_u64() >= Some(10),
            "{ended:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_continuous_comparison_says_since_when_all_is_equal_and_what_is_not() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("continuous");
    index_numbers(&source.http(), &index, 0..500, 0).await?;
    let (from, to) = (source.url(), target.url());
    run(["sync", &from, &to, "--indices", &index])
        .await?
        .success()?;
    let verify = ["verify", &from, &to, "--indices", &index, "--continuous"];
    let paced = [
        "--interval",
        "100ms",
        "--lag",
        "50ms",
        "--max-rate",
        "5000/s",
    ];
    let verify = Program::start([&verify[..], &paced].concat())?;
    verify.ready().await?;
    const SINCE: &str = "syncline_verify_in_sync_as_of_timestamp_seconds";
    const DIFFERENCES: &str = "syncline_verify_differences";
    let since = verify.metric(SINCE).await?;
    ensure!(since > 0.0 && verify.metric(DIFFERENCES).await? == 0.0);
    ensure!(verify.metric("syncline_verify_documents_total").await? >= 1_000.0);
    let later = wait_until("it is compared again", PATIENCE, async || {
        verify.metric(SINCE).await.is_ok_and(|now| now > since)
    });
    later.await?;

    // By version: the document is not read, what is missing is seen.
    index_numbers(&source.http(), &index, 499..502, 1).await?;
    let found = wait_until("the differences are metrics", PATIENCE, async || {
        verify
            .metric(DIFFERENCES)
            .await
            .is_ok_and(|found| found == 3.0)
    });
    found.await.with_context(|| verify.last_words())?;
    let since = verify.metric(SINCE).await?;
    let passes = verify.metric("syncline_verify_passes_total").await?;
    let two_more = wait_until("two more passes", PATIENCE, async || {
        let now = verify.metric("syncline_verify_passes_total").await;
        now.is_ok_and(|now| now >= passes + 2.0)
    });
    two_more.await?;
    ensure!(verify.metric(SINCE).await? == since, "it is not in sync");
    run(["sync", &from, &to, "--indices", &index])
        .await?
        .success()?;
    let again = wait_until("it is in sync again", PATIENCE, async || {
        verify.metric(SINCE).await.is_ok_and(|now| now > since)
    });
    again.await?;
    ensure!(verify.metric(DIFFERENCES).await? == 0.0);

    // An index that is gone has no metrics, and there is nothing left to compare.
    source.http().delete(&format!("/{index}")).await?;
    verify.readiness_is(503, "no index").await?;
    let forgotten = wait_until("its metrics are gone", PATIENCE, async || {
        verify.metric(SINCE).await.is_ok_and(|since| since == 0.0)
    });
    forgotten.await?;
    verify.stop().await
}

#[tokio::test]
async fn a_comparison_that_waits_for_its_next_pass_stops_at_once() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("stops");
    for node in [source, target] {
        index_numbers(&node.http(), &index, 0..5, 0).await?;
    }
    let (from, to) = (source.url(), target.url());
    let verify = ["verify", &from, &to, "--indices", &index];
    let mut verify = Program::start(
        [
            &verify[..],
            &["--continuous", "--interval", "1d", "--by", "content"],
        ]
        .concat(),
    )?;
    verify.ready().await?;
    verify.signal(Signal::SIGTERM)?;
    let ended = tokio::time::timeout(Duration::from_secs(20), verify.wait()).await??;
    ensure!(ended.code() == Some(0), "{ended}");
    Ok(())
}
