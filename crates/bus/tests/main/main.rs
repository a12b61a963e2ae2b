//! The bus against a real nats-server.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod embedded;
mod lease;
mod letters;
mod lost_end;
mod reader;
mod sink;
mod stream;
mod support;
mod tls;
