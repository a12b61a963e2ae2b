//! A session of the server's own client that stays: a statement at a time, without a connection for each.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// What `psql` says when it is through with a statement; no row of ours looks like it.
const DONE: &str = "-- done --";

/// An open session. Dropping it ends it.
#[derive(Debug)]
pub struct PsqlSession {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl PsqlSession {
    /// Opens one; `program` is `psql`, `url` a database.
    pub(crate) fn open(program: &std::path::Path, url: &str) -> Result<PsqlSession> {
        let mut child = Command::new(program)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname", url])
            .env("PGOPTIONS", "--client-min-messages=warning")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run psql")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        Ok(PsqlSession {
            child,
            input,
            output: BufReader::new(output).lines(),
        })
    }

    /// Runs statements, and returns the rows when the server has answered the last of them: values separated
    /// by `|`.
    pub async fn run(&mut self, statements: &str) -> Result<Vec<String>> {
        let text = format!("{statements};\n\\echo '{DONE}'\n");
        self.input.write_all(text.as_bytes()).await?;
        let mut rows = Vec::new();
        while let Some(line) = self.output.next_line().await? {
            if line == DONE {
                return Ok(rows);
            }
            rows.push(line);
        }
        let mut errors = String::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            stderr.read_to_string(&mut errors).await?;
        }
        bail!("psql fails: {errors}")
    }
}
