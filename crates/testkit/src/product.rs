//! The search products that tests run against, and which of them this machine can run.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Once;

use anyhow::{Context, Result};

use crate::jdk::Jdk;
use crate::versions::pinned;

/// A search server of a pinned version (`versions.env`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// Elasticsearch 7.10: the last that AWS calls Elasticsearch; has no point in time.
    Es7_10,
    /// Elasticsearch 7.17.
    Es7_17,
    /// Elasticsearch 8.19; `GET /` is imitated by the launcher, no `_reindex`, no ingest.
    Es8,
    /// Elasticsearch 9; as [`Product::Es8`]; JDK 21 or newer.
    Es9,
    /// OpenSearch 2.19.
    Os2,
    /// OpenSearch 3; JDK 21 or newer.
    Os3,
    /// OpenSearch 2.19 with TLS of its own authority, users, roles and client certificates.
    Os2Secured,
}

/// Which launcher and which class path layout a product has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Elasticsearch7,
    Elasticsearch,
    OpenSearch,
}

impl Product {
    /// Every product without security, oldest first.
    pub const ALL: [Product; 6] = [
        Self::Es7_10,
        Self::Es7_17,
        Self::Es8,
        Self::Es9,
        Self::Os2,
        Self::Os3,
    ];

    /// `elasticsearch` or `opensearch`.
    pub fn name(self) -> &'static str {
        match self.family() {
            Family::Elasticsearch7 | Family::Elasticsearch => "elasticsearch",
            Family::OpenSearch => "opensearch",
        }
    }

    /// The pinned version.
    pub fn version(self) -> &'static str {
        pinned(match self {
            Self::Es7_10 => "ELASTICSEARCH_7_10",
            Self::Es7_17 => "ELASTICSEARCH_7_17",
            Self::Es8 => "ELASTICSEARCH_8",
            Self::Es9 => "ELASTICSEARCH_9",
            Self::Os2 => "OPENSEARCH_2",
            Self::Os3 => "OPENSEARCH_3",
            Self::Os2Secured => "OPENSEARCH_SECURED",
        })
    }

    /// Whether it speaks TLS and asks for credentials.
    pub fn is_secured(self) -> bool {
        self == Self::Os2Secured
    }

    /// Whether a point in time can be opened.
    pub fn has_point_in_time(self) -> bool {
        self != Self::Es7_10
    }

    /// Whether `_reindex` (also from remote), `_update_by_query` and join fields exist in this test server.
    pub fn has_reindex(self) -> bool {
        self.family() != Family::Elasticsearch
    }

    /// The JDK it would run on here, or a sentence that says what is missing.
    pub fn jdk(self) -> Result<Jdk> {
        let wanted = self.wanted_jdk();
        Jdk::find(wanted.clone()).with_context(|| {
            let found: Vec<String> = Jdk::installed().iter().map(|jdk| jdk.major.to_string()).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            format!(
                "{self} needs a JDK from {} to {}, installed: {found}; install one (Debian: apt-get install openjdk-{}-jdk-headless, or default-jdk-headless where that is not to be had) or set JAVA_HOME",
                wanted.start(),
                wanted.end(),
                wanted.start(),
            )
        })
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Es7_10 | Self::Es7_17 => Family::Elasticsearch7,
            Self::Es8 | Self::Es9 => Family::Elasticsearch,
            Self::Os2 | Self::Os3 | Self::Os2Secured => Family::OpenSearch,
        }
    }

    /// Upper ends: 24 took away the security manager, which the older servers install.
    fn wanted_jdk(self) -> RangeInclusive<u32> {
        match self {
            Self::Es9 | Self::Os3 => 21..=25,
            _ => 17..=23,
        }
    }

    /// The Maven coordinates that make up the server.
    pub(crate) fn coordinates(self) -> Vec<String> {
        let version = self.version();
        let plugins = |group: &str, names: &[&str]| -> Vec<String> {
            names
                .iter()
                .map(|name| format!("{group}:{name}:{version}"))
                .collect()
        };
        let log4j = |key| format!("org.apache.logging.log4j:log4j-core:{}", pinned(key));
        match self {
            Self::Es7_10 => vec![format!(
                "org.codelibs:elasticsearch-cluster-runner:{}",
                pinned("ELASTICSEARCH_7_10_RUNNER")
            )],
            Self::Es7_17 => {
                let jackson = pinned("ELASTICSEARCH_7_17_JACKSON");
                let mut all = plugins("org.elasticsearch.plugin", &ELASTICSEARCH_7_PLUGINS);
                all.insert(0, format!("org.elasticsearch:elasticsearch:{version}"));
                all.push(format!("com.fasterxml.jackson.core:jackson-core:{jackson}"));
                all
            }
            Self::Es8 | Self::Es9 => vec![
                format!("org.elasticsearch:elasticsearch:{version}"),
                format!("org.elasticsearch.plugin:transport-netty4:{version}"),
            ],
            Self::Os2 | Self::Os3 | Self::Os2Secured => {
                let mut all = plugins("org.opensearch.plugin", &OPENSEARCH_PLUGINS);
                all.insert(0, format!("org.opensearch:opensearch:{version}"));
                all.push(log4j(match self {
                    Self::Os2 => "OPENSEARCH_2_LOG4J",
                    Self::Os3 => "OPENSEARCH_3_LOG4J",
                    _ => "OPENSEARCH_SECURED_LOG4J",
                }));
                all
            }
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.family() {
            Family::Elasticsearch7 | Family::Elasticsearch => "Elasticsearch",
            Family::OpenSearch => "OpenSearch",
        };
        let security = if self.is_secured() { " (secured)" } else { "" };
        write!(f, "{name} {}{security}", self.version())
    }
}

const ELASTICSEARCH_7_PLUGINS: [&str; 5] = [
    "transport-netty4-client",
    "reindex-client",
    "mapper-extras-client",
    "parent-join-client",
    "lang-mustache-client",
];

const OPENSEARCH_PLUGINS: [&str; 8] = [
    "transport-netty4-client",
    "lang-painless",
    "reindex-client",
    "analysis-common",
    "ingest-common",
    "mapper-extras-client",
    "parent-join-client",
    "lang-mustache-client",
];

/// The products of [`Product::ALL`] that run on this machine; says once which are left out, and why.
pub fn matrix() -> Vec<Product> {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        for product in Product::ALL {
            if let Err(reason) = product.jdk() {
                eprintln!("left out: {reason}");
            }
        }
    });
    Product::ALL
        .into_iter()
        .filter(|product| product.jdk().is_ok())
        .collect()
}
