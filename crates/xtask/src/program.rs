//! The program itself: built, and run as services whose metrics are read.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::Http;

use crate::process::Process;

/// How long a service may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The `syncline` binary and the folder for what its processes leave.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    binary: PathBuf,
    folder: PathBuf,
}

impl Program {
    /// The release binary, built first unless one is given. `folder` is emptied.
    pub(crate) fn prepare(given: Option<&Path>, folder: PathBuf) -> Result<Program> {
        let binary = match given {
            Some(given) => given
                .canonicalize()
                .with_context(|| format!("there is no program {}", given.display()))?,
            None => build()?,
        };
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Program { binary, folder })
    }

    /// Where it is.
    #[cfg(feature = "bench")]
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A path for something of one of its processes.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a command that ends by itself; `name` is that of its log.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let log = self.file(&format!("{name}.log"));
        Process::start(name, &self.binary, arguments, log)
    }

    /// Starts watching `indices` of `source` into the stream `ES_CHANGES`.
    pub(crate) async fn watcher(
        &self,
        source: &str,
        nats: &str,
        indices: &str,
        more: &[&str],
    ) -> Result<Service> {
        let checkpoint = self.file(&format!("checkpoint-{:08x}", fastrand::u32(..)));
        let checkpoint = checkpoint.display().to_string();
        let mut arguments = vec!["--es-hosts", source, "--nats-url", nats];
        arguments.extend([
            "--index-patterns",
            indices,
            "--checkpoint-path",
            &checkpoint,
        ]);
        arguments.extend(more);
        self.service("es-watcher", &arguments).await
    }

    /// Starts watching a PostgreSQL database into the stream `ES_CHANGES`; a later one goes on where it was.
    pub(crate) async fn pg_watcher(
        &self,
        source: &str,
        nats: &str,
        more: &[&str],
    ) -> Result<Service> {
        let checkpoint = self.file("checkpoint").display().to_string();
        let mut arguments = vec!["--source", source, "--nats-url", nats];
        arguments.extend(["--checkpoint-path", &checkpoint]);
        arguments.extend(more);
        self.service("es-watcher", &arguments).await
    }

    /// Starts writing what the stream has into `target`.
    pub(crate) async fn writer(&self, target: &str, nats: &str) -> Result<Service> {
        let arguments = ["--es-hosts", target, "--nats-url", nats];
        self.service("es-writer", &arguments).await
    }

    /// Starts a gateway.
    #[cfg(feature = "bench")]
    pub(crate) async fn gateway(&self, nats: &str, more: &[&str]) -> Result<Service> {
        let mut arguments = vec!["--upstream-url", nats];
        arguments.extend(more);
        self.service("nats-gateway", &arguments).await
    }

    /// Starts the query API over some indices; returns where it answers, too.
    pub(crate) async fn query_api(
        &self,
        cluster: &str,
        indices: &str,
    ) -> Result<(Service, String)> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let arguments = [
            "--es-hosts",
            cluster,
            "--indices",
            indices,
            "--listen",
            &address,
            "--anonymous",
        ];
        Ok((self.service("query-api", &arguments).await?, address))
    }

    /// Starts a gateway with an embedded server on an empty store.
    pub(crate) async fn embedded_gateway(&self) -> Result<Service> {
        let nats = testkit::NatsServer::binary()?.display().to_string();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (listen, store) = (
            format!("127.0.0.1:{port}"),
            self.file("jetstream").display().to_string(),
        );
        let mut arguments = vec!["--embedded", "--nats-binary", &nats];
        arguments.extend(["--nats-listen", &listen, "--store-dir", &store]);
        self.service("nats-gateway", &arguments).await
    }

    async fn service(&self, name: &str, arguments: &[&str]) -> Result<Service> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let mut all = vec![name, "--admin-listen", &address, "--log-format", "text"];
        all.extend(arguments);
        let admin = Http::new(&format!("http://{address}"));
        let began = Instant::now();
        let mut service = Service {
            process: self.command(name, &all)?,
            admin,
            ready_after: Duration::ZERO,
            address,
        };
        service.wait_until_ready().await?;
        service.ready_after = began.elapsed();
        Ok(service)
    }
}

/// The sum of a metric of a service over all labels.
pub(crate) async fn value(admin: &Http, name: &str) -> Result<f64> {
    let text = admin.get_json("/metrics").await?;
    let text = text.as_str().unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        let key = key.split('{').next()?;
        (key == name).then(|| value.parse::<f64>().ok())?
    });
    Ok(values.sum::<f64>())
}

/// Builds it as users run it. Cargo shows what it does.
fn build() -> Result<PathBuf> {
    eprintln!("building the program (release; minutes the first time)…");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "syncline"])
        .current_dir(testkit::checkout())
        .status()
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "`cargo build --release` failed ({status})"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| testkit::checkout().join("target"), PathBuf::from);
    Ok(target.join("release/syncline"))
}

/// A service of the program.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) process: Process,
    /// From its start until it was ready.
    #[cfg_attr(
        not(feature = "bench"),
        allow(dead_code, reason = "a benchmark reads it")
    )]
    pub(crate) ready_after: Duration,
    admin: Http,
    address: String,
}

impl Service {
    /// Where its health and metrics are.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The sum of a metric that counts over all labels; 0 when there is none of it yet.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        Ok(self.value(name).await? as u64)
    }

    /// The sum of a metric over all labels.
    pub(crate) async fn value(&self, name: &str) -> Result<f64> {
        value(&self.admin, name).await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while self.admin.get_json("/health/ready").await.is_err() {
            self.process.expect_alive()?;
            let name = self.process.name();
            ensure!(
                Instant::now() < deadline,
                "{name} is not ready: {}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
