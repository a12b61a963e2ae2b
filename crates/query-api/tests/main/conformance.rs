//! The service against its own description: a tool that attacks it by that, and a client generated from it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Product, SearchNode};
use tokio::process::Command;

use crate::{
    search::films,
    support::{Api, key},
};

async fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}\n{said}\n{errors}");
    Ok(said)
}

async fn tools() -> Result<std::path::PathBuf> {
    tokio::task::spawn_blocking(testkit::python_tools).await?
}

/// Every change is tested with the same requests, so that it fails for what it has changed itself. Others are
/// for a run by hand: `SCHEMATHESIS_SEED=random`, or a number, and `SCHEMATHESIS_EXAMPLES=100`; other options of
/// the program (`--phases fuzzing`) in `SCHEMATHESIS_ARGS`.
const SEED: &str = "20261121";

/// A request that is too long is refused as well as one that is wrong.
const SETTINGS: &str = "[checks.negative_data_rejection]\n\
    expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, \"5xx\"]\n";

#[tokio::test]
async fn schemathesis_finds_nothing() -> Result<()> {
    let tools = tools().await?;
    let node = SearchNode::shared(Product::Os2).await;
    let index = films(&node.http()).await?;
    let (key, entry) = key(&["web"]);
    let api = Api::start(
        node,
        &[entry],
        &["--indices", &index, "--position-timeout", "50ms"],
    )
    .await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("schemathesis.toml"), SETTINGS)?;
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let seed = match setting("SCHEMATHESIS_SEED", SEED).as_str() {
        "random" => fastrand::u32(..).to_string(),
        seed => seed.to_owned(),
    };
    println!("SCHEMATHESIS_SEED={seed}");
    let output = Command::new(tools.join("schemathesis"))
        .current_dir(folder.path())
        .args(["run", "--no-color", "--checks", "all"])
        // What a description cannot say: that `q` has to be given for `match`, that a cursor has to be
        // one that was given out. That is refused with 400.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--max-examples", &setting("SCHEMATHESIS_EXAMPLES", "15")])
        .args(["--seed", &seed])
        .args(setting("SCHEMATHESIS_ARGS", "").split_whitespace())
        .arg("-H")
        .arg(format!("X-API-Key: {key}"))
        .arg(format!("http://{}/openapi.json", api.address))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "SCHEMATHESIS_SEED={seed}\n{}\n{}",
        failures_first(&said),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{said}");
    Ok(())
}

/// What was found before how it went on, which is long: a log that is cut at its end still says what failed.
fn failures_first(said: &str) -> String {
    let titles = ["= FAILURES =", "= ERRORS ="];
    let line_of = |title: &str| {
        said.find(title)
            .map(|at| said[..at].rfind('\n').unwrap_or(0))
    };
    match titles.iter().filter_map(|title| line_of(title)).min() {
        Some(start) => format!("{}\n{}", &said[start..], &said[..start]),
        None => said.to_owned(),
    }
}

#[tokio::test]
async fn a_generated_client_searches() -> Result<()> {
    let tools = tools().await?;
    let node = SearchNode::shared(Product::Os2).await;
    let index = films(&node.http()).await?;
    let (key, entry) = key(&["web"]);
    let api = Api::start(node, &[entry], &["--indices", &index]).await?;
    let description: Value = api.ok(&key, "/openapi.json").await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, description.to_string())?;
    run(Command::new(tools.join("openapi-python-client"))
        .current_dir(folder.path())
        .args([
            "generate",
            "--meta",
            "none",
            "--output-path",
            "client",
            "--path",
        ])
        .arg(&file))
    .await?;
    let program = folder.path().join("ask.py");
    std::fs::write(&program, program_of(folder.path(), &index)?)?;
    let said = run(Command::new(tools.join("python"))
        .current_dir(folder.path())
        .arg(&program)
        .args([format!("http://{}", api.address), key, index])
        .env("PYTHONDONTWRITEBYTECODE", "1"))
    .await?;
    assert_eq!(said.trim(), "Alien,Star Wars 2");
    Ok(())
}

/// The names of generated modules begin with that of the index, changed to what a module may be called.
fn program_of(folder: &Path, index: &str) -> Result<String> {
    let mut module = None;
    for entry in std::fs::read_dir(folder.join("client/api"))? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            let name = path
                .file_stem()
                .context("a file without a name")?
                .to_string_lossy()
                .into_owned();
            if name.ends_with("search_get") {
                let tag = path
                    .parent()
                    .and_then(Path::file_name)
                    .context("no folder")?;
                module = Some(format!("client.api.{}.{name}", tag.to_string_lossy()));
            }
        }
    }
    let module = module.with_context(|| format!("no search of {index} was generated"))?;
    Ok(format!(
        "import importlib, sys\n\
         from client import AuthenticatedClient\n\
         url, key, index = sys.argv[1:]\n\
         client = AuthenticatedClient(base_url=url, token=key)\n\
         search = importlib.import_module('{module}')\n\
         answer = search.sync(client=client, year='in.(1977,1979)', sort='title')\n\
         titles = ','.join(hit.document['title'] if 'title' in hit.document.additional_properties else hit.document.title for hit in answer.hits)\n\
         print(titles, answer.found.count)\n"
    ))
}
