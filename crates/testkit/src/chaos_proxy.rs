//! A TCP proxy that misbehaves on command: cuts connections, delays bytes, goes silent, breaks answers off,
//! refuses requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Every answer breaks off after so many bytes of its connection.
    Truncating(usize),
    /// Every request is answered with this HTTP status.
    Refusing(u16),
}

/// A proxy in front of one server; it ends when dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    held: Arc<AtomicUsize>,
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
        let held = Arc::default();
        let task = tokio::spawn(accept(listener, upstream, moods, Arc::clone(&held)));
        Ok(Self {
            address,
            mood,
            held,
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

    /// How many bytes were kept back so far by connections that are half open, in either direction.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Closes each connection after so many bytes from the server.
    pub fn truncate(&self, after: usize) {
        self.mood.send_replace(Mood::Truncating(after));
    }

    /// Answers HTTP requests with a status, as a server does that is too busy (429) or has no master (503).
    /// What is under way is cut off.
    pub fn refuse(&self, status: u16) {
        self.mood.send_replace(Mood::Refusing(status));
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
async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    moods: watch::Receiver<Mood>,
    held: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, upstream, moods.clone(), Arc::clone(&held)));
                }
            }
        }
    }
}

/// Carries one connection until either side or the mood ends it.
async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    mut moods: watch::Receiver<Mood>,
    held: Arc<AtomicUsize>,
) {
    let mood = *moods.borrow();
    if let Mood::Refusing(status) = mood {
        return refuse(client, status).await;
    }
    // A proxy whose owner is gone is as good as cut.
    let mut until_cut = moods.clone();
    let cut = async move {
        until_cut
            .wait_for(|mood| matches!(mood, Mood::Cut | Mood::Refusing(_)))
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
            () = pass(client_reads, server_writes, moods.clone(), &held, false) => {}
            () = pass(server_reads, client_writes, moods.clone(), &held, true) => {}
        }
    };
    tokio::select! {
        biased;
        _ = cut => {}
        () = carry => {}
    }
}

/// Reads what there is of a request and refuses it.
async fn refuse(mut client: TcpStream, status: u16) {
    let mut buffer = vec![0; 64 << 10];
    let body = format!(
        r#"{{"error":{{"type":"refused_by_the_test","reason":"busy"}},"status":{status}}}"#
    );
    let answer = format!(
        "HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that gives up first needs no answer.
    if matches!(client.read(&mut buffer).await, Ok(1..))
        && client.write_all(answer.as_bytes()).await.is_ok()
    {
        while matches!(client.read(&mut buffer).await, Ok(1..)) {}
    }
}

/// Copies one direction; an end of data or an error ends the connection.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
    held: &AtomicUsize,
    is_answer: bool,
) {
    let mut passed = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if *moods.borrow() == Mood::Silent {
            held.fetch_add(count, Ordering::Relaxed);
        }
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
        let (mut some, mut breaks_off) = (count, false);
        if let (Mood::Truncating(after), true) = (mood, is_answer) {
            some = count.min(after.saturating_sub(passed));
            breaks_off = some < count;
        }
        passed += some;
        if to.write_all(&buffer[..some]).await.is_err() || breaks_off {
            return;
        }
    }
}
