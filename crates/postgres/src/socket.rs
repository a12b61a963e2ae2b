//! The bytes under a session: TCP or a Unix socket, encrypted or not.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Config, Error, SslMode};

/// A connection to a server.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects, and encrypts the connection as the configuration asks for.
    pub(crate) async fn connect(config: &Config) -> Result<Socket, Error> {
        let connecting = async {
            if config.host.starts_with('/') {
                let path = format!("{}/.s.PGSQL.{}", config.host, config.port);
                let stream = UnixStream::connect(path).await;
                return stream.map(Socket::Unix).map_err(|e| config.io(e));
            }
            let stream = TcpStream::connect((config.host.as_str(), config.port)).await;
            let stream = stream.map_err(|e| config.io(e))?;
            stream.set_nodelay(true).map_err(|e| config.io(e))?;
            match config.ssl_mode {
                SslMode::Disable => Ok(Socket::Tcp(stream)),
                mode => encrypt(config, stream, mode).await,
            }
        };
        match tokio::time::timeout(config.connect_timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(config.io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {:?}", config.connect_timeout),
            ))),
        }
    }
}

impl Config {
    pub(crate) fn io(&self, source: io::Error) -> Error {
        Error::Io {
            host: self.place(),
            source,
        }
    }

    fn tls_error(&self, reason: String) -> Error {
        Error::Tls {
            host: self.place(),
            reason,
        }
    }
}

/// Asks the server for TLS before anything else is said.
async fn encrypt(config: &Config, mut stream: TcpStream, mode: SslMode) -> Result<Socket, Error> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|e| config.io(e))?;
    match stream.read_u8().await.map_err(|e| config.io(e))? {
        b'S' => {}
        _ if mode == SslMode::Prefer => return Ok(Socket::Tcp(stream)),
        _ => {
            return Err(config.tls_error(
                "the server offers no TLS; set ssl = on there, or say sslmode=disable".to_owned(),
            ));
        }
    }
    let connector = TlsConnector::from(Arc::new(client_config(config, mode)?));
    let name = ServerName::try_from(config.host.clone())
        .map_err(|_| config.tls_error(format!("{:?} is no name of a host", config.host)))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Socket::Tls(Box::new(stream))),
        Err(error) => {
            let refused = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match refused {
                Some(refused) => Err(config.tls_error(format!(
                    "the encrypted connection fails: {refused}; check sslrootcert and the server's certificate"
                ))),
                None => Err(config.io(error)),
            }
        }
    }
}

fn client_config(config: &Config, mode: SslMode) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| config.tls_error(format!("no usable TLS version: {e}")))?;
    let checks_nothing = match mode {
        SslMode::Require => config.root_cert.is_none(),
        mode => mode == SslMode::Prefer,
    };
    let builder = if checks_nothing {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient {
                inner: None,
                provider,
            }))
    } else {
        let roots = roots(config)?;
        if mode == SslMode::VerifyFull {
            builder.with_root_certificates(roots)
        } else {
            let inner =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let inner = inner.build().map_err(|e| config.tls_error(e.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient {
                    inner: Some(inner),
                    provider,
                }))
        }
    };
    match (&config.client_cert, &config.client_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let certificates = certificates(config, cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read(config, key)?)
                .map_err(|e| config.tls_error(format!("{} holds no key: {e}", key.display())))?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|e| config.tls_error(format!("the client certificate is unusable: {e}")))
        }
        _ => Err(config.tls_error("give both sslcert and sslkey, or neither".to_owned())),
    }
}

fn roots(config: &Config) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match &config.root_cert {
        Some(path) => {
            for certificate in certificates(config, path)? {
                roots.add(certificate).map_err(|e| {
                    config.tls_error(format!("{} is no authority: {e}", path.display()))
                })?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    match roots.is_empty() {
        true => Err(config.tls_error(
            "there is no root certificate to trust; install ca-certificates or give sslrootcert"
                .to_owned(),
        )),
        false => Ok(roots),
    }
}

fn certificates(config: &Config, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(config, path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(config.tls_error(format!("{} holds no certificate", path.display()))),
        Err(e) => Err(config.tls_error(format!("{} is not valid PEM: {e}", path.display()))),
    }
}

fn read(config: &Config, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| config.tls_error(format!("{} cannot be read: {e}", path.display())))
}

/// Checks the authority but not the name, or nothing at all.
#[derive(Debug)]
struct Lenient {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        let verdict =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
