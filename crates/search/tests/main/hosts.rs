use std::{net::TcpListener, time::Duration};

use anyhow::Result;
use search::{Client, ClientConfig, Error, Request, Url, retry};
use testkit::{Product, SearchNode};

use crate::config;

/// An address where nothing listens.
fn dead() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    format!("http://{address}").parse().unwrap()
}

#[tokio::test]
async fn a_dead_host_among_several_is_not_noticed() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let mut config = config(node);
    config.hosts.insert(0, dead());
    config.hosts.push(dead());
    let client = Client::connect(&config).await?;
    for _ in 0..20 {
        client.send(Request::get("/_cluster/health")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_host_that_answers_is_an_error_that_names_one() {
    let host = dead();
    let error = Client::connect(&ClientConfig::new(vec![host.clone()]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert_eq!(retry::classify(&error), retry::Decision::Retry);
    let text = error.to_string();
    assert!(
        text.contains(host.as_str().trim_end_matches('/')) && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_host_that_never_answers_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut config = ClientConfig::new(vec![url.parse().unwrap()]);
    config.request_timeout = Duration::from_millis(50);
    let error = Client::connect(&config).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_refused_with_the_remedy() {
    for (url, part) in [
        ("ftp://x", "http://HOST:PORT"),
        ("mailto:x@y", "http://HOST:PORT"),
    ] {
        let error = Client::connect(&ClientConfig::new(vec![url.parse().unwrap()]))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let none = Client::connect(&ClientConfig::new(Vec::new()))
        .await
        .unwrap_err();
    assert!(none.to_string().contains("at least one"), "{none}");
}
