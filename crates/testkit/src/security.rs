//! Certificates of the secured server, signed by an authority made for it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// Files of a secured server that its clients need.
#[derive(Debug, Clone)]
pub struct Security {
    folder: PathBuf,
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, PKCS #8.
    pub key: PathBuf,
}

impl Security {
    /// A user that may do everything, and the password.
    pub const ADMIN: (&str, &str) = ("admin", "admin");
    /// A user that may only read, and the password.
    pub const READER: (&str, &str) = ("readall", "readall");

    /// The authority that signed everything, a PEM file.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The server's certificate, for `127.0.0.1` and `localhost`.
    pub fn node(&self) -> Pair {
        self.pair("node")
    }

    /// A client certificate that logs in as the user `client`, who may do everything with indices.
    pub fn client(&self) -> Pair {
        self.pair("client")
    }

    /// As [`Security::client`], but expired in 2021.
    pub fn expired_client(&self) -> Pair {
        self.pair("expired-client")
    }

    /// The certificate that may change users and roles whatever the roles say.
    pub fn admin(&self) -> Pair {
        self.pair("admin")
    }

    /// A server certificate that expired in 2021, for [`crate::ExpiredServer`].
    pub(crate) fn expired_node(&self) -> Pair {
        self.pair("expired-node")
    }

    /// The certificates in the configuration folder of a node.
    pub(crate) fn at(folder: PathBuf) -> Security {
        Security { folder }
    }

    /// Makes authority, server and client certificates in a folder.
    pub fn create(folder: &Path) -> Result<Security> {
        let authority_key = KeyPair::generate()?;
        let mut authority = params("syncline test authority", Validity::Current);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(
            folder.join("ca.pem"),
            authority.self_signed(&authority_key)?.pem(),
        )?;
        let issuer = Issuer::new(authority, authority_key);

        let sign = |name: &str, common_name: &str, validity| -> Result<()> {
            let key = KeyPair::generate()?;
            let certificate = params(common_name, validity).signed_by(&key, &issuer)?;
            fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
            Ok(())
        };
        sign("node", "node", Validity::Current)?;
        sign("expired-node", "node", Validity::Expired)?;
        sign("admin", "admin", Validity::Current)?;
        sign("client", "client", Validity::Current)?;
        sign("expired-client", "client", Validity::Expired)?;
        Ok(Security {
            folder: folder.to_owned(),
        })
    }

    fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        }
    }
}

/// Whether a certificate is good today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    /// For many years.
    Current,
    /// Ended in 2021.
    Expired,
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    if let Ok(name) = "localhost".try_into() {
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match validity {
        Validity::Current => date_time_ymd(2045, 1, 1),
        Validity::Expired => date_time_ymd(2021, 1, 1),
    };
    params
}
