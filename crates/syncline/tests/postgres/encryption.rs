//! TLS and passwords, against a server that asks for them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Result, ensure};
use testkit::{PostgresOptions, PostgresServer, Product, SearchNode, Security};

use crate::{
    create_database,
    support::program::{run, text},
    truth::Table,
};

#[tokio::test]
async fn connections_are_encrypted_and_checked_as_sslmode_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let security = Security::create(folder.path())?;
    let mut server = PostgresServer::start(PostgresOptions::default()).await?;
    let name = create_database(&server, "tls").await?;
    server
        .psql(
            &name,
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');
             CREATE ROLE client LOGIN REPLICATION SUPERUSER; CREATE ROLE secret LOGIN REPLICATION SUPERUSER PASSWORD 'pass:word'",
        )
        .await?;
    let node = security.node();
    for (from, to) in [
        (node.certificate.as_path(), "server.crt"),
        (node.key.as_path(), "server.key"),
        (security.authority().as_path(), "root.crt"),
    ] {
        give(from, &server.data().join(to), &server.data())?;
    }
    server.configure(PostgresOptions {
        config: "ssl = on\nssl_ca_file = 'root.crt'\n".to_owned(),
        hba: Some(
            "hostssl all client 127.0.0.1/32 cert\nhostssl all secret 127.0.0.1/32 scram-sha-256\n\
             host all postgres 127.0.0.1/32 trust\n"
                .to_owned(),
        ),
        ..PostgresOptions::default()
    })?;
    server.restart().await?;
    let target = SearchNode::shared(Product::Es8).await;
    let own = server.url(&name);
    let (authority, client) = (text(&security.authority()), security.client());
    let (certificate, key) = (text(&client.certificate), text(&client.key));
    let secret = own.replace("postgres@", "secret@");
    let full = format!("{secret}?sslmode=verify-full&sslrootcert={authority}");
    let by_certificate = format!(
        "{}?sslmode=verify-full&sslrootcert={authority}&sslcert={certificate}&sslkey={key}",
        own.replace("postgres@", "client@")
    );
    let password = folder.path().join("password");
    fs::write(&password, "pass:word\n")?;
    for (url, flags) in [
        (
            full.clone(),
            vec!["--pg-password-file".to_owned(), text(&password)],
        ),
        (full.replace("secret@", "secret:pass%3Aword@"), vec![]),
        (
            secret.replace("secret@", "secret:pass%3Aword@") + "?sslmode=require",
            vec![],
        ),
        (by_certificate, vec![]),
    ] {
        let arguments = ["sync".to_owned(), url, target.url()]
            .into_iter()
            .chain(flags);
        run(arguments).await?.success()?;
    }
    let table = Table {
        server: &server,
        database: &name,
        name: "public.t",
        id: "t.id",
    };
    ensure!(table.difference(&target.http()).await?.is_none());
    for (url, words) in [
        // Not signed by any authority of this system.
        (
            full.split("&sslrootcert")
                .next()
                .unwrap_or_default()
                .replace("secret@", "secret:pass%3Aword@"),
            ["certificate", "sslrootcert"],
        ),
        (
            format!("{secret}?sslmode=disable"),
            ["no pg_hba.conf entry", "no encryption"],
        ),
        (full, ["password", "PGPASSWORD"]),
    ] {
        run(["sync", &url, &target.url()])
            .await?
            .refused(1, &words)?;
    }
    Ok(())
}

/// Copies a file for the server, readable by it alone.
fn give(from: &Path, to: &Path, like: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    fs::copy(from, to)?;
    let owner = fs::metadata(like)?;
    chown(to, Some(owner.uid()), Some(owner.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
