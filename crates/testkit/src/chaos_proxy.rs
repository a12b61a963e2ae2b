//! A TCP proxy that misbehaves on command: cuts connections, delays bytes, goes silent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the network does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Passes everything on.
    Healthy,
    /// Passes everything on, each piece this much later.
    Slow(Duration),
    /// Connections stay open, and nothing passes: what a dead peer behind a firewall looks like.
    Silent,
    /// Existing connections are closed, new ones at once.
    Cut,
}

/// A proxy in front of one server; it ends when dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    task: JoinHandle<()>,
}

impl ChaosProxy {
    /// Listens on a free port and passes everything on to `upstream` until told otherwise.
    pub async fn start(upstream: SocketAddr) -> Result<ChaosProxy> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no free port for the proxy")?;
        let address = listener.local_addr()?;
        let (mood, moods) = watch::channel(Mood::Healthy);
        let task = tokio::spawn(accept(listener, upstream, moods));
        Ok(Self {
            address,
            mood,
            task,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a URL: `url("http")`, `url("nats")`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Closes every connection, and new ones at once, until [`ChaosProxy::heal`].
    pub fn cut(&self) {
        self.mood.send_replace(Mood::Cut);
    }

    /// Passes on each piece of data only after a delay.
    pub fn delay(&self, by: Duration) {
        self.mood.send_replace(Mood::Slow(by));
    }

    /// Keeps connections open and passes nothing on: half-open, as after a pulled cable. What was sent meanwhile
    /// passes after [`ChaosProxy::heal`].
    pub fn half_open(&self) {
        self.mood.send_replace(Mood::Silent);
    }

    /// Behaves again.
    pub fn heal(&self) {
        self.mood.send_replace(Mood::Healthy);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connections live in the set, so that they end with the proxy.
async fn accept(listener: TcpListener, upstream: SocketAddr, moods: watch::Receiver<Mood>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, upstream, moods.clone()));
                }
            }
        }
    }
}

/// Carries one connection until either side or the mood ends it.
async fn connection(client: TcpStream, upstream: SocketAddr, mut moods: watch::Receiver<Mood>) {
    // A proxy whose owner is gone is as good as cut.
    let mut until_cut = moods.clone();
    let cut = async move {
        until_cut
            .wait_for(|mood| *mood == Mood::Cut)
            .await
            .map(drop)
    };
    let carry = async {
        if moods.wait_for(|mood| *mood != Mood::Silent).await.is_err() {
            return;
        }
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        // Small requests must not wait for each other in two more sockets.
        if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
            return;
        }
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        tokio::select! {
            biased;
            () = pass(client_reads, server_writes, moods.clone()) => {}
            () = pass(server_reads, client_writes, moods.clone()) => {}
        }
    };
    tokio::select! {
        biased;
        _ = cut => {}
        () = carry => {}
    }
}

/// Copies one direction; an end of data or an error ends the connection.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut moods: watch::Receiver<Mood>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Ok(mood) = moods
            .wait_for(|mood| *mood != Mood::Silent)
            .await
            .map(|mood| *mood)
        else {
            return;
        };
        if let Mood::Slow(by) = mood {
            tokio::time::sleep(by).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
