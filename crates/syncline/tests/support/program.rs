//! The program as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use testkit::{Http, wait_until};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Longer than anything takes here, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test: `SYNCLINE_BIN`, or the one that was built with the tests.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("SYNCLINE_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_syncline")),
        PathBuf::from,
    )
}

/// What a command that ended by itself has said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Checks that it ended well.
    pub(crate) fn success(self) -> Result<Ended> {
        ensure!(self.code == Some(0), "it failed: {self:#?}");
        Ok(self)
    }

    /// Checks that it ended with `code` and one sentence on standard error that has all of `words`.
    pub(crate) fn refused(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "not exit code {code}: {self:#?}");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        ensure!(errors.len() == 1, "not one sentence: {self:#?}");
        for word in words {
            ensure!(errors[0].contains(word), "{word:?} is not said: {self:#?}");
        }
        Ok(())
    }
}

/// Runs a command of the program to its end, in a folder of its own.
pub(crate) async fn run<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Result<Ended> {
    let folder = tempfile::tempdir()?;
    let child = command(arguments)
        .current_dir(folder.path())
        // Others run at the same time; a test that means a port says so by a flag.
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = timeout(PATIENCE, child.wait_with_output())
        .await
        .context("the command does not end")??;
    Ok(Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A service that runs. It is killed when this is dropped, or when the test's process dies.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    pid: Pid,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts a service with the given arguments and an admin listener on a free port.
    pub(crate) fn start<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Result<Program> {
        Program::spawn(command(arguments))
    }

    /// Starts a service with a command line as people type it, `./es-writer --flag value`, through a link of
    /// that name in `folder`. What the line leaves to the environment is in `variables`.
    pub(crate) fn called<'a>(
        folder: &Path,
        line: &str,
        variables: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<Program> {
        let words = line.split_whitespace().filter(|word| *word != "\\");
        let mut words = words.map(|word| word.trim_matches('"'));
        let name = words.next().context("no command")?;
        let link = folder.join(name.trim_start_matches("./"));
        if !link.exists() {
            std::os::unix::fs::symlink(binary(), &link)?;
        }
        let mut command = command_of(&link, words);
        command
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .envs(variables);
        Program::launch(command)
    }

    /// Starts a program that is not ours.
    pub(crate) fn other<S: AsRef<str>>(
        binary: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Program> {
        Program::launch(command_of(binary, arguments))
    }

    /// The same with an environment that outlives a file-size limit: writing beyond it is an error
    /// then, as on a full disk, and no signal.
    pub(crate) fn start_where_the_disk_may_fill<S: AsRef<str>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Program> {
        Program::spawn(where_the_disk_may_fill(command(arguments)))
    }

    /// The same with an environment variable or more.
    pub(crate) fn start_where_the_disk_may_fill_with<'a, S: AsRef<str>>(
        arguments: impl IntoIterator<Item = S>,
        variables: impl IntoIterator<Item = (&'a str, &'a Path)>,
    ) -> Result<Program> {
        let mut command = where_the_disk_may_fill(command(arguments));
        command.envs(variables);
        Program::spawn(command)
    }

    /// Starts `sync --follow` with the given arguments.
    pub(crate) fn follow<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Result<Program> {
        let mut command = command(arguments);
        command.arg("--follow");
        Program::launch(command)
    }

    fn spawn(mut command: Command) -> Result<Program> {
        command.args(["--admin-listen", "127.0.0.1:0", "--log-format", "json"]);
        Program::launch(command)
    }

    fn launch(mut command: Command) -> Result<Program> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id().context("it has ended at once")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().context("standard error is a pipe")?;
        tokio::spawn(gather(stderr, Arc::clone(&log)));
        let pid = Pid::from_raw(i32::try_from(pid)?);
        Ok(Program { child, pid, log })
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a line of its log has all of these words.
    pub(crate) fn has_said(&self, words: &[&str]) -> bool {
        self.log()
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Waits for a line of its log.
    pub(crate) async fn says(&self, words: &[&str]) -> Result<()> {
        wait_until(&format!("the log has {words:?}"), PATIENCE, async || {
            self.has_said(words)
        })
        .await
        .with_context(|| self.last_words())
    }

    /// A client of its admin listener.
    pub(crate) async fn admin(&self) -> Result<Http> {
        self.says(&["admin listener started"]).await?;
        let address = self.log().iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["address"].as_str().map(str::to_owned)
        });
        let address = address.context("the admin listener's address is not in the log")?;
        Ok(Http::new(&format!("http://{address}")))
    }

    /// Whether it is ready, and if not, why.
    pub(crate) async fn readiness(&self) -> Result<(u16, Value)> {
        let admin = self.admin().await?;
        admin.request("GET".parse()?, "/health/ready", "").await
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.readiness_is(200, "").await
    }

    /// Waits until readiness answers with a status and a text that contains `reason`.
    pub(crate) async fn readiness_is(&self, status: u16, reason: &str) -> Result<()> {
        let admin = self.admin().await?;
        let what = format!("readiness is {status} {reason}");
        let asked = wait_until(&what, PATIENCE, async || {
            let Ok(get) = "GET".parse() else { return false };
            let answer = admin.request(get, "/health/ready", "").await;
            answer.is_ok_and(|(code, body)| code == status && body.to_string().contains(reason))
        });
        asked.await.with_context(|| self.last_words())
    }

    /// The sum of a metric over all its labels; 0 before it has a value.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let page = self.admin().await?.get_json("/metrics").await?;
        let page = page.as_str().context("/metrics is no text")?;
        let samples = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let starts = rest.starts_with([' ', '{']);
            starts.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(samples.sum())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal::kill(self.pid, signal).context("it is gone")
    }

    /// Sets how large a file it may write: what a full disk looks like to it.
    pub(crate) fn limit_files(&self, bytes: &str) -> Result<()> {
        let (pid, limit) = (self.pid.to_string(), format!("--fsize={bytes}:"));
        let status = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status()?;
        ensure!(status.success(), "prlimit: {status}");
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether and how it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it does not end: {}", self.last_words()))??)
    }

    /// Asks it to stop, and checks that it does so in order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait().await?;
        ensure!(
            status.code() == Some(0),
            "it did not stop in order ({status}): {}",
            self.last_words()
        );
        Ok(())
    }

    /// Kills it at once.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("it is gone")
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        log[log.len().saturating_sub(12)..].join("\n")
    }
}

async fn gather(stderr: tokio::process::ChildStderr, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

/// The kernel ends it with the thread that started it, so that not even a killed test leaves one.
fn command<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Command {
    command_of(&binary(), arguments)
}

fn command_of<S: AsRef<str>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command.args(arguments.into_iter().map(|text| text.as_ref().to_owned()));
    // Whoever runs the tests may have ES_HOSTS and the like set.
    for variable in [
        "ES_HOSTS",
        "NATS_URL",
        "INDEX_PATTERNS",
        "TENANT",
        "CHECKPOINT_PATH",
        "STREAM",
        "CONSUMER",
        "RULES",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true);
    command
}

fn where_the_disk_may_fill(inner: Command) -> Command {
    let mut outer = Command::new("sh");
    outer.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    outer.arg(inner.as_std().get_program());
    outer.args(inner.as_std().get_args());
    outer.kill_on_drop(true);
    outer
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
