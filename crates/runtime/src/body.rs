//! Bodies of requests that are refused.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, header::EXPECT},
};

/// So much is read, in bytes, and for so long.
const MOST: u64 = 16 << 20;
const WITHIN: Duration = Duration::from_secs(1);

/// Reads what a client sends in spite of everything: one that is refused while it sends is cut off, and the system
/// takes the answer back from it. Not for one that asks first (`Expect`), not for one that announces more than 16 MiB,
/// and for a second at most.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    if body.size_hint().lower() > MOST || headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {}
    };
    // Too slow a client does not get its answer, and nobody waits for it.
    tokio::time::timeout(WITHIN, reading).await.ok();
}
