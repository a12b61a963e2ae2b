//! One cluster: sends requests to whichever of its hosts answers.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use crate::{
    ClientConfig, Error, Request, Server,
    auth::{Credentials, Identity},
    hosts::Hosts,
    refusal, retry, tls,
};

/// Smaller bodies are not worth compressing.
const GZIP_ABOVE: usize = 1024;

/// A connection to one cluster. Cheap to clone; clones share the connections and what is known
/// about the hosts.
///
/// A request goes to one host after the other, to each at most once, until one of them answers;
/// what all of them refuse is the caller's to repeat, as [`retry::classify`] says.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<Transport>,
    server: Arc<Server>,
}

impl Client {
    /// Connects and finds out which product and version answers.
    ///
    /// # Errors
    /// When the configuration cannot be used, or no host gives a proper answer.
    pub async fn connect(config: &ClientConfig) -> Result<Client, Error> {
        let transport = Transport::new(config).await?;
        let root = transport.send(Request::get("/")).await;
        let root = root.map_err(hint_at_tls)?;
        let server = Server::from_json(&root)
            .map_err(|e| Error::malformed(format!("GET {}", transport.hosts[0].name), e))?;
        tracing::info!(
            product = server.product.as_str(),
            version = %server.version,
            cluster = server.cluster_name,
            hosts = transport.hosts.len(),
            "connected to search cluster"
        );
        Ok(Client {
            transport: Arc::new(transport),
            server: Arc::new(server),
        })
    }

    /// A client for Amazon OpenSearch Serverless, which does not tell who it is. Nothing is sent.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub async fn serverless(config: &ClientConfig) -> Result<Client, Error> {
        Ok(Client {
            transport: Arc::new(Transport::new(config).await?),
            server: Arc::new(Server::serverless()),
        })
    }

    /// What answers.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Sends a request and returns the body of a successful answer.
    ///
    /// # Errors
    /// Every other answer, and none.
    pub async fn send(&self, request: Request) -> Result<Bytes, Error> {
        self.transport.send(request).await
    }
}

#[derive(Debug)]
struct Transport {
    http: reqwest::Client,
    hosts: Vec<Host>,
    turns: Hosts,
    gzip: bool,
    timeout: Duration,
}

#[derive(Debug)]
struct Host {
    /// The URL without a slash at its end.
    name: String,
    identity: Identity,
    credentials: Credentials,
}

/// A body as it goes over the wire.
struct Encoded {
    bytes: Bytes,
    gzip: bool,
}

impl Transport {
    async fn new(config: &ClientConfig) -> Result<Transport, Error> {
        if config.hosts.is_empty() {
            return Err(Error::Config(
                "no host of the cluster is given; give at least one".into(),
            ));
        }
        let mut hosts = Vec::with_capacity(config.hosts.len());
        for url in &config.hosts {
            hosts.push(Host::new(url.clone(), config).await?);
        }
        let encrypted = config.hosts.iter().any(|url| url.scheme() == "https");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.tls, encrypted)?)
            .http1_only()
            .gzip(config.gzip)
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("syncline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::Config(format!("no HTTP client: {}", innermost(&e))))?;
        Ok(Transport {
            http,
            turns: Hosts::new(hosts.len()),
            hosts,
            gzip: config.gzip,
            timeout: config.request_timeout,
        })
    }

    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        let deadline = Instant::now() + request.timeout.unwrap_or(self.timeout);
        let body = self.encode(&request.body).await?;
        let mut outcome = Err(Error::Config("no host of the cluster is given".into()));
        for number in self.turns.order(Instant::now()) {
            let host = &self.hosts[number];
            outcome = self.attempt(host, &request, &body, deadline).await;
            match &outcome {
                Err(error @ (Error::Connect { .. } | Error::Tls { .. })) => {
                    self.turns.failed(number, Instant::now());
                    tracing::debug!(host = host.name, %error, "host set aside");
                }
                // Says nothing about the host.
                Err(
                    Error::Timeout { .. } | Error::Interrupted { .. } | Error::Credentials { .. },
                ) => {}
                _ => self.turns.answered(number),
            }
            let may_have_arrived = !matches!(outcome, Err(Error::Connect { .. }));
            if !outcome.as_ref().is_err_and(retry::another_host) || request.once && may_have_arrived
            {
                break;
            }
        }
        outcome
    }

    async fn encode(&self, body: &Bytes) -> Result<Encoded, Error> {
        if !self.gzip || body.len() < GZIP_ABOVE {
            return Ok(Encoded {
                bytes: body.clone(),
                gzip: false,
            });
        }
        let plain = body.clone();
        // Megabytes take milliseconds, which other tasks of this thread must not wait for.
        let packed = tokio::task::spawn_blocking(move || {
            let mut encoder =
                GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
            encoder.write_all(&plain)?;
            encoder.finish()
        });
        match packed.await {
            Ok(Ok(bytes)) => Ok(Encoded {
                bytes: bytes.into(),
                gzip: true,
            }),
            Ok(Err(e)) => Err(Error::Config(format!("cannot compress a request: {e}"))),
            Err(e) => Err(Error::Config(format!("cannot compress a request: {e}"))),
        }
    }

    async fn attempt(
        &self,
        host: &Host,
        request: &Request,
        body: &Encoded,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let started = Instant::now();
        let url = format!("{}{}", host.name, request.path);
        let url = Url::parse(&url).map_err(|e| Error::Config(format!("{url:?} is no URL: {e}")))?;
        let mut headers = HeaderMap::with_capacity(8);
        if !body.bytes.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(request.content_type));
        }
        if body.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let credentials = &host.credentials;
        credentials
            .apply(&mut headers, &request.method, &url, &body.bytes)
            .await?;
        let sending = self
            .http
            .request(request.method.clone(), url)
            .headers(headers)
            .body(body.bytes.clone())
            .timeout(deadline.saturating_duration_since(started))
            .send();
        let answer = async {
            let response = sending.await?;
            let status = response.status();
            Ok((status, read(response, request.answer_limit).await?))
        };
        match answer.await {
            Ok((_, None)) => Err(Error::AnswerTooLarge {
                host: host.name.clone(),
                request: request.name(),
                limit: request.answer_limit,
            }),
            Ok((status, Some(bytes))) if status.is_success() => Ok(bytes),
            Ok((status, Some(bytes))) => Err(refusal::error(
                &host.name,
                &host.identity,
                request,
                status,
                &bytes,
            )),
            Err(error) => Err(host.failure(&error, request, started.elapsed())),
        }
    }
}

impl Host {
    async fn new(mut url: Url, config: &ClientConfig) -> Result<Host, Error> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Error::Config(format!(
                "{:?} is no address of a cluster; use http://HOST:PORT or https://HOST:PORT",
                url.host_str().unwrap_or(url.as_str())
            )));
        }
        let (identity, credentials) = Credentials::new(&config.auth, &mut url).await?;
        url.set_query(None);
        url.set_fragment(None);
        Ok(Host {
            name: url.as_str().trim_end_matches('/').to_owned(),
            identity,
            credentials,
        })
    }

    /// What it means that no complete answer came.
    fn failure(&self, error: &reqwest::Error, request: &Request, after: Duration) -> Error {
        let host = self.name.clone();
        if let Some(error) = tls::explain(&host, error) {
            return error;
        }
        let reason = innermost(error);
        if error.is_connect() {
            return Error::Connect { host, reason };
        }
        let request = request.name();
        if error.is_timeout() {
            return Error::Timeout {
                host,
                request,
                after,
            };
        }
        Error::Interrupted {
            host,
            request,
            reason,
        }
    }
}

/// A server that speaks only TLS hangs up on plain HTTP without a word.
fn hint_at_tls(error: Error) -> Error {
    match error {
        Error::Interrupted {
            host,
            request,
            reason,
        } if host.starts_with("http:") => Error::Interrupted {
            host,
            request,
            reason: format!("{reason}; if it speaks TLS, use https:// in its URL"),
        },
        other => other,
    }
}

/// Reads a body into one buffer, allocated once where the length is announced. A body that arrived
/// in one piece is not copied at all.
async fn read(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Option<Bytes>, reqwest::Error> {
    /// An announced length is believed up to here.
    const MAX_RESERVED: u64 = 256 << 20;
    let Some(first) = response.chunk().await? else {
        return Ok(Some(Bytes::new()));
    };
    // What remains, once the first piece was taken.
    let remaining = response.content_length();
    let Some(second) = response.chunk().await? else {
        return Ok(Some(first));
    };
    if remaining.is_some_and(|remaining| remaining > limit as u64) {
        return Ok(None);
    }
    let expected = remaining.unwrap_or(0).min(MAX_RESERVED) as usize;
    let mut body = BytesMut::with_capacity(first.len() + second.len().max(expected));
    body.extend_from_slice(&first);
    drop(first);
    body.extend_from_slice(&second);
    drop(second);
    while let Some(piece) = response.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(body.freeze()))
}

/// The cause at the end of an error's chain, which is the one that says something.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
