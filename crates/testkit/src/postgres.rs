//! A real PostgreSQL server as a child process, of the newest version that this system has installed or of another.

mod backup;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use crate::artefacts::Artefact;
use crate::keeper::{Home, Kept, Lifetime};
use crate::psql::PsqlSession;
use crate::tools::Tool;

pub use backup::{Backup, Recovery};

const START_WITHIN: Duration = Duration::from_secs(60);
/// The user `nobody` of every Linux: the server refuses to run as root.
const NOBODY: u32 = 65534;

/// A running server. Dropping it ends the process and removes its data.
#[derive(Debug)]
pub struct PostgresServer {
    options: PostgresOptions,
    port: u16,
    kept: Kept,
}

/// Which version of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PostgresVersion {
    /// The newest that is installed on this system.
    #[default]
    Installed,
    /// The oldest that is supported.
    Oldest,
    /// The newest there is.
    Newest,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Its version.
    pub version: PostgresVersion,
    /// More lines for its `postgresql.conf`, after those that logical replication needs.
    pub config: String,
    /// Its `pg_hba.conf`; everybody is trusted if not given.
    pub hba: Option<String>,
}

impl PostgresServer {
    /// Starts one for one owner, with a superuser `postgres` and a database of that name.
    pub async fn start(options: PostgresOptions) -> Result<PostgresServer> {
        let programs = options.version.programs()?;
        let home = Home::create("postgres")?;
        let data = data_folder(&home)?;
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync"]);
        let made = tokio::task::spawn_blocking(move || initdb.output()).await??;
        ensure!(
            made.status.success(),
            "initdb fails: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        if let Some(hba) = &options.hba {
            fs::write(data.join("pg_hba.conf"), hba)?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let kept = launch(&options, home, port).await?;
        Ok(PostgresServer {
            options,
            port,
            kept,
        })
    }

    /// Where a database is: `postgres://postgres@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.kept.identity.pid
    }

    /// Its log file.
    pub fn logs(&self) -> &Path {
        &self.kept.home.log
    }

    /// The folder with its data.
    pub fn data(&self) -> PathBuf {
        self.kept.home.folder.join("data")
    }

    /// Kills it at once, as a power failure would; its data stays for [`PostgresServer::restart`].
    pub fn kill(&mut self) {
        self.kept.kill();
    }

    /// Starts it again on the same port and data, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kept.kill();
        self.kept = launch(&self.options, self.kept.home.clone(), self.port).await?;
        Ok(())
    }

    /// Changes its settings for the next start.
    pub fn configure(&mut self, options: PostgresOptions) -> Result<()> {
        if let Some(hba) = &options.hba {
            fs::write(self.data().join("pg_hba.conf"), hba)?;
        }
        self.options = options;
        Ok(())
    }

    /// Runs a script in a database with the server's own client, and returns what it prints: one row a
    /// line, values separated by `|`. This is how tests know what the server has, without our code.
    pub async fn psql(&self, database: &str, script: &str) -> Result<String> {
        let mut command = Command::new(programs()?.join("psql"));
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname", &self.url(database)])
            .env("PGOPTIONS", "--client-min-messages=warning")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let script = script.to_owned();
        let output = tokio::task::spawn_blocking(move || -> Result<_> {
            let mut child = command.spawn()?;
            let mut input = child.stdin.take().context("no standard input")?;
            // What it does not read any more it has refused, and says why.
            let writing = std::thread::spawn(move || input.write_all(script.as_bytes()).ok());
            let output = child.wait_with_output()?;
            writing.join().ok();
            Ok(output)
        });
        let output = output.await??;
        if !output.status.success() {
            bail!("psql fails: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Opens a session of the server's own client that stays.
    pub fn session(&self, database: &str) -> Result<PsqlSession> {
        PsqlSession::open(&programs()?.join("psql"), &self.url(database))
    }

    /// A program of the server's version, such as `pg_recvlogical`.
    pub fn program(name: &str) -> Result<PathBuf> {
        Ok(programs()?.join(name))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kept.clean_up();
    }
}

impl PostgresVersion {
    /// The folder with `initdb` and `postgres`; clients are always those of this system.
    fn programs(self) -> Result<PathBuf> {
        match self {
            Self::Installed => programs(),
            other => Ok(Artefact::Postgres(other).fetch()?.join("bin")),
        }
    }
}

/// Makes an empty folder for a server's data.
fn data_folder(home: &Home) -> Result<PathBuf> {
    let data = home.folder.join("data");
    fs::create_dir(&data)?;
    // Which the server insists on.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    if is_root() {
        chown(&data, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(data)
}

/// The folder with the programs of the newest version that is installed.
pub(crate) fn programs() -> Result<PathBuf> {
    let version = |path: &PathBuf| -> u32 {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).unwrap_or(0)
    };
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = folders.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = folders
        .filter(|folder| folder.join("bin/initdb").exists())
        .max_by_key(version);
    match newest {
        Some(folder) => Ok(folder.join("bin")),
        None => bail!(Tool::POSTGRES.remedy()),
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command as a user that the server accepts.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            format!("--reuid={NOBODY}"),
            format!("--regid={NOBODY}"),
            "--clear-groups".to_owned(),
        ])
        .arg(program)
        .current_dir("/");
    command
}

async fn launch(options: &PostgresOptions, home: Home, port: u16) -> Result<Kept> {
    let data = home.folder.join("data");
    let config = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
         wal_level = logical\nmax_wal_senders = 30\nmax_replication_slots = 30\nmax_connections = 100\n\
         shared_buffers = 64MB\nmin_wal_size = 32MB\nlogging_collector = off\n{}\n",
        options.config
    );
    fs::write(data.join("postgresql.auto.conf"), config)?;
    // One that was killed has left it behind; the server looks whether that process lives anyhow.
    let stale = data.join("postmaster.pid");
    if stale.exists() {
        fs::remove_file(stale)?;
    }
    let server = unprivileged(&options.version.programs()?.join("postgres"));
    let mut command = vec![server.get_program().to_owned()];
    command.extend(server.get_args().map(ToOwned::to_owned));
    command.extend(["-D".into(), data.clone().into()]);
    let mut kept = Kept::start(Lifetime::Owner, home, command).await?;
    let deadline = Instant::now() + START_WITHIN;
    let ready = programs()?.join("pg_isready");
    loop {
        let mut probe = Command::new(&ready);
        probe.args(["--quiet", "--host=127.0.0.1", "--port", &port.to_string()]);
        let answers = tokio::task::spawn_blocking(move || probe.status()).await??;
        if answers.success() {
            return Ok(kept);
        }
        kept.fail_if_over(deadline).context("PostgreSQL")?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
