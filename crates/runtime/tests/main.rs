//! The admin listener over a real socket, and signals to a real process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{Router, routing::get};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::{
    admin::{AdminError, Server},
    health::Health,
    metrics::Metrics,
    shutdown::Shutdown,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Admin {
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AdminError>>,
}

impl Admin {
    async fn start(routes: Router) -> Self {
        Self::start_with(routes, Duration::from_secs(60)).await
    }

    async fn start_with(routes: Router, request_timeout: Duration) -> Self {
        let (health, stop) = (Health::default(), CancellationToken::new());
        let server = Server::new("127.0.0.1:0", health.clone(), Metrics::new())
            .request_timeout(request_timeout)
            .route(routes);
        let bound = server.bind().await.unwrap();
        let address = bound.address();
        let task = tokio::spawn(bound.serve(stop.clone()));
        Self {
            address,
            health,
            stop,
            task,
        }
    }

    /// The status line's code, and everything below it.
    async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        self.send(request.as_bytes()).await
    }

    async fn send(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }
}

#[tokio::test]
async fn ready_is_503_with_the_reason_until_every_condition_holds() {
    let admin = Admin::start(Router::new()).await;
    let (code, body) = admin.get("/health/ready").await;
    assert_eq!(code, 503);
    assert!(
        body.ends_with(r#"{"ready":false,"reason":"starting"}"#),
        "{body}"
    );

    admin.health.readiness.set("nats", Ok(()));
    admin
        .health
        .readiness
        .set("source", Err("connection refused".to_owned()));
    let (code, body) = admin.get("/health/ready").await;
    assert_eq!(code, 503);
    assert!(
        body.contains(r#""reason":"source: connection refused""#),
        "{body}"
    );
    let (code, body) = admin.get("/health").await;
    assert_eq!(code, 503);
    assert!(
        body.contains(r#""nats":"ok","source":"connection refused""#),
        "{body}"
    );

    admin.health.readiness.set("source", Ok(()));
    assert_eq!(admin.get("/health/ready").await.0, 200);
    assert_eq!(admin.get("/health").await.0, 200);
}

#[tokio::test]
async fn live_is_503_when_the_heart_has_stopped() {
    let admin = Admin::start(Router::new()).await;
    assert_eq!(admin.get("/health/live").await.0, 200);
    let heart = admin.health.liveness.heart("capture", Duration::ZERO);
    while admin.health.liveness.check().is_ok() {
        tokio::task::yield_now().await;
    }
    let (code, body) = admin.get("/health/live").await;
    assert_eq!(code, 503);
    assert!(body.contains("capture: no sign of life"), "{body}");
    drop(heart);
    assert_eq!(admin.get("/health/live").await.0, 200);
}

#[tokio::test]
async fn metrics_are_open_metrics_and_services_add_routes() {
    let admin = Admin::start(Router::new().route("/stats", get(|| async { "mine" }))).await;
    let (code, page) = admin.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(
        page.contains("content-type: application/openmetrics-text"),
        "{page}"
    );
    assert!(page.contains("process_resident_memory_bytes "), "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert!(admin.get("/stats").await.1.ends_with("mine"));
    assert_eq!(admin.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn a_request_that_takes_too_long_or_sends_too_much_is_refused() {
    let slow = get(|| async { std::future::pending::<()>().await });
    let echo = axum::routing::post(|body: String| async move { body });
    let routes = Router::new().route("/slow", slow).route("/echo", echo);
    let admin = Admin::start_with(routes, Duration::from_millis(100)).await;
    assert_eq!(admin.get("/slow").await.0, 408);
    let large = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        64 << 20
    );
    assert_eq!(admin.send(large.as_bytes()).await.0, 413);
}

/// The system takes back an answer from a client that goes on sending to a closed connection.
#[tokio::test]
async fn whoever_sends_too_much_sees_the_answer_and_no_broken_connection() {
    let echo = axum::routing::post(|body: String| async move { body });
    let admin = Admin::start(Router::new().route("/echo", echo)).await;
    let length = 8 << 20;
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let request = [head.into_bytes(), vec![b'x'; length]].concat();
    for _ in 0..10 {
        assert_eq!(admin.send(&request).await.0, 413);
    }
}

#[tokio::test]
async fn the_listener_stops_even_while_a_client_is_silent() {
    let admin = Admin::start(Router::new()).await;
    let mut half = TcpStream::connect(admin.address).await.unwrap();
    half.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    assert_eq!(admin.get("/health/live").await.0, 200);
    admin.stop.cancel();
    admin.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_remedy() {
    let admin = Admin::start(Router::new()).await;
    let address = admin.address.to_string();
    let second = Server::new(&address, Health::default(), Metrics::new());
    let error = second.bind().await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("admin listener cannot use {address}: ")),
        "{error}"
    );
    assert!(
        error.ends_with("choose another with --admin-listen"),
        "{error}"
    );
}

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs `body_of_a_signalled_process` in a process of its own, and gives a wait for what it says.
fn signalled_process() -> (Process, impl FnMut(&str)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "body_of_a_signalled_process",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The harness prints the test's name in front of the first line.
    let wait_for = move |line: &str| assert!(lines.any(|said| said.unwrap().ends_with(line)));
    (Process(child), wait_for)
}

#[tokio::test]
#[ignore = "runs only in a process of its own, started by the tests below"]
async fn body_of_a_signalled_process() {
    let shutdown = Shutdown::on_signals(Duration::from_secs(60)).unwrap();
    println!("started");
    shutdown.requested().await;
    println!("draining");
    // A drain without end: only the second signal can stop this.
    std::future::pending::<()>().await;
}

#[test]
fn the_first_signal_drains_and_the_second_exits_with_130() {
    for first in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut process, mut wait_for) = signalled_process();
        wait_for("started");
        process.send(first);
        wait_for("draining");
        process.send(Signal::SIGTERM);
        assert_eq!(process.0.wait().unwrap().code(), Some(130));
    }
}
