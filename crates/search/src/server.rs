//! Who answers: product, version and cluster, as `GET /` tells.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// The cluster that a client speaks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Which product it is.
    pub product: Product,
    /// Which version of it.
    pub version: ServerVersion,
    /// What identifies the cluster for ever. `_na_` while a cluster has not formed, empty for
    /// Amazon OpenSearch Serverless.
    pub cluster_uuid: String,
    /// What people call it.
    pub cluster_name: String,
}

impl Server {
    /// What is known without asking: Amazon OpenSearch Serverless has no `GET /`.
    pub(crate) fn serverless() -> Server {
        Server {
            product: Product::OpenSearch,
            version: ServerVersion {
                major: 2,
                minor: 0,
                patch: 0,
            },
            cluster_uuid: String::new(),
            cluster_name: "serverless".to_owned(),
        }
    }

    /// Reads the answer of `GET /`. OpenSearch can be told to pretend to be Elasticsearch 7.10 and
    /// then names no distribution, but its tagline stays.
    pub(crate) fn from_json(body: &[u8]) -> Result<Server, String> {
        let root: Root = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let open = root.version.distribution.as_deref() == Some("opensearch")
            || root.tagline.unwrap_or_default().contains("OpenSearch");
        Ok(Server {
            product: if open {
                Product::OpenSearch
            } else {
                Product::Elasticsearch
            },
            version: root.version.number.parse()?,
            cluster_uuid: root.cluster_uuid,
            cluster_name: root.cluster_name,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product.as_str(), self.version)
    }
}

#[derive(Deserialize)]
struct Root {
    #[serde(default)]
    cluster_uuid: String,
    #[serde(default)]
    cluster_name: String,
    version: RootVersion,
    tagline: Option<String>,
}

#[derive(Deserialize)]
struct RootVersion {
    number: String,
    distribution: Option<String>,
}

/// The two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// Elasticsearch, Amazon's 7.10 included.
    Elasticsearch,
    /// OpenSearch, Amazon's service included.
    OpenSearch,
}

impl Product {
    /// The name in definitions, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Product::Elasticsearch => "elasticsearch",
            Product::OpenSearch => "opensearch",
        }
    }
}

/// A version such as 8.19.21; what follows a dash is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
    /// The third.
    pub patch: u16,
}

impl ServerVersion {
    /// Whether this is `major.minor` or later.
    pub fn at_least(self, major: u16, minor: u16) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for ServerVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.split(['-', '+']).next().unwrap_or(text);
        let mut numbers = plain.split('.').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Ok(ServerVersion {
                major,
                minor,
                patch,
            }),
            _ => Err(format!("{text:?} is no version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_and_version_are_read_from_every_kind_of_answer() {
        let cases = [
            (
                r#"{"version":{"number":"8.19.21"},"tagline":"You Know, for Search"}"#,
                "elasticsearch 8.19.21",
            ),
            (
                r#"{"version":{"number":"2.19.6","distribution":"opensearch"}}"#,
                "opensearch 2.19.6",
            ),
            (
                r#"{"version":{"number":"3.0.0-alpha1","distribution":"opensearch"}}"#,
                "opensearch 3.0.0",
            ),
            (
                r#"{"version":{"number":"7.10.2"},"tagline":"The OpenSearch Project: https://opensearch.org/"}"#,
                "opensearch 7.10.2",
            ),
        ];
        for (body, expected) in cases {
            let server = Server::from_json(body.as_bytes()).unwrap();
            assert_eq!(server.to_string(), expected);
        }
    }

    #[test]
    fn a_page_that_is_no_cluster_is_an_error() {
        assert!(Server::from_json(b"<html>").is_err());
        assert!(Server::from_json(br#"{"version":{"number":"new"}}"#).is_err());
    }
}
