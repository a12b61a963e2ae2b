//! Running the program, and arranging data and users for it.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, Security, unique_name, wait_until};
use tokio::process::{Child, Command};

pub(crate) const PASSWORD: &str = "Syncline-test-1";

/// What the program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Fails with everything that was said unless it ended with this code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// It ended in failure with a single sentence that contains all of this.
    #[track_caller]
    pub(crate) fn failed_saying(self, parts: &[&str]) -> Run {
        let run = self.ended(1);
        let lines: Vec<&str> = run.err.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "not one sentence: {run:#?}"
        );
        for part in parts {
            assert!(run.err.contains(part), "{part:?} is not in {:?}", run.err);
        }
        run
    }

    /// The lines of a report of `check` that failed.
    pub(crate) fn failures(&self) -> Vec<String> {
        let lines = self.out.lines();
        lines
            .filter(|line| line.starts_with("FAIL"))
            .map(str::to_owned)
            .collect()
    }
}

/// The program with these arguments and nothing of our environment.
fn command<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    for arg in args {
        command.arg(arg.as_ref());
    }
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Starts a service, which ends when the value is dropped.
pub(crate) fn service<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Child> {
    let service = command(args).stderr(Stdio::null()).spawn();
    service.context("the program was built for this test")
}

/// Runs `syncline` with these arguments to its end.
pub(crate) async fn syncline<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let mut command = command(args);
    command.current_dir(folder.path());
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output
        .await
        .context("syncline did not end within two minutes")??;
    Ok(Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

/// The secured server and a plain one.
pub(crate) struct Pair {
    pub(crate) secured: &'static SearchNode,
    pub(crate) plain: &'static SearchNode,
    pub(crate) security: Security,
}

impl Pair {
    pub(crate) async fn start() -> Pair {
        let (secured, plain) = tokio::join!(
            SearchNode::shared(Product::Os2Secured),
            SearchNode::shared(Product::Os2)
        );
        Pair {
            secured,
            plain,
            security: secured.security().unwrap(),
        }
    }

    /// The flags `--SIDE-ca-file`, `--SIDE-user` and `--SIDE-password`.
    pub(crate) fn login(&self, side: &str, user: &str, password: &str) -> Vec<String> {
        let mut flags = self.trust(side);
        flags.extend([
            format!("--{side}-user={user}"),
            format!("--{side}-password={password}"),
        ]);
        flags
    }

    /// The flag `--SIDE-ca-file`.
    pub(crate) fn trust(&self, side: &str) -> Vec<String> {
        vec![format!(
            "--{side}-ca-file={}",
            self.security.authority().display()
        )]
    }

    /// A user of the secured server whose role is this.
    pub(crate) async fn user(&self, role: &Value) -> Result<String> {
        let user = unique_name("user");
        let user = &user;
        // The server keeps all users in one document, and refuses one of two writers at a time.
        wait_until(
            "the server has the user",
            Duration::from_secs(30),
            || async move {
                match self.secured.add_user(user, PASSWORD, role).await {
                    Ok(()) => true,
                    Err(error) if error.to_string().contains("version conflict") => false,
                    Err(error) => panic!("{error:#}"),
                }
            },
        )
        .await?;
        Ok(user.clone())
    }
}

/// The flags `--SIDE-client-cert` and `--SIDE-client-key`.
pub(crate) fn certificate(side: &str, pair: &testkit::Pair) -> Vec<String> {
    let show = |path: &Path| path.display().to_string();
    vec![
        format!("--{side}-client-cert={}", show(&pair.certificate)),
        format!("--{side}-client-key={}", show(&pair.key)),
    ]
}

/// A new index with documents, two of them routed.
pub(crate) async fn index(node: &SearchNode, prefix: &str) -> Result<String> {
    let name = unique_name(prefix);
    let http = node.http();
    http.put_json(
        &format!("/{name}"),
        &json!({"settings": {"number_of_shards": 2, "number_of_replicas": 0}}),
    )
    .await?;
    let documents = (0..50).map(|n| {
        (
            format!("id {n}"),
            json!({"n": n, "text": format!("döcument {n}")}),
        )
    });
    http.index_documents(&name, documents).await?;
    for n in 0..2 {
        http.put_json(
            &format!("/{name}/_doc/routed-{n}?routing=r{n}&refresh=true"),
            &json!({"routed": n}),
        )
        .await?;
    }
    Ok(name)
}

/// Every document of an index with its routing, by id.
pub(crate) async fn documents(http: &Http, index: &str) -> Result<Vec<(String, Value, Value)>> {
    http.post_json(&format!("/{index}/_refresh"), &Value::Null)
        .await?;
    let answer = http
        .get_json(&format!("/{index}/_search?size=1000"))
        .await?;
    let hits = answer["hits"]["hits"].as_array().context("no hits")?;
    let of = |hit: &Value| {
        (
            hit["_id"].to_string(),
            hit["_routing"].clone(),
            hit["_source"].clone(),
        )
    };
    let mut documents: Vec<_> = hits.iter().map(of).collect();
    documents.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(documents)
}

/// Fails unless the index is the same on both nodes, and not empty.
pub(crate) async fn assert_equal(
    source: &SearchNode,
    target: &SearchNode,
    index: &str,
) -> Result<()> {
    let (source, target) = (
        documents(&source.http(), index).await?,
        documents(&target.http(), index).await?,
    );
    assert!(!source.is_empty());
    assert_eq!(source, target);
    Ok(())
}
