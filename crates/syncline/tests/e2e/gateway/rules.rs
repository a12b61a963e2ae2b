//! Rules on real documents: what matches is at the target, in the form and the place that the rules say.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, wait_until};

use super::{Line, until_seen_through};
use crate::{
    index_name, nodes,
    support::{
        corpus,
        program::{PATIENCE, run, text},
    },
};

const COUNTRIES: [&str; 3] = ["de", "fr", "it"];

/// Users, each as it is in a round: state and country change, some are deleted.
async fn people(http: &Http, index: &str, round: u64) -> Result<()> {
    let mut documents = Vec::new();
    for number in 0..400_u64 {
        let dice = (number * 7 + round * 13) % 10;
        let document = json!({
            "number": number,
            "status": if dice < 6 { "live" } else { "gone" },
            "country": COUNTRIES[((number + round) % 3) as usize],
            "email": format!("user{number}@example.org"),
            "name": { "first": "Ada", "last": format!("L{round}") },
            "born": "10.12.1815",
            "items": [{ "price": number, "card": "4111111111111111" }, { "price": 1, "card": null }],
        });
        documents.push((number.to_string(), None, document));
    }
    http.post_ndjson(&format!("/{index}/_bulk"), corpus::bulk(&documents))
        .await?;
    let gone = json!({ "term": { "number": round } });
    corpus::delete_by_query(http, index, gone).await
}

fn rules(index: &str) -> String {
    format!(
        r#"
filters:
  - name: live-only
    on: {{ index: "{index}" }}
    keep: {{ document: {{ field: status, equals: live }} }}
transforms:
  - mask: {{ field: email, keep_last: 4 }}
  - mask: {{ field: items.card, keep_last: 4 }}
  - rename: {{ from: name.first, to: name.given }}
  - date: {{ field: born, from: "%d.%m.%Y" }}
  - jq: '.total = ([.items[].price] | add)'
"#
    )
}

fn seen(document: &Value) -> Option<Value> {
    if document["status"] != "live" {
        return None;
    }
    let mut seen = document.clone();
    let mail = document["email"].as_str()?;
    seen["email"] = json!("*".repeat(mail.len() - 4) + ".org");
    seen["items"][0]["card"] = json!("************1111");
    seen["name"] = json!({ "given": "Ada", "last": document["name"]["last"] });
    seen["born"] = json!("1815-12-10T00:00:00Z");
    seen["total"] = json!(document["number"].as_u64()? + 1);
    Some(seen)
}

#[tokio::test]
async fn the_target_has_exactly_what_matches_masked_and_computed_whoever_is_killed() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("rules");
    people(&from, &index, 0).await?;
    let line = Line::new(&source.url(), &target.url(), &index, &rules(&index)).await?;
    let (watcher, writer) = (line.pipeline.watcher()?, line.writer()?);
    let mut gateway = line.gateway(&[])?;
    until_seen_through((&from, &index), (&to, &index), seen).await?;
    for round in 1..4 {
        people(&from, &index, round).await?;
        gateway.kill().await?;
        gateway = line.gateway(&[])?;
        until_seen_through((&from, &index), (&to, &index), seen).await?;
    }
    ensure!(
        gateway
            .metric("syncline_gateway_changes_by_rule_total")
            .await?
            > 0.0
    );
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    let (from, to, rules) = (source.url(), target.url(), text(&line.rules()));
    let verify = ["verify", &from, &to, "--indices", &index, "--lag", "0"];
    let through = run([&verify[..], &["--rules", &rules]].concat())
        .await?
        .success()?;
    ensure!(through.stdout.contains("equal: yes"), "{through:?}");
    let without = run(verify).await?;
    ensure!(
        without.code == Some(3),
        "it is not equal without the rules: {without:?}"
    );

    // Rules that were changed are applied to what is there already.
    let forgetful = json!({ "index": { "gc_deletes": "1ms" } });
    target
        .http()
        .put_json(&format!("/{index}/_settings"), &forgetful)
        .await?;
    line.write(
        "filters: [{ keep: { document: { field: country, equals: de } } }]\n\
         transforms: [{ date: { field: born, from: '%d.%m.%Y' } }]",
    )?;
    // What was deleted a moment ago is refused under its old version until the target has forgotten the delete.
    let repair = [&verify[..], &["--rules", &rules, "--repair", "--yes"]].concat();
    let (target, refresh) = (target.http(), format!("/{index}/_refresh"));
    wait_until("a repair has made it equal", PATIENCE, async || {
        target.post_json(&refresh, &Value::Null).await.is_ok()
            && run(repair.clone())
                .await
                .is_ok_and(|ended| ended.code == Some(0))
    })
    .await?;
    let german = |document: &Value| {
        let mut seen = document.clone();
        seen["born"] = json!("1815-12-10T00:00:00Z");
        (document["country"] == "de").then_some(seen)
    };
    until_seen_through((&source.http(), &index), (&target, &index), german).await?;
    Ok(())
}

#[tokio::test]
async fn a_document_moves_with_its_field_and_is_deleted_where_it_was() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name("routes");
    people(&from, &index, 0).await?;
    let rules = format!(
        "transforms: [{{ on: {{ index: {index} }}, \
         route: {{ index: '{{index}}-{{country}}', values: [de, fr, it] }} }}]"
    );
    let line = Line::new(&source.url(), &target.url(), &index, &rules).await?;
    let (watcher, writer, gateway) = (line.pipeline.watcher()?, line.writer()?, line.gateway(&[])?);
    for round in 1..4 {
        for country in COUNTRIES {
            let place = format!("{index}-{country}");
            let here =
                |document: &Value| (document["country"] == country).then(|| document.clone());
            until_seen_through((&from, &index), (&to, &place), here).await?;
        }
        people(&from, &index, round).await?;
    }
    for country in COUNTRIES {
        let place = format!("{index}-{country}");
        let here = |document: &Value| (document["country"] == country).then(|| document.clone());
        until_seen_through((&from, &index), (&to, &place), here).await?;
    }
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    let (from, to, rules) = (source.url(), target.url(), text(&line.rules()));
    let arguments = [
        "verify",
        &from,
        &to,
        "--indices",
        &index,
        "--rules",
        &rules,
        "--lag",
        "0",
    ];
    let verified = run(arguments).await?.success()?;
    ensure!(verified.stdout.contains("3 indices"), "{verified:?}");
    Ok(())
}
