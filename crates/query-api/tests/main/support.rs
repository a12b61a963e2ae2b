//! A running API in front of a node, and a client of it.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use clap::FromArgMatches;
use query_api::{Args, NewKeyArgs};
use reqwest::Method;
use runtime::{health::Health, metrics::Metrics};
use serde_json::{Value, json};
use testkit::SearchNode;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The API, which ends with this.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    keys: tempfile::NamedTempFile,
    http: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<Result<(), query_api::ServiceError>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Value,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
        self.running.abort();
    }
}

fn parse<A: clap::Args + FromArgMatches>(flags: &[&str]) -> A {
    let command = A::augment_args(clap::Command::new("test")).no_binary_name(true);
    A::from_arg_matches(&command.get_matches_from(flags)).unwrap()
}

/// A key and its entry for the file.
pub(crate) fn key(flags: &[&str]) -> (String, Value) {
    let new = query_api::new_key(parse::<NewKeyArgs>(flags)).unwrap();
    (new.key, serde_json::from_str(&new.entry).unwrap())
}

impl Api {
    /// In front of a node, for these keys.
    pub(crate) async fn start(node: &SearchNode, keys: &[Value], flags: &[&str]) -> Result<Api> {
        Api::start_at(&node.url(), keys, flags).await
    }

    pub(crate) async fn start_at(url: &str, keys: &[Value], flags: &[&str]) -> Result<Api> {
        testkit::install_crypto();
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), json!({ "keys": keys }).to_string())?;
        let path = file.path().display().to_string();
        let mut all = vec![
            "--es-hosts",
            url,
            "--listen",
            "127.0.0.1:0",
            "--keys-file",
            &path,
        ];
        all.extend(["--schema-interval", "100ms"]);
        if !flags.contains(&"--search-timeout") {
            // Six servers share the cores of a test machine.
            all.extend(["--search-timeout", "60s"]);
        }
        all.extend(flags);
        let (health, metrics) = (Health::default(), Metrics::new());
        let stop = CancellationToken::new();
        let bound = query_api::bind(parse::<Args>(&all), &metrics, &health, &stop).await?;
        let bound = bound.context("the service was stopped")?;
        let address = bound.address();
        let token = stop.clone();
        let running = tokio::spawn(async move { bound.serve(&token).await });
        health.readiness.ready().await;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()?;
        Ok(Api {
            address,
            health,
            metrics,
            keys: file,
            http,
            stop,
            running,
        })
    }

    /// Replaces the keys.
    pub(crate) fn write_keys(&self, keys: &[Value]) -> Result<()> {
        Ok(std::fs::write(
            self.keys.path(),
            json!({ "keys": keys }).to_string(),
        )?)
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Reply> {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let pairs = response.headers().iter();
        let headers = pairs.map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        let headers = headers.collect();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    pub(crate) async fn get(&self, key: &str, path: &str) -> Result<Reply> {
        self.request(Method::GET, path, &[("x-api-key", key)], None)
            .await
    }

    pub(crate) async fn post(&self, key: &str, path: &str, body: &Value) -> Result<Reply> {
        let bearer = format!("Bearer {key}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        self.request(Method::POST, path, &headers, Some(body.to_string()))
            .await
    }

    /// The body of an answer that has to be good.
    pub(crate) async fn ok(&self, key: &str, path: &str) -> Result<Value> {
        let reply = self.get(key, path).await?;
        ensure!(
            reply.status == 200,
            "GET {path}: {} {}",
            reply.status,
            reply.body
        );
        Ok(reply.body)
    }

    /// The same of a body.
    pub(crate) async fn ok_post(&self, key: &str, path: &str, body: &Value) -> Result<Value> {
        let reply = self.post(key, path, body).await?;
        ensure!(
            reply.status == 200,
            "POST {path} {body}: {} {}",
            reply.status,
            reply.body
        );
        Ok(reply.body)
    }

    /// All pages of a list, as ids.
    pub(crate) async fn ids_by_pages(&self, key: &str, path: &str) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        let mut page = self.ok(key, path).await?;
        loop {
            ids.extend(self::ids(&page));
            let Some(cursor) = page["cursor"].as_str() else {
                return Ok(ids);
            };
            page = self.ok(key, &format!("{path}&cursor={cursor}")).await?;
        }
    }
}

/// The ids of an answer's hits, in their order.
pub(crate) fn ids(answer: &Value) -> Vec<String> {
    let hits = answer["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["id"].as_str().unwrap().to_owned())
        .collect()
}

/// A text as one value of a query string.
pub(crate) fn encoded(text: &str) -> String {
    search::encode(text).into_owned()
}
