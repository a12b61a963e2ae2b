//! The admin API, and rules that are replaced while changes pass.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{Http, wait_until};

use super::{Line, until_seen_through};
use crate::{
    index_name, nodes,
    support::{
        corpus,
        program::{PATIENCE, Program, run},
    },
};

const TOKEN: &str = "a token for the admin API";

async fn ask(http: &Http, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
    http.request(method.parse()?, path, body.to_owned()).await
}

fn below(limit: u64) -> String {
    format!(
        "filters: [{{ name: below, keep: {{ document: {{ field: number, range: {{ lt: {limit} }} }} }} }}]"
    )
}

async fn until_in_force(http: &Http, before: &Value) -> Result<Value> {
    let hash = async || -> Option<Value> {
        let stats = http.get_json("/stats").await.ok()?;
        Some(stats["rules"]["hash"].clone()).filter(|hash| hash != before)
    };
    wait_until("other rules are in force", PATIENCE, async || {
        hash().await.is_some()
    })
    .await?;
    hash().await.context("they were in force a moment ago")
}

#[tokio::test]
async fn rules_are_replaced_by_file_signal_and_request_and_bad_ones_are_refused_whole() -> Result<()>
{
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("reload");
    corpus::create(&from, &index, 2, false).await?;
    corpus::index_numbers(&from, &index, 0..1000, 0).await?;
    let line = Line::new(&source.url(), &target.url(), &index, &below(100)).await?;
    let gateway = line.gateway(&["--admin-token", TOKEN])?;
    gateway.ready().await?;
    let open = gateway.admin().await?;
    let admin = gateway.admin().await?.with_token(TOKEN);
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    let under = |limit: u64| move |d: &Value| (d["number"].as_u64()? < limit).then(|| d.clone());
    until_seen_through((&from, &index), (&to, &index), under(100)).await?;
    let first = open.get_json("/stats").await?["rules"]["hash"].clone();

    // By the file; what is at the target follows when it changes.
    line.write(&below(200))?;
    let second = until_in_force(&open, &first).await?;
    corpus::index_numbers(&from, &index, 0..1000, 1).await?;
    until_seen_through((&from, &index), (&to, &index), under(200)).await?;

    // A bad file is refused with every error, and the rules stay.
    line.write("filters: [{ keep: { index: UPPER } }, { drop: {}, keep: {} }]\ntransforms: [{ jq: '.a |' }]")?;
    gateway.signal(Signal::SIGHUP)?;
    gateway
        .says(&[
            "the new rules are refused",
            "UPPER",
            "either `keep` or `drop`",
            "jq",
        ])
        .await?;
    let stats = open.get_json("/stats").await?;
    ensure!(stats["rules"]["hash"] == second, "{stats}");
    ensure!(
        stats["rules"]["refused"]
            .as_str()
            .is_some_and(|text| text.contains("UPPER"))
    );

    // By request.
    let (status, refused) = ask(
        &admin,
        "PUT",
        "/filters",
        "filters: [{ keep: { index: UPPER } }]",
    )
    .await?;
    ensure!(
        status == 422 && refused["errors"].as_array().is_some_and(|e| e.len() == 1),
        "{refused}"
    );
    let (status, valid) = ask(&admin, "POST", "/filters/validate", &below(5)).await?;
    ensure!(
        status == 200 && valid["names"] == json!(["below"]),
        "{valid}"
    );
    ensure!(
        open.get_json("/stats").await?["rules"]["hash"] == second,
        "validating changes nothing"
    );
    let (status, replaced) = ask(&admin, "PUT", "/filters", &below(300)).await?;
    ensure!(status == 200, "{replaced}");
    corpus::index_numbers(&from, &index, 0..1000, 2).await?;
    until_seen_through((&from, &index), (&to, &index), under(300)).await?;
    let shown = open.get_json("/filters").await?;
    ensure!(
        shown["rules"] == below(300) && shown["from"] == "admin API",
        "{shown}"
    );

    // Nothing passes while it is paused, and everything afterwards.
    ask(&admin, "POST", "/pause", "").await?;
    gateway.readiness_is(503, "paused").await?;
    let passed = gateway.metric("syncline_gateway_entries_total").await?;
    corpus::index_numbers(&from, &index, 0..1000, 3).await?;
    wait_until("the watcher has published it", PATIENCE, async || {
        watcher
            .metric("syncline_watcher_changes_total")
            .await
            .is_ok_and(|changes| changes >= 4000.0)
    })
    .await?;
    ensure!(gateway.metric("syncline_gateway_entries_total").await? - passed <= 1.0);
    ask(&admin, "POST", "/resume", "").await?;
    until_seen_through((&from, &index), (&to, &index), under(300)).await?;
    gateway.ready().await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_route_is_described_and_those_that_change_something_want_the_token() -> Result<()> {
    let (source, target) = nodes().await;
    let index = index_name("openapi");
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let other = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let closed = other.gateway(&[])?;
    let with_token = line.gateway(&["--admin-token", TOKEN])?;
    closed.ready().await?;
    with_token.ready().await?;
    let described = with_token.admin().await?.get_json("/openapi.json").await?;
    let paths = described["paths"].as_object().context("no paths")?;
    ensure!(
        paths.len() == 13,
        "{:?}",
        paths.keys().collect::<BTreeSet<_>>()
    );
    for (path, methods) in paths {
        for (method, description) in methods.as_object().context("no methods")? {
            let (method, path) = (method.to_uppercase(), path.replace("{number}", "1"));
            let wants_token = description["security"].is_array();
            let off = ask(&closed.admin().await?, &method, &path, "").await?;
            let stranger = ask(&with_token.admin().await?, &method, &path, "").await?;
            let wrong = with_token.admin().await?.with_token("another");
            let wrong = ask(&wrong, &method, &path, "").await?;
            if wants_token {
                ensure!(
                    off.0 == 404 && off.1.to_string().contains("--admin-token"),
                    "{method} {path}: {off:?}"
                );
                ensure!(
                    stranger.0 == 401 && wrong.0 == 401,
                    "{method} {path}: {stranger:?} {wrong:?}"
                );
            } else {
                let answers = description["responses"]
                    .as_object()
                    .context("no responses")?;
                ensure!(
                    answers.contains_key(&stranger.0.to_string()),
                    "{method} {path}: {stranger:?}"
                );
            }
        }
    }
    let admin = with_token.admin().await?.with_token(TOKEN);
    ensure!(ask(&admin, "GET", "/dead-letters", "").await?.0 == 200);
    ensure!(ask(&admin, "GET", "/dead-letters/7", "").await?.0 == 404);
    let large = "x".repeat(2 << 20);
    ensure!(ask(&admin, "PUT", "/filters", &large).await?.0 == 413);
    closed.stop().await?;
    with_token.stop().await
}

#[tokio::test]
async fn a_document_on_which_a_rule_fails_is_a_letter_that_is_shown_and_sent_again() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("letters");
    corpus::create(&from, &index, 1, false).await?;
    let rules = "transforms: [{ jq: 'if .at == \"yesterday\" then error(\"no time: \" + .at) else . end' }]";
    let line = Line::new(&source.url(), &target.url(), &index, rules).await?;
    let gateway = line.gateway(&["--admin-token", TOKEN])?;
    gateway.ready().await?;
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    let put = async |id: &str, at: &str| {
        from.put_json(&format!("/{index}/_doc/{id}"), &json!({ "at": at }))
            .await
    };
    for id in ["good", "late", "fixed", "dropped"] {
        put(
            id,
            if id == "good" {
                "01.02.2003"
            } else {
                "yesterday"
            },
        )
        .await?;
    }
    let admin = gateway.admin().await?.with_token(TOKEN);
    let letters = async || -> Result<Vec<Value>> {
        let listed = admin.get_json("/dead-letters?reader=nats-gateway").await?;
        Ok(listed["letters"].as_array().context("no list")?.clone())
    };
    let count = async |wanted: usize| {
        wait_until("there are so many letters", PATIENCE, async || {
            letters().await.is_ok_and(|letters| letters.len() == wanted)
        })
        .await
    };
    count(3).await?;
    let of = async |id: &str| -> Result<String> {
        let letters = letters().await?;
        let letter = letters
            .iter()
            .find(|letter| letter["id"] == id)
            .context("no such letter")?;
        ensure!(
            letter["reason"]
                .as_str()
                .is_some_and(|r| r.contains("transform-1") && r.contains("yesterday"))
        );
        Ok(format!("/dead-letters/{}", letter["number"]))
    };
    let shown = admin.get_json(&of("late").await?).await?;
    ensure!(shown["document"] == json!({ "at": "yesterday" }), "{shown}");
    // One is changed at the source, one is removed, one is sent again under other rules.
    put("fixed", "02.02.2003").await?;
    count(2).await?;
    ensure!(ask(&admin, "DELETE", &of("dropped").await?, "").await?.0 == 204);
    count(1).await?;
    ask(&admin, "PUT", "/filters", "{}").await?;
    let replay = format!("{}/replay", of("late").await?);
    ensure!(ask(&admin, "POST", &replay, "").await?.0 == 202);
    count(0).await?;
    wait_until("it has arrived", PATIENCE, async || {
        to.count(&index).await.is_ok_and(|n| n == 3)
    })
    .await?;
    let late = to.get_json(&format!("/{index}/_doc/late")).await?;
    ensure!(late["_source"] == json!({ "at": "yesterday" }), "{late}");
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn rules_that_are_wrong_at_the_start_end_it_with_every_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rules.yaml");
    std::fs::write(
        &file,
        "filters:\n  - keep: { index: 'a b', document: { field: x, regex: '(' } }\n\
         transforms:\n  - route: { index: 'Upper-{index}' }\n  - masc: email\n  - jq: 'env.HOME'\n",
    )?;
    let path = file.display().to_string();
    let ended = run(["nats-gateway", "--rules", &path]).await?;
    ensure!(ended.code == Some(2), "{ended:?}");
    for words in [
        "rules.yaml:2: `filters[0].keep.index`",
        "rules.yaml:2: `filters[0].keep.document.regex`",
        "rules.yaml:4",
        "no name that an index can have",
        "rules.yaml:5",
        "did you mean `mask`",
        "rules.yaml:6",
        "`env` is not allowed",
    ] {
        ensure!(
            ended.stderr.contains(words),
            "{words} is not said: {}",
            ended.stderr
        );
    }
    let lone: Program = Program::start(["nats-gateway", "--upstream-url", "nats://127.0.0.1:1"])?;
    lone.says(&["waiting for NATS"]).await?;
    lone.stop().await
}
