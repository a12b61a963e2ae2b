//! A real Elasticsearch or OpenSearch node as a child process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::artefacts::Artefact;
use crate::http::Http;
use crate::keeper::{self, Home, Kept, Lifetime};
use crate::product::Product;
use crate::search_command::command;
use crate::security::Security;
use crate::shared::{Claim, Record};

/// Starting takes 3 to 8 s; much more while two cores compile beside it.
const START_WITHIN: Duration = Duration::from_secs(120);

/// A running node. Dropping it ends the process and removes its data, unless it is a shared one.
#[derive(Debug)]
pub struct SearchNode {
    product: Product,
    options: NodeOptions,
    ports: (u16, u16),
    kept: Kept,
    /// Held while this process uses a shared node.
    lease: Option<File>,
    is_owned: bool,
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its name, `n0` unless it is one of several.
    pub name: String,
    /// Java heap in megabytes.
    pub heap_megabytes: u32,
    /// Uses the optimising compiler: starts half as fast and runs faster, for benchmarks.
    pub optimised: bool,
    /// More settings of `elasticsearch.yml` or `opensearch.yml`; they win over the ones made here. A comma makes a list.
    pub settings: Vec<(String, String)>,
    /// Where data goes; a folder that vanishes with the node if not given.
    pub data: Option<PathBuf>,
    /// The port for HTTP; a free one if not given or taken.
    pub port: Option<u16>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            name: "n0".to_owned(),
            heap_megabytes: 512,
            optimised: false,
            settings: Vec::new(),
            data: None,
            port: None,
        }
    }
}

impl NodeOptions {
    /// With one more setting.
    pub fn with_setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }
}

impl SearchNode {
    /// Starts a node of this product for one owner.
    pub async fn start(product: Product) -> Result<SearchNode> {
        Self::start_with(product, NodeOptions::default()).await
    }

    /// Starts a node with options.
    pub async fn start_with(product: Product, options: NodeOptions) -> Result<SearchNode> {
        fetch(product).await?;
        let home = Home::create(&label(product))?;
        Self::launch(product, options, home, Lifetime::Owner, (0, 0)).await
    }

    /// The node of this product that all test processes of this checkout share; the first user starts it.
    ///
    /// # Panics
    /// When it cannot be started: a test can do nothing about that.
    pub async fn shared(product: Product) -> &'static SearchNode {
        static NODES: [OnceCell<SearchNode>; 7] = [const { OnceCell::const_new() }; 7];
        NODES[product as usize]
            .get_or_init(|| async {
                Self::named(
                    &label(product),
                    product,
                    NodeOptions::default(),
                    Lifetime::Lease,
                )
                .await
                .unwrap_or_else(|error| panic!("{product} does not start: {error:#}"))
            })
            .await
    }

    /// A node that runs until it is stopped by its name (`Record::stop`), for development and `make demo KEEP=1`.
    pub async fn standing(
        name: &str,
        product: Product,
        options: NodeOptions,
    ) -> Result<SearchNode> {
        Self::named(name, product, options, Lifetime::Stay).await
    }

    /// Where it answers, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", scheme(self.product), self.ports.0)
    }

    /// The host and port of its HTTP, for a proxy in front.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.ports.0).into()
    }

    /// What it is.
    pub fn product(&self) -> Product {
        self.product
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.kept.identity.pid
    }

    /// Its log file.
    pub fn logs(&self) -> &Path {
        &self.kept.home.log
    }

    /// A client that may do everything.
    pub fn http(&self) -> Http {
        match self.security() {
            None => Http::new(&self.url()),
            Some(security) => {
                let (user, password) = Security::ADMIN;
                Http::tls(&self.url(), &security.authority(), None)
                    .expect("the authority was made by testkit")
                    .with_user(user, password)
            }
        }
    }

    /// Certificates and users of the secured product.
    pub fn security(&self) -> Option<Security> {
        self.product
            .is_secured()
            .then(|| Security::at(self.kept.home.folder.join("config")))
    }

    /// Gives the secured product a user with a role of its own; the permissions are those of its roles API.
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        permissions: &serde_json::Value,
    ) -> Result<()> {
        let security = self
            .security()
            .with_context(|| format!("{} has no users", self.product))?;
        let http = Http::tls(&self.url(), &security.authority(), Some(&security.admin()))?;
        let api = "/_plugins/_security/api";
        http.put_json(&format!("{api}/roles/{name}"), permissions)
            .await?;
        http.put_json(
            &format!("{api}/internalusers/{name}"),
            &json!({ "password": password }),
        )
        .await?;
        http.put_json(
            &format!("{api}/rolesmapping/{name}"),
            &json!({ "users": [name] }),
        )
        .await
        .map(drop)
    }

    /// A folder that the node may use as a snapshot repository (`path.repo`).
    pub fn repository(&self) -> PathBuf {
        self.kept.home.folder.join("repo")
    }

    /// Kills it at once, as a power cut would end the process; its data stays for [`SearchNode::restart`].
    pub fn kill(&mut self) {
        self.kept.kill();
    }

    /// Starts it again, on the same ports and data, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kept.kill();
        let ports = self.kept.home.folder.join("ports");
        if ports.exists() {
            fs::remove_file(ports)?;
        }
        let home = self.kept.home.clone();
        let (kept, ports) = run(
            self.product,
            &self.options,
            home,
            Lifetime::Owner,
            self.ports,
        )
        .await?;
        self.kept = kept;
        self.ports = ports;
        self.wait_until_ready().await
    }

    pub(crate) fn transport_port(&self) -> u16 {
        self.ports.1
    }

    async fn named(
        name: &str,
        product: Product,
        options: NodeOptions,
        lifetime: Lifetime,
    ) -> Result<SearchNode> {
        let claim = Claim::take(name).await?;
        if let Some((record, lease)) = claim.find() {
            let home = Home {
                folder: record.home,
                log: record.log,
            };
            let kept = Kept::attach(home, record.identity, record.group);
            return Ok(Self {
                product,
                options,
                ports: record.ports,
                kept,
                lease: Some(lease),
                is_owned: false,
            });
        }
        fetch(product).await?;
        let home = Home::create(name)?;
        let lease = keeper::hold_lease(&home.folder)?;
        let mut node = Self::launch(product, options, home, lifetime, (0, 0)).await?;
        node.kept.detach();
        node.is_owned = false;
        node.lease = Some(lease);
        claim.write(&Record {
            name: name.to_owned(),
            url: node.url(),
            log: node.logs().to_owned(),
            home: node.kept.home.folder.clone(),
            identity: node.kept.identity,
            group: node.kept.group(),
            ports: node.ports,
        })?;
        Ok(node)
    }

    async fn launch(
        product: Product,
        mut options: NodeOptions,
        home: Home,
        lifetime: Lifetime,
        ports: (u16, u16),
    ) -> Result<SearchNode> {
        options.port = options
            .port
            .filter(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
        let ports = (options.port.unwrap_or(ports.0), ports.1);
        let (kept, ports) = run(product, &options, home, lifetime, ports).await?;
        let mut node = Self {
            product,
            options,
            ports,
            kept,
            lease: None,
            is_owned: true,
        };
        node.wait_until_ready().await?;
        Ok(node)
    }

    /// Ready is when the cluster answers that all primaries are there.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let http = self.http();
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let path = "/_cluster/health?wait_for_status=yellow&timeout=1s";
            let answer = http.request(reqwest::Method::GET, path, "").await;
            if let Ok((200, _)) = answer {
                return Ok(());
            }
            self.kept
                .fail_if_over(deadline)
                .with_context(|| format!("{} at {}: {answer:?}", self.product, self.url()))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for SearchNode {
    fn drop(&mut self) {
        if self.is_owned {
            self.kept.clean_up();
        }
    }
}

/// Fetching comes before a home is made, so that its failure leaves none behind.
async fn fetch(product: Product) -> Result<()> {
    tokio::task::spawn_blocking(move || Artefact::Search(product).fetch().map(drop)).await?
}

fn scheme(product: Product) -> &'static str {
    if product.is_secured() {
        "https"
    } else {
        "http"
    }
}

/// A name for folders and logs: `opensearch-2.19.6`.
pub(crate) fn label(product: Product) -> String {
    format!("{}-{}", product.name(), product.version())
}

/// Starts the process and waits until it listens; returns its HTTP and transport ports.
async fn run(
    product: Product,
    options: &NodeOptions,
    home: Home,
    lifetime: Lifetime,
    ports: (u16, u16),
) -> Result<(Kept, (u16, u16))> {
    let prepared = (home.folder.clone(), options.clone());
    let command =
        tokio::task::spawn_blocking(move || command(product, &prepared.1, &prepared.0, ports))
            .await??;
    let ports_file = home.folder.join("ports");
    let mut kept = Kept::start(lifetime, home, command).await?;
    let written = kept
        .wait_for_file(&ports_file, START_WITHIN)
        .await
        .with_context(|| product.to_string())?;
    let mut written = written.split_whitespace().map(str::parse);
    match (written.next(), written.next()) {
        (Some(Ok(http)), Some(Ok(transport))) => Ok((kept, (http, transport))),
        _ => anyhow::bail!("{product} wrote no ports to {}", ports_file.display()),
    }
}
