//! Connections and streams.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use bus::{ConnectOptions, Error, StreamSpec, stream};
use testkit::{NatsServer, unique_name};
use tokio_util::sync::CancellationToken;

use crate::support::{WITHIN, connect, own_server};

#[tokio::test]
async fn a_stream_that_could_lose_unread_changes_is_refused_with_the_remedy() {
    let bus = connect(&NatsServer::shared().await.url()).await;
    let good = || Config {
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    let unfit: [(&str, Config); 4] = [
        (
            "--discard=new",
            Config {
                discard: DiscardPolicy::Old,
                ..good()
            },
        ),
        (
            "--max-age=0",
            Config {
                max_age: Duration::from_secs(3600),
                ..good()
            },
        ),
        (
            "WorkQueue",
            Config {
                retention: RetentionPolicy::WorkQueue,
                ..good()
            },
        ),
        (
            "Interest",
            Config {
                retention: RetentionPolicy::Interest,
                ..good()
            },
        ),
    ];
    for (remedy, config) in unfit {
        let name = unique_name("unfit");
        let subjects = format!("es.{name}.>");
        let config = Config {
            name: name.clone(),
            subjects: vec![subjects.clone()],
            ..config
        };
        bus.jetstream().create_stream(config).await.unwrap();
        let error = stream::ensure(&bus, &StreamSpec::new(&name, &subjects))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains(remedy) && !error.is_retryable(),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_missing_stream_is_created_once_or_named() {
    let bus = connect(&NatsServer::shared().await.url()).await;
    let name = unique_name("log");
    let spec = StreamSpec {
        create: false,
        ..StreamSpec::new(&name, &format!("es.{name}.>"))
    };
    let error = stream::ensure(&bus, &spec).await.unwrap_err();
    assert!(matches!(error, Error::StreamMissing { .. }), "{error}");

    let spec = StreamSpec {
        create: true,
        ..spec
    };
    let created = stream::ensure(&bus, &spec).await.unwrap();
    let found = stream::ensure(&bus, &spec).await.unwrap();
    assert_eq!((created.created, found.last_sequence), (found.created, 0));
    let elsewhere = StreamSpec {
        subjects: vec!["es.elsewhere.>".to_owned()],
        ..spec
    };
    let error = stream::ensure(&bus, &elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("es.elsewhere.>"), "{error}");
}

#[tokio::test]
async fn a_server_that_refuses_us_or_has_no_jetstream_is_named_at_once() {
    let server = own_server("authorization { user: u, password: right }").await;
    let right = ConnectOptions {
        url: server.url(),
        user: Some("u".to_owned()),
        password: Some("right".to_owned()),
        ..ConnectOptions::default()
    };
    assert!(right.connect().await.is_ok());
    connect(&server.url().replace("nats://", "nats://u:%72ight@")).await;
    let wrong = ConnectOptions {
        password: Some("wrong".to_owned()),
        ..right
    };
    let error = wrong
        .connect_with_retry(&CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Credentials { .. }), "{error}");

    let server = own_server(
        "accounts { A { users: [{ user: a, password: a }] }, SYS { users: [] } }\nsystem_account: SYS",
    )
    .await;
    let options = ConnectOptions {
        url: server.url(),
        user: Some("a".to_owned()),
        password: Some("a".to_owned()),
        ..ConnectOptions::default()
    };
    let error = options.connect().await.unwrap_err();
    assert!(matches!(error, Error::NoJetStream { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = own_server("").await;
    let options = ConnectOptions {
        url: server.url(),
        ..ConnectOptions::default()
    };
    server.kill();
    assert!(options.connect().await.unwrap_err().is_retryable());
    let waiting = tokio::spawn(async move {
        options
            .connect_with_retry(&CancellationToken::new())
            .await
            .unwrap()
            .unwrap()
    });
    server.restart().await.unwrap();
    let bus = tokio::time::timeout(WITHIN, waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(bus.is_connected() && bus.server_version().starts_with("2."));
}

#[tokio::test]
async fn waiting_for_a_server_ends_with_the_process() {
    let options = ConnectOptions {
        url: "nats://127.0.0.1:1".to_owned(),
        ..ConnectOptions::default()
    };
    let shutdown = CancellationToken::new();
    let waiting = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { options.connect_with_retry(&shutdown).await }
    });
    shutdown.cancel();
    assert!(waiting.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn of_many_who_create_a_stream_with_different_limits_at_once_none_is_refused() {
    let bus = connect(&NatsServer::shared().await.url()).await;
    for _ in 0..10 {
        let name = unique_name("raced");
        let ensured = (0..8_u64).map(|number| {
            let (bus, name) = (bus.clone(), name.clone());
            tokio::spawn(async move {
                let spec = StreamSpec {
                    max_bytes: Some((1 + number) << 20),
                    ..StreamSpec::new(&name, &format!("{name}.>"))
                };
                stream::ensure(&bus, &spec).await
            })
        });
        for ensured in futures::future::join_all(ensured).await {
            assert_eq!(ensured.unwrap().unwrap().name, name);
        }
    }
}
