//! A TLS server whose certificate has expired.
//!
//! OpenSearch refuses to start with an expired certificate, but one can run out while it is running. This is what a
//! client then sees: a handshake that it must break off. What comes after a handshake is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http::install_crypto;
use crate::security::Security;

/// Listens until dropped.
#[derive(Debug)]
pub struct ExpiredServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ExpiredServer {
    /// Listens on a free port with an expired certificate of this authority.
    pub async fn start(security: &Security) -> Result<ExpiredServer> {
        install_crypto();
        let pair = security.expired_node();
        let certificate = CertificateDer::from_pem_file(&pair.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&pair.key)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no free port")?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            task: tokio::spawn(accept(listener, Arc::new(config))),
        })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for ExpiredServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, config: Arc<ServerConfig>) {
    while let Ok((stream, _)) = listener.accept().await {
        let config = config.clone();
        tokio::task::spawn_blocking(move || shake_hands(stream, config));
    }
}

/// An error is the client breaking off, which is the point.
fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(())
}
