//! docs/query-api.md, run: its requests are sent, its answers compared, its program run.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;
use testkit::{Product, SearchNode};
use tokio::process::Command;

use crate::support::{Api, key};

/// A fenced block: what stands behind the fence, and what is in it.
struct Block<'a> {
    kind: &'a str,
    text: &'a str,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, after) = after.split_once('\n').unwrap();
        let (text, after) = after.split_once("\n```").unwrap();
        blocks.push(Block { kind, text });
        rest = after;
    }
    blocks
}

fn request(text: &str) -> Result<(Method, &str, &str)> {
    let (line, body) = text.split_once('\n').unwrap_or((text, ""));
    let (method, path) = line.split_once(' ').context("no request line")?;
    Ok((method.parse()?, path, body))
}

/// Whether an answer is as the page has it, where `…` is anything.
fn is_like(given: &Value, shown: &Value) -> bool {
    match (given, shown) {
        (_, Value::String(text)) if text == "…" => true,
        (Value::Object(given), Value::Object(shown)) => {
            given.len() == shown.len()
                && shown
                    .iter()
                    .all(|(name, shown)| given.get(name).is_some_and(|given| is_like(given, shown)))
        }
        (Value::Array(given), Value::Array(shown)) => {
            given.len() == shown.len()
                && given
                    .iter()
                    .zip(shown)
                    .all(|(given, shown)| is_like(given, shown))
        }
        _ => given == shown,
    }
}

#[tokio::test]
async fn the_page_about_the_query_api_is_true() -> Result<()> {
    let page = std::fs::read_to_string(testkit::checkout().join("docs/query-api.md"))?;
    let node = SearchNode::start(Product::Os2).await?;
    let (key, entry) = key(&["web", "--indices", "films", "--fields", "*,-budget"]);
    let api = Api::start(&node, &[entry], &[]).await?;
    let (mut answer, mut printed, mut compared) = (None, None, 0);
    for Block { kind, text } in blocks(&page) {
        match kind {
            "http cluster" => {
                let (method, path, body) = request(text)?;
                let body = if path.contains("_bulk") {
                    format!("{body}\n")
                } else {
                    body.to_owned()
                };
                let (status, said) = node.http().request(method, path, body).await?;
                ensure!(status < 300 && said["errors"] != true, "{text}\n{said}");
                testkit::wait_until(
                    "the index is served",
                    std::time::Duration::from_secs(20),
                    async || {
                        api.get(&key, "/v1/films/count")
                            .await
                            .is_ok_and(|reply| reply.status == 200)
                    },
                )
                .await?;
            }
            "http" => {
                let (method, path, body) = request(text)?;
                let headers = [
                    ("x-api-key", key.as_str()),
                    ("content-type", "application/json"),
                ];
                let body = (!body.is_empty()).then(|| body.to_owned());
                answer = Some((text, api.request(method, path, &headers, body).await?.body));
            }
            "json" => {
                let shown: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
                if let Some((asked, given)) = answer.take() {
                    ensure!(
                        is_like(&given, &shown),
                        "{asked}\nis answered by\n{given:#}\nand the page says\n{text}"
                    );
                    compared += 1;
                }
            }
            "js" => {
                let program = format!(
                    "const URL_OF_API = 'http://{}', KEY = '{key}';\n{text}",
                    api.address
                );
                let output = Command::new("node")
                    .args(["--input-type=module", "--eval", &program])
                    .output()
                    .await
                    .context("cannot run node")?;
                ensure!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                printed = Some(String::from_utf8(output.stdout)?);
            }
            "text" => assert_eq!(printed.take().unwrap().trim(), text),
            _ => {}
        }
    }
    assert!(compared >= 5, "the page has lost its answers");
    Ok(())
}
