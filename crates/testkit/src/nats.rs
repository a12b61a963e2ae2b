//! A real nats-server with JetStream as a child process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::artefacts::Artefact;
use crate::keeper::{self, Home, Kept, Lifetime};
use crate::shared::{Claim, Record};

const START_WITHIN: Duration = Duration::from_secs(60);

/// A running nats-server. Dropping it ends the process and removes its data, unless it is a shared one.
#[derive(Debug)]
pub struct NatsServer {
    options: NatsOptions,
    port: u16,
    kept: Kept,
    /// Held while this process uses a shared server.
    lease: Option<File>,
    is_owned: bool,
}

/// How a nats-server is started.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Most bytes of all file streams together.
    pub max_storage: u64,
    /// Syncs every message to disk before it is acknowledged.
    pub sync_always: bool,
    /// More lines for the part about JetStream.
    pub jetstream: String,
    /// More lines for its configuration file, for example `max_payload: 8MB`.
    pub config: String,
    /// Where JetStream stores; a folder that vanishes with the server if not given.
    pub store: Option<PathBuf>,
    /// The port; a free one if not given or taken.
    pub port: Option<u16>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            max_storage: 10 << 30,
            sync_always: false,
            jetstream: String::new(),
            config: String::new(),
            store: None,
            port: None,
        }
    }
}

impl NatsServer {
    /// Starts one for one owner.
    pub async fn start(options: NatsOptions) -> Result<NatsServer> {
        fetch().await?;
        Self::launch(options, Home::create("nats-server")?, Lifetime::Owner).await
    }

    /// The one that all test processes of this checkout share; the first user starts it.
    ///
    /// # Panics
    /// When it cannot be started: a test can do nothing about that.
    pub async fn shared() -> &'static NatsServer {
        static SERVER: OnceCell<NatsServer> = OnceCell::const_new();
        SERVER
            .get_or_init(|| async {
                Self::named("nats-server", NatsOptions::default(), Lifetime::Lease)
                    .await
                    .unwrap_or_else(|error| panic!("nats-server does not start: {error:#}"))
            })
            .await
    }

    /// One that runs until it is stopped by its name (`Record::stop`), for development and `make demo KEEP=1`.
    pub async fn standing(name: &str, options: NatsOptions) -> Result<NatsServer> {
        Self::named(name, options, Lifetime::Stay).await
    }

    /// The binary itself, fetched if need be: for what runs nats-server on its own.
    pub fn binary() -> Result<PathBuf> {
        Ok(Artefact::NatsServer.fetch()?.join("nats-server"))
    }

    /// Where it answers: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its host and port, for a proxy in front.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.kept.identity.pid
    }

    /// Its log file.
    pub fn logs(&self) -> &Path {
        &self.kept.home.log
    }

    /// Kills it at once; its streams stay for [`NatsServer::restart`].
    pub fn kill(&mut self) {
        self.kept.kill();
    }

    /// Starts it again, on the same port and streams, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kept.kill();
        let home = self.kept.home.clone();
        let (kept, port) = run(&self.options, home, Lifetime::Owner, Some(self.port)).await?;
        self.kept = kept;
        self.port = port;
        Ok(())
    }

    async fn named(name: &str, options: NatsOptions, lifetime: Lifetime) -> Result<NatsServer> {
        let claim = Claim::take(name).await?;
        if let Some((record, lease)) = claim.find() {
            let home = Home {
                folder: record.home,
                log: record.log,
            };
            let kept = Kept::attach(home, record.identity, record.group);
            return Ok(Self {
                options,
                port: record.ports.0,
                kept,
                lease: Some(lease),
                is_owned: false,
            });
        }
        fetch().await?;
        let home = Home::create(name)?;
        let lease = keeper::hold_lease(&home.folder)?;
        let mut server = Self::launch(options, home, lifetime).await?;
        server.kept.detach();
        server.is_owned = false;
        server.lease = Some(lease);
        claim.write(&Record {
            name: name.to_owned(),
            url: server.url(),
            log: server.logs().to_owned(),
            home: server.kept.home.folder.clone(),
            identity: server.kept.identity,
            group: server.kept.group(),
            ports: (server.port, 0),
        })?;
        Ok(server)
    }

    async fn launch(options: NatsOptions, home: Home, lifetime: Lifetime) -> Result<NatsServer> {
        let wanted = options
            .port
            .filter(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
        let (kept, port) = run(&options, home, lifetime, wanted).await?;
        Ok(Self {
            options,
            port,
            kept,
            lease: None,
            is_owned: true,
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if self.is_owned {
            self.kept.clean_up();
        }
    }
}

/// Fetching comes before a home is made, so that its failure leaves none behind.
async fn fetch() -> Result<PathBuf> {
    tokio::task::spawn_blocking(NatsServer::binary).await?
}

/// Starts the process and waits until it answers with JetStream; returns its port.
async fn run(
    options: &NatsOptions,
    home: Home,
    lifetime: Lifetime,
    port: Option<u16>,
) -> Result<(Kept, u16)> {
    let binary = fetch().await?;
    let config = home.folder.join("nats.conf");
    fs::write(&config, configuration(options, &home.folder, port))?;
    let folder = home.folder.clone();
    let command = vec![binary.into(), "--config".into(), config.into()];
    let mut kept = Kept::start(lifetime, home, command).await?;
    let ports = folder.join(format!("nats-server_{}.ports", kept.identity.pid));
    let deadline = Instant::now() + START_WITHIN;
    loop {
        // The file appears before it is complete.
        let port = fs::read(&ports).ok().and_then(|file| listening_port(&file));
        if let Some(port) = port
            && tokio::task::spawn_blocking(move || has_jetstream(port)).await?
        {
            return Ok((kept, port));
        }
        kept.fail_if_over(deadline).context("nats-server")?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn configuration(options: &NatsOptions, home: &Path, port: Option<u16>) -> String {
    let store = options
        .store
        .clone()
        .unwrap_or_else(|| home.join("jetstream"));
    let port = port.map_or(-1, i32::from);
    let sync = if options.sync_always {
        "sync_interval: always"
    } else {
        ""
    };
    format!(
        "host: 127.0.0.1\n\
         port: {port}\n\
         ports_file_dir: {home:?}\n\
         jetstream {{\n  store_dir: {store:?}\n  max_file_store: {}\n  max_memory_store: 268435456\n  {sync}\n  {}\n}}\n\
         {}\n",
        options.max_storage, options.jetstream, options.config,
    )
}

fn listening_port(file: &[u8]) -> Option<u16> {
    let ports: Value = serde_json::from_slice(file).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// A server's first line tells whether JetStream is up.
fn has_jetstream(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut greeting = String::new();
    let answered = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .is_ok()
        && BufReader::new(stream).read_line(&mut greeting).is_ok();
    answered && greeting.starts_with("INFO ") && greeting.contains("\"jetstream\":true")
}
