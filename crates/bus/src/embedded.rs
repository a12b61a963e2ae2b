//! nats-server as a child of this process.
//!
//! The real server, configured by a file in its store folder, supervised: it is started again when it
//! dies, its log becomes ours, and it is stopped last. Two guards keep a store from being used twice:
//! a lock file, held for as long as this process lives, and the server's pid file, by which a server
//! that outlived a killed parent is found and ended before a new one starts.

mod orphan;

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{fcntl::Flock, sys::signal::Signal, unistd::Pid};
use runtime::backoff::Backoff;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long a server may take until JetStream answers: it reads its streams' indices first.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile: whoever embeds it waits for it.
const ASK_EVERY: Duration = Duration::from_millis(3);

/// How to run it.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The program.
    pub binary: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it keeps its streams, its configuration and its pid.
    pub store_dir: PathBuf,
    /// The most memory its memory streams may take, in bytes.
    pub max_memory: u64,
    /// The most disk its file streams may take, in bytes.
    pub max_file: u64,
    /// The largest message, in bytes.
    pub max_payload: usize,
    /// Whether every message is on the disk before it is acknowledged; otherwise a loss of power can
    /// cost what came last.
    pub sync_always: bool,
    /// Who may connect; everyone when not given.
    pub auth: Option<Auth>,
}

/// Who may connect.
#[derive(Clone)]
pub enum Auth {
    /// Whoever knows the user's name and password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// Whoever knows the token.
    Token(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(…)")
    }
}

impl EmbeddedOptions {
    /// A server on `listen` that keeps its data in `store_dir`: 256 MiB of memory, 10 GiB of disk,
    /// messages up to 8 MiB.
    pub fn new(binary: PathBuf, listen: SocketAddr, store_dir: PathBuf) -> EmbeddedOptions {
        EmbeddedOptions {
            binary,
            listen,
            store_dir,
            max_memory: 256 << 20,
            max_file: 10 << 30,
            max_payload: 8 << 20,
            sync_always: false,
            auth: None,
        }
    }

    fn config_file(&self) -> PathBuf {
        self.store_dir.join("nats-server.conf")
    }

    fn pid_file(&self) -> PathBuf {
        self.store_dir.join("nats-server.pid")
    }

    fn config(&self) -> String {
        let sync = if self.sync_always {
            "  sync_interval: always\n"
        } else {
            ""
        };
        let auth = match &self.auth {
            None => String::new(),
            Some(Auth::Token(token)) => format!("authorization {{ token: {} }}\n", quote(token)),
            Some(Auth::User { user, password }) => {
                format!(
                    "authorization {{ user: {}, password: {} }}\n",
                    quote(user),
                    quote(password)
                )
            }
        };
        format!(
            "# Written by syncline at every start; changes here are lost.\n\
             listen: {}\n\
             pid_file: {}\n\
             logtime: false\n\
             max_payload: {}\n\
             jetstream {{\n  store_dir: {}\n  max_memory_store: {}\n  max_file_store: {}\n{sync}}}\n\
             {auth}",
            quote(&self.listen.to_string()),
            quote(&self.pid_file().to_string_lossy()),
            self.max_payload,
            quote(&self.store_dir.to_string_lossy()),
            self.max_memory,
            self.max_file,
        )
    }
}

/// A text as a string of nats-server's configuration language.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EmbeddedError {
    #[error("nats-server cannot be run as {binary} ({reason}): install it, or name its path")]
    NoBinary { binary: String, reason: String },
    #[error("{binary} is nats-server {version}; 2.10 or newer is needed: install a newer one")]
    TooOld { binary: String, version: String },
    #[error("the store folder {folder} cannot be used: {reason}")]
    Folder { folder: String, reason: String },
    #[error(
        "the store folder {folder} is in use by another process (pid {pid}): stop that one, or choose another folder"
    )]
    InUse { folder: String, pid: String },
    #[error("nats-server on {listen} does not start: {reason}")]
    DoesNotStart { listen: SocketAddr, reason: String },
}

/// A running nats-server. Dropping it kills the server; [`NatsServer::stop`] lets it end in order.
#[derive(Debug)]
pub struct NatsServer {
    options: Arc<EmbeddedOptions>,
    pid: watch::Receiver<Option<u32>>,
    stopping: CancellationToken,
    supervisor: Option<AbortOnDropHandle<()>>,
    _lock: Flock<std::fs::File>,
}

impl NatsServer {
    /// Starts the server and waits until JetStream answers.
    ///
    /// # Errors
    /// When the program is missing or too old, the folder is unusable or in use, or the server ends
    /// before it answers, with its own last words.
    pub async fn start(mut options: EmbeddedOptions) -> Result<NatsServer, EmbeddedError> {
        check_version(&options.binary).await?;
        let folder = |error: std::io::Error| EmbeddedError::Folder {
            folder: options.store_dir.display().to_string(),
            reason: error.to_string(),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.store_dir)
            .map_err(folder)?;
        // The path tells a left-over server from any other, whatever folder each was started in.
        let store_dir = options.store_dir.canonicalize().map_err(folder)?;
        options.store_dir = store_dir;
        let folder = |error: std::io::Error| EmbeddedError::Folder {
            folder: options.store_dir.display().to_string(),
            reason: error.to_string(),
        };
        let lock = orphan::lock(&options.store_dir)?;
        orphan::end(&options.pid_file(), &options.config_file()).await;
        write_private(&options.config_file(), &options.config()).map_err(folder)?;

        let options = Arc::new(options);
        let mut server = Server::spawn(&options)?;
        server.wait_until_ready(&options).await?;
        tracing::info!(listen = %options.listen, pid = server.child.id(), "nats-server is running");
        let (pid_tx, pid) = watch::channel(server.child.id());
        let stopping = CancellationToken::new();
        let supervisor = supervise(Arc::clone(&options), server, pid_tx, stopping.clone());
        let supervisor = Some(AbortOnDropHandle::new(tokio::spawn(supervisor)));
        Ok(NatsServer {
            options,
            pid,
            stopping,
            supervisor,
            _lock: lock,
        })
    }

    /// Where clients connect, without credentials.
    pub fn url(&self) -> String {
        format!("nats://{}", self.options.listen)
    }

    /// The process; `None` while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Asks the server to end, and kills it when it has not within `deadline`. To be called after
    /// everything that uses the server has ended.
    pub async fn stop(mut self, deadline: Duration) {
        self.stopping.cancel();
        let Some(supervisor) = self.supervisor.take() else {
            return;
        };
        if timeout(deadline, supervisor).await.is_err() {
            // The supervisor was dropped with its child, which kills it.
            tracing::warn!(?deadline, "nats-server did not end in time and was killed");
        }
    }
}

/// Starts the server again whenever it ends, until it is to stop.
async fn supervise(
    options: Arc<EmbeddedOptions>,
    mut server: Server,
    pid: watch::Sender<Option<u32>>,
    stopping: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        let began = Instant::now();
        let status = tokio::select! {
            biased;
            () = stopping.cancelled() => return server.stop().await,
            status = server.child.wait() => status,
        };
        pid.send_replace(None);
        if began.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        tracing::error!(
            ended = describe(&status),
            last_words = server.last_words(),
            ?pause,
            "nats-server ended; starting it again"
        );
        server = loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            match Server::spawn(&options) {
                Ok(server) => break server,
                Err(error) => tracing::error!(%error, "cannot start nats-server again"),
            }
        };
        pid.send_replace(server.child.id());
    }
}

fn describe(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// The child and its log.
struct Server {
    child: Child,
    last_words: Arc<Mutex<String>>,
    _log: AbortOnDropHandle<()>,
}

impl Server {
    fn spawn(options: &EmbeddedOptions) -> Result<Server, EmbeddedError> {
        let mut child = Command::new(&options.binary)
            .arg("--config")
            .arg(options.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the whole process group; the server has to end last.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| no_binary(&options.binary, &error))?;
        let last_words = Arc::new(Mutex::new(String::new()));
        let log = pass_on(child.stderr.take(), Arc::clone(&last_words));
        Ok(Server {
            child,
            last_words,
            _log: AbortOnDropHandle::new(tokio::spawn(log)),
        })
    }

    async fn wait_until_ready(&mut self, options: &EmbeddedOptions) -> Result<(), EmbeddedError> {
        let failed = |reason: String| EmbeddedError::DoesNotStart {
            listen: options.listen,
            reason,
        };
        let deadline = Instant::now() + START_WITHIN;
        while !answers(options.listen).await {
            let ended = timeout(ASK_EVERY, self.child.wait()).await;
            if let Ok(status) = ended {
                // The log's last line comes through the pipe after the end of the process.
                tokio::task::yield_now().await;
                return Err(failed(format!(
                    "{} ({})",
                    self.last_words(),
                    describe(&status)
                )));
            }
            if Instant::now() >= deadline {
                return Err(failed(format!(
                    "JetStream does not answer within {START_WITHIN:?}"
                )));
            }
        }
        // Something else may answer on this port while our own server fails to bind it.
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            status => Err(failed(format!("{} ({status:?})", self.last_words()))),
        }
    }

    async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            orphan::signal(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        let status = self.child.wait().await;
        tracing::info!(ended = describe(&status), "nats-server has stopped");
    }

    fn last_words(&self) -> String {
        self.last_words
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

/// Whether a NATS server with JetStream greets there.
async fn answers(listen: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    let Ok(Ok(stream)) = timeout_at(deadline, TcpStream::connect(listen)).await else {
        return false;
    };
    let mut greeting = String::new();
    let mut stream = BufReader::new(stream);
    let read = timeout_at(deadline, stream.read_line(&mut greeting)).await;
    matches!(read, Ok(Ok(_)))
        && greeting.starts_with("INFO ")
        && greeting.contains("\"jetstream\":true")
}

/// Makes the server's log lines ours.
async fn pass_on(log: Option<impl AsyncRead + Unpin>, last_words: Arc<Mutex<String>>) {
    let Some(log) = log else { return };
    let mut lines = BufReader::new(log).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // [pid] [LVL] text, or a sentence where the server could not even start.
        let (level, text) = match line
            .split_once("] [")
            .and_then(|(_, rest)| rest.split_once("] "))
        {
            Some((level, text)) => (level, text),
            None => ("FTL", line.as_str()),
        };
        match level {
            "INF" | "DBG" | "TRC" => tracing::debug!(target: "nats_server", "{text}"),
            "WRN" => tracing::warn!(target: "nats_server", "{text}"),
            _ => {
                tracing::error!(target: "nats_server", "{text}");
                text.clone_into(
                    &mut last_words
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner()),
                );
            }
        }
    }
}

async fn check_version(binary: &Path) -> Result<(), EmbeddedError> {
    let output = Command::new(binary).arg("--version").output().await;
    let output = output.map_err(|error| no_binary(binary, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // nats-server: v2.15.1
    let version = text
        .rsplit('v')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let name = binary.display().to_string();
    if !text.contains("nats-server") {
        return Err(EmbeddedError::NoBinary {
            binary: name,
            reason: "it is another program".to_owned(),
        });
    }
    if found < (2, 10) {
        return Err(EmbeddedError::TooOld {
            binary: name,
            version,
        });
    }
    Ok(())
}

fn no_binary(binary: &Path, error: &std::io::Error) -> EmbeddedError {
    EmbeddedError::NoBinary {
        binary: binary.display().to_string(),
        reason: error.to_string(),
    }
}

/// Writes a file that only we can read: it may hold a password.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())
}
