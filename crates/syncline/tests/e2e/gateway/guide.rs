//! What docs/gateway.md shows is what happens.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use testkit::Http;

use super::{Line, until_seen_through};
use crate::{
    nodes,
    support::{
        corpus,
        program::{run, text},
    },
};

fn page() -> Result<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/gateway.md");
    Ok(std::fs::read_to_string(page)?)
}

/// The code blocks of a language, in their order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn every_rule_file_of_the_guide_is_right_and_the_first_does_what_is_shown() -> Result<()> {
    let page = page()?;
    let folder = tempfile::tempdir()?;
    let (rules, documents) = (
        folder.path().join("rules.yaml"),
        folder.path().join("docs.ndjson"),
    );
    std::fs::write(
        &documents,
        blocks(&page, "json").first().context("no documents")?,
    )?;
    let all = blocks(&page, "yaml");
    ensure!(all.len() >= 3, "the guide shows {} rule files", all.len());
    for (number, block) in all.iter().enumerate() {
        std::fs::write(&rules, block)?;
        let (rules, documents) = (text(&rules), text(&documents));
        let tried = run([
            "nats-gateway",
            "test",
            "--config",
            &rules,
            "--input",
            &documents,
        ]);
        let tried = tried.await?.success()?;
        if number == 0 {
            let texts = blocks(&page, "text");
            let shown = texts
                .iter()
                .find(|block| block.starts_with("1: "))
                .context("no output")?;
            ensure!(
                tried.stdout == *shown,
                "it shows\n{}\nand not\n{shown}",
                tried.stdout
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_rows_of_the_table_of_transforms_are_rules() -> Result<()> {
    let page = page()?;
    let table = page
        .split("| Key | Does | Example |")
        .nth(1)
        .context("no table")?;
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key");
    std::fs::write(&key, "a key of at least sixteen bytes")?;
    let mut count = 0;
    for row in table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [keys, _, example] = cells[..] else {
            anyhow::bail!("a row of three cells is wanted: {row}");
        };
        let example = example.trim_matches('`').replace("\\|", "|");
        for name in keys.split(", ") {
            count += 1;
            let name = name.trim_matches('`');
            let quoted = if name == "jq" {
                format!("'{example}'")
            } else {
                example.clone()
            };
            let rules = format!("transforms:\n  - {name}: {quoted}\n");
            let rules = rules.replace("/run/secrets/key", &text(&key));
            let file = folder.path().join("rules.yaml");
            std::fs::write(&file, rules)?;
            let input = folder.path().join("docs.ndjson");
            std::fs::write(&input, "{\"items\":[]}\n")?;
            let (file, input) = (text(&file), text(&input));
            let tried = run(["nats-gateway", "test", "--config", &file, "--input", &input]);
            tried.await?.success().with_context(|| row.to_owned())?;
        }
    }
    ensure!(count == 12, "the table has {count} transforms");
    Ok(())
}

/// The ten minutes, with a server that is there already.
#[tokio::test]
async fn the_guides_first_rules_mask_filter_and_route_a_real_index() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let unique = testkit::unique_name("guide");
    let rules = blocks(&page()?, "yaml")
        .remove(0)
        .replace("index: users", &format!("index: {unique}"));
    let line = Line::new(&source.url(), &target.url(), &unique, &rules).await?;
    let people = |http: &Http| {
        let documents: Vec<_> = (0..50)
            .map(|n| {
                let status = if n % 2 == 0 { "live" } else { "gone" };
                let document = serde_json::json!({
                    "status": status, "first": format!("F{n}"), "email": format!("u{n}@example.org"),
                });
                (n.to_string(), None, document)
            })
            .collect();
        let (http, body, path) = (
            http.clone(),
            corpus::bulk(&documents),
            format!("/{unique}/_bulk"),
        );
        async move { http.post_ndjson(&path, body).await }
    };
    people(&from).await?;
    let (watcher, writer, gateway) = (line.pipeline.watcher()?, line.writer()?, line.gateway(&[])?);
    let place = format!("{unique}-v2");
    let seen = |document: &serde_json::Value| {
        let mail = document["email"].as_str()?;
        (document["status"] == "live").then(|| {
            serde_json::json!({
                "status": "live",
                "given": document["first"],
                "email": "*".repeat(mail.len() - 4) + ".org",
            })
        })
    };
    until_seen_through((&from, &unique), (&to, &place), seen).await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    let rules = text(&line.rules());
    let (from, to) = (source.url(), target.url());
    run([
        "verify",
        &from,
        &to,
        "--indices",
        &unique,
        "--rules",
        &rules,
        "--lag",
        "0",
    ])
    .await?
    .success()?;
    Ok(())
}
