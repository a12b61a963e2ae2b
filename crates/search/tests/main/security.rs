use anyhow::Result;
use search::{Auth, Client, ClientConfig, Error};
use serde_json::json;
use testkit::{ExpiredServer, Product, SearchNode, Security, unique_name};

use crate::{config, index_name};

async fn node() -> (&'static SearchNode, Security) {
    let node = SearchNode::shared(Product::Os2Secured).await;
    (node, node.security().unwrap())
}

/// Trusting the server's authority, nobody yet.
fn trusting(node: &SearchNode, security: &Security) -> ClientConfig {
    let mut config = config(node);
    config.tls.ca_file = Some(security.authority());
    config
}

fn basic((user, password): (&str, &str)) -> Auth {
    Auth::Basic {
        user: user.into(),
        password: password.into(),
    }
}

async fn refused(config: &ClientConfig) -> Error {
    Client::connect(config)
        .await
        .expect_err("a connection that must be refused")
}

#[tokio::test]
async fn the_right_user_connects_also_when_named_in_the_url() -> Result<()> {
    let (node, security) = node().await;
    let mut config = trusting(node, &security);
    config.auth = basic(Security::ADMIN);
    assert_eq!(
        Client::connect(&config).await?.server().product.as_str(),
        "opensearch"
    );
    config.auth = Auth::None;
    config.hosts[0].set_username("admin").unwrap();
    config.hosts[0].set_password(Some("admin")).unwrap();
    Client::connect(&config).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_and_none_at_all_are_told_apart() {
    let (node, security) = node().await;
    let mut config = trusting(node, &security);
    config.auth = basic(("admin", "wrong"));
    let error = refused(&config).await;
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("user \"admin\"") && !text.contains("wrong\""),
        "{text}"
    );
    config.auth = Auth::None;
    let text = refused(&config).await.to_string();
    assert!(text.contains("without credentials"), "{text}");
}

#[tokio::test]
async fn a_role_that_may_read_but_not_refresh_is_told_the_missing_privilege() -> Result<()> {
    let (node, security) = node().await;
    let index = index_name("forbidden");
    node.http()
        .index_documents(index.as_str(), [("1", json!({"a": 1}))])
        .await?;
    let user = unique_name("reader");
    let permissions = json!({
        "cluster_permissions": ["cluster:monitor/main"],
        "index_permissions": [{
            "index_patterns": ["*"],
            "allowed_actions": ["indices:data/read/*", "indices:monitor/*", "indices:admin/get"]
        }]
    });
    node.add_user(&user, "Syncline-reader-1", &permissions)
        .await?;
    let mut config = trusting(node, &security);
    config.auth = basic((&user, "Syncline-reader-1"));
    let client = Client::connect(&config).await?;
    assert_eq!(client.shard_stats(&[&index]).await?.len(), 1);
    assert_eq!(client.count(&index).await?, 1);
    let error = client.refresh(&index).await.unwrap_err();
    match &error {
        Error::Forbidden { action, .. } => assert_eq!(action, "indices:admin/refresh"),
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains(&user), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_an_expired_one_is_named_with_its_day() -> Result<()> {
    let (node, security) = node().await;
    let mut config = trusting(node, &security);
    let pair = security.client();
    config.tls.client_cert_file = Some(pair.certificate);
    config.tls.client_key_file = Some(pair.key);
    let client = Client::connect(&config).await?;
    assert!(!client.index_exists(&index_name("nothing")).await?);

    let expired = security.expired_client();
    config.tls.client_cert_file = Some(expired.certificate.clone());
    config.tls.client_key_file = Some(expired.key);
    let text = refused(&config).await.to_string();
    let file = expired.certificate.display().to_string();
    assert!(
        text.contains("expired on 2021-01-01") && text.contains(&file),
        "{text}"
    );

    config.tls.client_key_file = Some(security.admin().key);
    config.tls.client_cert_file = Some(security.client().certificate);
    let text = refused(&config).await.to_string();
    assert!(text.contains("belongs to the certificate"), "{text}");
    config.tls.client_key_file = None;
    assert!(refused(&config).await.to_string().contains("both"));
    Ok(())
}

#[tokio::test]
async fn an_authority_that_we_do_not_know_is_named_with_the_remedy_unless_told_not_to_care()
-> Result<()> {
    let (node, _) = node().await;
    let mut config = config(node);
    config.auth = basic(Security::ADMIN);
    let error = refused(&config).await;
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains("CA file"), "{error}");
    config.tls.insecure = true;
    Client::connect(&config).await?;
    Ok(())
}

#[tokio::test]
async fn the_wrong_scheme_is_told_either_way() {
    let (secured, security) = node().await;
    let plain = SearchNode::shared(Product::Os2).await;
    let mut config = trusting(secured, &security);
    config.hosts = vec![plain.url().replace("http://", "https://").parse().unwrap()];
    let text = refused(&config).await.to_string();
    assert!(text.contains("use http://"), "{text}");
    config.hosts = vec![
        secured
            .url()
            .replace("https://", "http://")
            .parse()
            .unwrap(),
    ];
    let text = refused(&config).await.to_string();
    assert!(text.contains("https://"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named() {
    let (node, security) = node().await;
    let mut config = trusting(node, &security);
    config.tls.ca_file = Some("/no/such/ca.pem".into());
    assert!(
        refused(&config)
            .await
            .to_string()
            .contains("\"/no/such/ca.pem\" cannot be read")
    );
    config.tls.ca_file = Some(security.client().key);
    assert!(refused(&config).await.to_string().contains("contains none"));
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_told_with_its_day() -> Result<()> {
    let (node, security) = node().await;
    let server = ExpiredServer::start(&security).await?;
    let mut config = trusting(node, &security);
    config.hosts = vec![server.url().parse()?];
    let error = refused(&config).await;
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("expired on 2021-01-01") && text.contains("renew"),
        "{text}"
    );
    Ok(())
}
