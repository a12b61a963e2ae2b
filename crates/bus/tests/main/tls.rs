//! TLS with an authority of one's own and client certificates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bus::{ConnectOptions, Error};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::support::own_server;

/// Writes an authority, a server's certificate and two of clients, one of which has expired.
fn certificates(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(
        folder.join("ca.pem"),
        authority.self_signed(&key).unwrap().pem(),
    )
    .unwrap();
    let issuer = Issuer::new(authority, key);
    for (name, year) in [("server", 2045), ("client", 2045), ("expired", 2021)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        fs::write(
            folder.join(format!("{name}.pem")),
            params.signed_by(&key, &issuer).unwrap().pem(),
        )
        .unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_named_and_one_that_does_lets_us_in() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    let server = own_server(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem"),
    ))
    .await;
    let good = ConnectOptions {
        url: server.url(),
        tls_ca: Some(file("ca.pem")),
        tls_cert: Some(file("client.pem")),
        tls_key: Some(file("client.key")),
        ..ConnectOptions::default()
    };
    good.connect().await.unwrap();

    let stranger = ConnectOptions {
        tls_ca: None,
        ..good.clone()
    };
    let missing = ConnectOptions {
        tls_ca: Some(file("nothing.pem")),
        ..good.clone()
    };
    let expired = ConnectOptions {
        tls_cert: Some(file("expired.pem")),
        tls_key: Some(file("expired.key")),
        ..good
    };
    for (options, word) in [
        (stranger, "certificate"),
        (missing, "nothing.pem"),
        (expired, "CertificateExpired"),
    ] {
        let error = options.connect().await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(matches!(error, Error::Configuration(_)), "{error}");
    }
}
