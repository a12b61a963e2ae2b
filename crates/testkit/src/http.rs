//! A small HTTP client for arranging and looking at test data. It is not the product's: a bug there must not hide here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method};
use serde_json::Value;

use crate::security::Pair;

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    base: String,
    user: Option<(String, String)>,
    token: Option<String>,
}

impl Http {
    /// For a server without security. Belongs to the runtime that first uses it: make one per test.
    pub fn new(base: &str) -> Http {
        Self::build(builder().tls_certs_only([]), base)
            .expect("a client without certificates can be built")
    }

    /// For a server whose certificate is signed by the authority in a PEM file, with a client certificate if given.
    pub fn tls(base: &str, authority: &std::path::Path, client: Option<&Pair>) -> Result<Http> {
        let authority = Certificate::from_pem(&std::fs::read(authority)?)?;
        let mut builder = builder().tls_certs_only([authority]);
        if let Some(pair) = client {
            let mut pem = std::fs::read(&pair.key)?;
            pem.extend(std::fs::read(&pair.certificate)?);
            builder = builder.identity(Identity::from_pem(&pem)?);
        }
        Self::build(builder, base)
    }

    /// Sends a bearer token with every request.
    pub fn with_token(mut self, token: &str) -> Http {
        self.token = Some(token.to_owned());
        self
    }

    /// The same with a user and a password.
    pub fn with_user(mut self, user: &str, password: &str) -> Http {
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The JSON under a path.
    pub async fn get_json(&self, path: &str) -> Result<Value> {
        self.expect(Method::GET, path, Bytes::new()).await
    }

    /// Puts JSON.
    pub async fn put_json(&self, path: &str, body: &Value) -> Result<Value> {
        self.expect(Method::PUT, path, body.to_string().into())
            .await
    }

    /// Posts JSON.
    pub async fn post_json(&self, path: &str, body: &Value) -> Result<Value> {
        self.expect(Method::POST, path, body.to_string().into())
            .await
    }

    /// Posts lines of JSON, for `_bulk`; an item that failed is an error.
    pub async fn post_ndjson(&self, path: &str, body: impl Into<Bytes>) -> Result<Value> {
        let answer = self.expect(Method::POST, path, body.into()).await?;
        ensure!(
            answer["errors"] != true,
            "POST {path}: some items failed: {answer:.2000}"
        );
        Ok(answer)
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.expect(Method::DELETE, path, Bytes::new()).await
    }

    /// Indexes documents under the given ids and makes them visible.
    pub async fn index_documents<I, D>(&self, index: &str, documents: I) -> Result<()>
    where
        I: IntoIterator<Item = (D, Value)>,
        D: Into<String>,
    {
        let mut body = String::new();
        for (id, document) in documents {
            let action = serde_json::json!({ "index": { "_id": id.into() } });
            body.push_str(&format!("{action}\n{document}\n"));
        }
        self.post_ndjson(&format!("/{index}/_bulk?refresh=true"), body)
            .await
            .map(drop)
    }

    /// How many documents a search sees after a refresh.
    pub async fn count(&self, index: &str) -> Result<u64> {
        self.post_json(&format!("/{index}/_refresh"), &Value::Null)
            .await?;
        let answer = self.get_json(&format!("/{index}/_count")).await?;
        answer["count"].as_u64().context("_count without a count")
    }

    /// The status and body of any request; an empty body is sent as none, and an answer that is no JSON is a string.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(u16, Value)> {
        let body = body.into();
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, Some(password));
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if !body.is_empty() && &body[..] != b"null" {
            let kind = if path.contains("_bulk") {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            request = request.header("Content-Type", kind).body(body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let text = response
            .text()
            .await
            .with_context(|| format!("{method} {path}"))?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    fn build(builder: ClientBuilder, base: &str) -> Result<Http> {
        let client = builder.build().context("cannot build an HTTP client")?;
        Ok(Http {
            client,
            base: base.trim_end_matches('/').to_owned(),
            user: None,
            token: None,
        })
    }

    async fn expect(&self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let (status, answer) = self.request(method.clone(), path, body).await?;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: status {status}: {answer:.2000}"
        );
        Ok(answer)
    }
}

fn builder() -> ClientBuilder {
    install_crypto();
    Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(60))
}

/// Installs the process-wide provider of cryptography; harmless when there is one already.
pub fn install_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}
