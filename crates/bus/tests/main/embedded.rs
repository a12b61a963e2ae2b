//! nats-server as a child of this process.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use bus::{
    ConnectOptions,
    embedded::{Auth, EmbeddedError, EmbeddedOptions, NatsServer},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::wait_until;

use crate::support::{Log, WITHIN, batch, connect, next_batch, publish};

async fn options(folder: &Path) -> EmbeddedOptions {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen: SocketAddr = listener.local_addr().unwrap();
    let binary = tokio::task::spawn_blocking(testkit::NatsServer::binary)
        .await
        .unwrap()
        .unwrap();
    EmbeddedOptions::new(binary, listen, folder.join("store"))
}

fn end(server: &NatsServer, signal: Signal) {
    kill(Pid::from_raw(server.pid().unwrap() as i32), signal).unwrap();
}

#[tokio::test]
async fn the_embedded_server_comes_back_with_its_streams_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(options(folder.path()).await)
        .await
        .unwrap();
    let log = Log::on(&connect(&server.url()).await, None).await;
    assert_eq!(log.bus.max_payload(), 8 << 20);
    publish(&mut log.sink(), &batch("a", 0, 1, 10)).await;
    end(&server, Signal::SIGKILL);
    publish(&mut log.sink(), &batch("a", 1, 1, 10)).await;
    let mut reader = log.reader("r").await;
    assert_eq!(next_batch(&mut reader).await.0, 1);
    assert_eq!(next_batch(&mut reader).await.0, 2);

    let pid = server.pid().unwrap();
    server.stop(WITHIN).await;
    assert!(
        kill(Pid::from_raw(pid as i32), None).is_err(),
        "it still runs"
    );
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_an_orphan_on_it_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path()).await;
    let server = NatsServer::start(options.clone()).await.unwrap();
    let error = NatsServer::start(options.clone()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    server.stop(WITHIN).await;

    // What a killed parent leaves behind.
    let config = options
        .store_dir
        .canonicalize()
        .unwrap()
        .join("nats-server.conf");
    let mut orphan = std::process::Command::new(&options.binary)
        .arg("--config")
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = options.store_dir.join("nats-server.pid");
    let written = || async {
        std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid == orphan.id().to_string())
    };
    wait_until("the orphan runs", WITHIN, written)
        .await
        .unwrap();
    // Somebody has to collect the orphan, as the init process would.
    let collected = tokio::task::spawn_blocking(move || orphan.wait().unwrap());
    let server = NatsServer::start(options).await.unwrap();
    tokio::time::timeout(WITHIN, collected)
        .await
        .unwrap()
        .unwrap();
    connect(&server.url()).await;
    server.stop(WITHIN).await;
}

#[tokio::test]
async fn the_embedded_server_asks_for_its_password_and_hides_it() {
    let folder = tempfile::tempdir().unwrap();
    let (user, password) = ("u".to_owned(), r#"a"b\c$d"#.to_owned());
    let auth = Some(Auth::User {
        user: user.clone(),
        password: password.clone(),
    });
    let options = EmbeddedOptions {
        auth,
        sync_always: true,
        ..options(folder.path()).await
    };
    assert!(!format!("{options:?}").contains("a\"b"));
    let server = NatsServer::start(options).await.unwrap();
    let connect = ConnectOptions {
        url: server.url(),
        user: Some(user),
        password: Some(password),
        ..ConnectOptions::default()
    };
    connect.connect().await.unwrap();
    let stranger = ConnectOptions {
        user: None,
        password: None,
        ..connect
    };
    assert!(!stranger.connect().await.unwrap_err().is_retryable());
    server.stop(WITHIN).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let good = options(folder.path()).await;
    let missing = EmbeddedOptions {
        binary: "/no/such/nats-server".into(),
        ..good.clone()
    };
    let error = NatsServer::start(missing).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::NoBinary { .. }), "{error}");
    let other = EmbeddedOptions {
        binary: "/bin/echo".into(),
        ..good.clone()
    };
    let error = NatsServer::start(other).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::NoBinary { .. }), "{error}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let clash = EmbeddedOptions {
        listen: taken.local_addr().unwrap(),
        ..good
    };
    let start = tokio::time::timeout(Duration::from_secs(20), NatsServer::start(clash)).await;
    let error = start.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("address already in use"),
        "{error}"
    );
    drop(taken);
}
