//! Encrypted connections: what the certificate files say, and what a failed handshake means.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    server::ParsedCertificate,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};

use crate::{Error, Tls};

/// The configuration for every connection of a client. The system's roots take milliseconds to
/// read, so they are left alone when no host is encrypted.
pub(crate) fn client_config(tls: &Tls, encrypted: bool) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(format!("no usable TLS version: {e}")))?;
    let builder = if tls.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
    } else {
        builder.with_root_certificates(roots(tls, encrypted)?)
    };
    match (&tls.client_cert_file, &tls.client_key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let certificates = client_certificates(cert)?;
            builder
                .with_client_auth_cert(certificates, private_key(key)?)
                .map_err(|e| Error::Certificate {
                    what: "client key",
                    path: key.clone(),
                    problem: format!("does not work with the certificate {cert:?} ({e})"),
                    remedy: "give the key that belongs to the certificate",
                })
        }
        _ => Err(Error::Config(
            "a client certificate needs both files, the certificate and its key; give both or none"
                .into(),
        )),
    }
}

fn roots(tls: &Tls, encrypted: bool) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.ca_file {
        for certificate in certificates("CA certificate", path)? {
            roots.add(certificate).map_err(|e| Error::Certificate {
                what: "CA certificate",
                path: path.clone(),
                problem: format!("is not usable ({e})"),
                remedy: "give the authority's own certificate as PEM",
            })?;
        }
    } else if encrypted {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(Error::Config(
                "this system has no root certificates; install the package ca-certificates, or \
                 give a CA file"
                    .into(),
            ));
        }
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(no_pem(what, path, &pem::Error::NoItemsFound)),
        Err(error) => Err(no_pem(what, path, &error)),
    }
}

/// Our own certificate, refused when it has expired: servers only say that they do not like it.
fn client_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    const WHAT: &str = "client certificate";
    let certificates = certificates(WHAT, path)?;
    if let Some(problem) = certificates.first().and_then(out_of_date) {
        return Err(Error::Certificate {
            what: WHAT,
            path: path.to_owned(),
            problem,
            remedy: "get a new one and restart",
        });
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    const WHAT: &str = "client key";
    PrivateKeyDer::from_pem_slice(&read(WHAT, path)?).map_err(|e| no_pem(WHAT, path, &e))
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Certificate {
        what,
        path: path.to_owned(),
        problem: format!("cannot be read ({e})"),
        remedy: "check the path and its permissions",
    })
}

fn no_pem(what: &'static str, path: &Path, error: &pem::Error) -> Error {
    Error::Certificate {
        what,
        path: path.to_owned(),
        problem: match error {
            pem::Error::NoItemsFound => "contains none".to_owned(),
            other => format!("is not valid PEM ({other})"),
        },
        remedy: "give a PEM file, with -----BEGIN lines",
    }
}

/// Whether a certificate is out of date. Verification against no authority at all always fails, but
/// looks at the dates first.
fn out_of_date(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let algorithms = ring::default_provider()
        .signature_verification_algorithms
        .all;
    let verdict = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        UnixTime::now(),
        algorithms,
    );
    match verdict {
        Err(rustls::Error::InvalidCertificate(reason)) => dates(&reason),
        _ => None,
    }
}

fn dates(reason: &CertificateError) -> Option<String> {
    match reason {
        CertificateError::Expired => Some("has expired".to_owned()),
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("expired on {}", date(*not_after)))
        }
        CertificateError::NotValidYet => Some("is not valid yet".to_owned()),
        CertificateError::NotValidYetContext { not_before, .. } => {
            Some(format!("is not valid before {}", date(*not_before)))
        }
        _ => None,
    }
}

/// The day in UTC, by the civil calendar's arithmetic over eras of 400 years.
fn date(time: UnixTime) -> String {
    let days = (time.as_secs() / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// What a failed handshake or a later alert means, when there is one among an error's causes.
pub(crate) fn explain(host: &str, error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(here) = next {
        // An io::Error hides what it wraps from source().
        let inner = here
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let found = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| here.downcast_ref());
        if let Some(found) = found {
            let (problem, remedy) = diagnose(found);
            return Some(Error::Tls {
                host: host.to_owned(),
                problem,
                remedy,
            });
        }
        next = match inner {
            Some(inner) => Some(inner),
            None => here.source(),
        };
    }
    None
}

fn diagnose(error: &rustls::Error) -> (String, &'static str) {
    match error {
        rustls::Error::InvalidCertificate(reason) => bad_server_certificate(reason),
        rustls::Error::AlertReceived(alert) => refused_by_server(*alert),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "it does not speak TLS".into(),
            "use http:// in its URL, or the right port",
        ),
        other => (
            other.to_string(),
            "check the TLS versions and ciphers that the server allows",
        ),
    }
}

fn bad_server_certificate(reason: &CertificateError) -> (String, &'static str) {
    if let Some(dates) = dates(reason) {
        let remedy = "renew it there, and check this machine's clock";
        return (format!("the server's certificate {dates}"), remedy);
    }
    match reason {
        CertificateError::UnknownIssuer => (
            "the server's certificate is signed by an authority that we do not know".into(),
            "give the authority's certificate as CA file",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "the server's certificate is for another name".into(),
            "use a host name that the certificate names",
        ),
        other => (
            format!("the server's certificate is not acceptable ({other})"),
            "replace it there",
        ),
    }
}

fn refused_by_server(alert: AlertDescription) -> (String, &'static str) {
    match alert {
        AlertDescription::CertificateExpired => (
            "the server says that our client certificate has expired".into(),
            "get a new one",
        ),
        AlertDescription::CertificateRequired => (
            "the server wants a client certificate".into(),
            "give a client certificate and its key",
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked => (
            format!("the server does not accept our client certificate ({alert:?})"),
            "use one that is signed by an authority the server trusts",
        ),
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => (
            format!("the server found nothing in common ({alert:?})"),
            "check the TLS versions and ciphers it allows, and whether it wants a client certificate",
        ),
        other => (
            format!("the server refused ({other:?})"),
            "look into the server's log",
        ),
    }
}

/// The verifier of `insecure`: any certificate will do.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_shown_as_its_day() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_258_399, "2026-11-21"),
            (4_102_444_799, "2099-12-31"),
        ] {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            assert_eq!(date(time), expected);
        }
    }
}
