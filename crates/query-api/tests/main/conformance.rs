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
    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "15".to_owned());
    let said = run(Command::new(tools.join("schemathesis"))
        .current_dir(folder.path())
        .args(["run", "--no-color", "--checks", "all"])
        // What a description cannot say: that `q` has to be given for `match`, that a cursor has to be
        // one that was given out. That is refused with 400.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--max-examples", &examples])
        .arg("-H")
        .arg(format!("X-API-Key: {key}"))
        .arg(format!("http://{}/openapi.json", api.address)))
    .await?;
    println!("{said}");
    Ok(())
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
