//! Waiting for something to become true, and names that collide with nobody's.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Polls until `condition` holds; an error naming `what` when it does not within the time.
///
/// The only place where tests sleep: for a few milliseconds at first, a tenth of a second at most.
pub async fn wait_until<F, Fut>(what: &str, within: Duration, mut condition: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(2);
    while !condition().await {
        if Instant::now() >= deadline {
            bail!("waited {within:?} in vain until {what}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    Ok(())
}

/// A name for an index, stream or subject that no other call, process or earlier run has: lower case, letters, digits
/// and hyphens.
pub fn unique_name(prefix: &str) -> String {
    static PROCESS: LazyLock<u32> = LazyLock::new(|| fastrand::u32(..));
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    format!("{}-{:08x}-{call}", prefix.to_lowercase(), *PROCESS)
}
