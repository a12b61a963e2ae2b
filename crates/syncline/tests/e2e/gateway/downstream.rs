//! A gateway between two servers, each with a door of its own, and a downstream that is away.

use std::path::Path;

use anyhow::{Result, ensure};
use nkeys::KeyPair;
use testkit::{NatsOptions, NatsServer, Security};

use super::Line;
use crate::{
    index_name, nodes,
    support::{
        corpus,
        equal::until_equal,
        program::{PATIENCE, Program, text},
    },
};

/// A way into a nats-server.
struct Door {
    /// Lines of the server's configuration.
    config: String,
    /// What a program says to be let in, after `--downstream-` or `--nats-`.
    keys: Vec<(&'static str, String)>,
    /// What a gateway is told that says nothing.
    refusal: &'static str,
}

impl Door {
    fn user() -> Door {
        Door {
            config: "authorization { user: edge, password: s3cret }".to_owned(),
            keys: vec![
                ("user", "edge".to_owned()),
                ("password", "s3cret".to_owned()),
            ],
            refusal: "credentials",
        }
    }

    fn token() -> Door {
        Door {
            config: "authorization { token: s3cret }".to_owned(),
            keys: vec![("token", "s3cret".to_owned())],
            refusal: "credentials",
        }
    }

    fn nkey(folder: &Path) -> Result<Door> {
        let pair = KeyPair::new_user();
        let file = folder.join("seed.nk");
        std::fs::write(&file, pair.seed()?)?;
        Ok(Door {
            config: format!(
                "authorization {{ users: [ {{ nkey: {} }} ] }}",
                pair.public_key()
            ),
            keys: vec![("nkey-file", text(&file))],
            refusal: "credentials",
        })
    }

    /// A server that trusts an operator, an account with JetStream, and a user of it.
    fn credentials(folder: &Path) -> Result<Door> {
        let operator = KeyPair::new_operator();
        let (system, account, user) = (
            KeyPair::new_account(),
            KeyPair::new_account(),
            KeyPair::new_user(),
        );
        let nothing = r#""pub":{},"sub":{}"#;
        let limits = r#""subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1"#;
        let storage = r#""mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1"#;
        let of_account = |limits: &str| {
            format!(
                r#"{{"limits":{{{limits}}},"default_permissions":{{{nothing}}},"type":"account","version":2}}"#
            )
        };
        let of_user =
            format!(r#"{{{nothing},"subs":-1,"data":-1,"payload":-1,"type":"user","version":2}}"#);
        let file = folder.join("edge.creds");
        let lines = |kind: &str, body: &str| {
            format!("-----BEGIN {kind}-----\n{body}\n------END {kind}------\n\n")
        };
        let jwt = lines("NATS USER JWT", &jwt(&account, &user, &of_user)?);
        std::fs::write(&file, jwt + &lines("USER NKEY SEED", &user.seed()?))?;
        Ok(Door {
            config: format!(
                "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n  {}: {}\n  {}: {}\n}}",
                self::jwt(&operator, &operator, r#"{"type":"operator","version":2}"#)?,
                system.public_key(),
                system.public_key(),
                self::jwt(&operator, &system, &of_account(limits))?,
                account.public_key(),
                self::jwt(
                    &operator,
                    &account,
                    &of_account(&format!("{limits},{storage}"))
                )?,
            ),
            keys: vec![("credentials-file", text(&file))],
            refusal: "credentials",
        })
    }

    fn tls(folder: &Path) -> Result<Door> {
        let security = Security::create(folder)?;
        let (node, client, authority) = (security.node(), security.client(), security.authority());
        Ok(Door {
            config: format!(
                "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
                node.certificate, node.key, authority
            ),
            keys: vec![
                ("ca-file", text(&authority)),
                ("client-cert", text(&client.certificate)),
                ("client-key", text(&client.key)),
            ],
            refusal: "certificate",
        })
    }

    fn flags(&self, prefix: &str) -> Vec<String> {
        let flags = self.keys.iter();
        flags
            .flat_map(|(flag, value)| [format!("--{prefix}-{flag}"), value.clone()])
            .collect()
    }
}

/// A claim that `issuer` makes about `subject`, as NATS writes it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claim: &str) -> Result<String> {
    let base64 =
        |text: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, text);
    let (issued, about) = (issuer.public_key(), subject.public_key());
    let head = base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = format!(
        r#"{{"jti":"{about}","iat":1700000000,"iss":"{issued}","name":"test","sub":"{about}","nats":{claim}}}"#
    );
    let said = format!("{head}.{}", base64(body.as_bytes()));
    let signature = issuer.sign(said.as_bytes())?;
    Ok(format!("{said}.{}", base64(&signature)))
}

/// A stranger is refused in a sentence; who has the keys carries, and waits while the downstream is away.
async fn crosses(door: Door, name: &str) -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let index = index_name(name);
    corpus::create(&from, &index, 2, false).await?;
    corpus::index_numbers(&from, &index, 0..500, 0).await?;
    let mut downstream = NatsServer::start(NatsOptions {
        config: door.config.clone(),
        ..NatsOptions::default()
    })
    .await?;
    let line = Line::new(&source.url(), &target.url(), &index, "{}").await?;
    let there = downstream.url();
    let mut denied = line.gateway(&["--downstream-url", &there])?;
    ensure!(denied.wait().await?.code() == Some(1));
    ensure!(
        denied.has_said(&["error: ", door.refusal]),
        "{}",
        denied.last_words()
    );

    let mut arguments = line.arguments(&["--downstream-url", &there]);
    arguments.extend(door.flags("downstream"));
    let gateway = Program::start(arguments)?;
    gateway.ready().await?;
    let mut arguments = line.pipeline.writer_arguments("es-writer");
    let at = arguments
        .iter()
        .position(|argument| argument == "--nats-url");
    if let Some(url) = at.and_then(|at| arguments.get_mut(at + 1)) {
        url.clone_from(&there);
    }
    arguments.extend(door.flags("nats"));
    let writer = Program::start(&arguments)?;
    let watcher = line.pipeline.watcher()?;
    until_equal(&from, &to, &index, PATIENCE).await?;

    // Nobody waits for it yet, and it is said all the same.
    downstream.kill();
    gateway.readiness_is(503, "no connection to NATS").await?;
    // It is away until the gateway has tried again and again; the input goes on taking changes.
    corpus::index_numbers(&from, &index, 250..750, 1).await?;
    testkit::wait_until("it is tried again and again", PATIENCE, async || {
        let retries = gateway.metric("syncline_gateway_retries_total").await;
        let published = watcher.metric("syncline_watcher_changes_total").await;
        retries.is_ok_and(|tried| tried >= 5.0) && published.is_ok_and(|changes| changes >= 1000.0)
    })
    .await
    .map_err(|error| error.context(gateway.last_words()))?;
    downstream.restart().await?;
    until_equal(&from, &to, &index, PATIENCE).await?;
    gateway.ready().await?;
    for program in [watcher, gateway, writer] {
        program.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn changes_cross_to_a_server_with_a_user_and_a_password() -> Result<()> {
    crosses(Door::user(), "by-user").await
}

#[tokio::test]
async fn changes_cross_to_a_server_with_a_token() -> Result<()> {
    crosses(Door::token(), "by-token").await
}

#[tokio::test]
async fn changes_cross_to_a_server_with_an_nkey() -> Result<()> {
    let folder = tempfile::tempdir()?;
    crosses(Door::nkey(folder.path())?, "by-nkey").await
}

#[tokio::test]
async fn changes_cross_to_a_server_with_a_credentials_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    crosses(Door::credentials(folder.path())?, "by-credentials").await
}

#[tokio::test]
async fn changes_cross_to_a_server_with_tls_and_client_certificates() -> Result<()> {
    let folder = tempfile::tempdir()?;
    crosses(Door::tls(folder.path())?, "by-tls").await
}
