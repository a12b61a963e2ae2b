//! The chaos proxy, in front of an echo server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::ChaosProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[tokio::test]
async fn a_healthy_proxy_passes_bytes_both_ways() {
    let proxy = ChaosProxy::start(echo_server().await.unwrap())
        .await
        .unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo(&mut stream, b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_cut_closes_old_and_new_connections_until_it_heals() {
    let proxy = ChaosProxy::start(echo_server().await.unwrap())
        .await
        .unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    echo(&mut stream, b"hello").await.unwrap();
    proxy.cut();
    assert!(echo(&mut stream, b"gone").await.is_err());
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(echo(&mut refused, b"gone").await.is_err());
    proxy.heal();
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo(&mut again, b"back").await.unwrap(), b"back");
}

#[tokio::test]
async fn a_delay_holds_bytes_back() {
    let proxy = ChaosProxy::start(echo_server().await.unwrap())
        .await
        .unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let sent = Instant::now();
    echo(&mut stream, b"late").await.unwrap();
    assert!(
        sent.elapsed() >= Duration::from_millis(200),
        "once each way"
    );
}

#[tokio::test]
async fn a_half_open_connection_is_silent_and_loses_nothing() {
    let proxy = ChaosProxy::start(echo_server().await.unwrap())
        .await
        .unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    echo(&mut stream, b"hello").await.unwrap();
    proxy.half_open();
    stream.write_all(b"wait").await.unwrap();
    let mut answer = [0; 4];
    let early = timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await;
    assert!(early.is_err(), "nothing passes");
    proxy.heal();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"wait");
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn echo_server() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = stream.split();
                tokio::io::copy(&mut reads, &mut writes).await.ok();
            });
        }
    });
    Ok(address)
}
