//! Making sure that what a round reads is visible.
//!
//! A search sees what was there at the last refresh. A round that read the global checkpoint G must
//! search a copy that was refreshed after that, or it would miss documents and never know.

use std::time::{Duration, Instant};

use model::IndexName;
use search::Error;
use tokio::sync::{Mutex, watch};

use super::{Capture, Look, cursor::Standing};
use crate::source::SourceRefresh;

/// The refreshes of one index, shared by its shards.
#[derive(Debug)]
pub(crate) struct Refresher {
    index: IndexName,
    uuid: String,
    /// How often the index refreshes by itself; `None` if it never does.
    interval: Option<Duration>,
    /// The newest look that a refresh of ours was begun after.
    refreshed: Mutex<u64>,
}

impl Refresher {
    pub(crate) fn new(index: IndexName, uuid: String, interval: Option<Duration>) -> Refresher {
        Refresher {
            index,
            uuid,
            interval,
            refreshed: Mutex::new(0),
        }
    }

    /// Returns when everything up to the global checkpoint of `look` is visible in `shard`.
    pub(crate) async fn ensure(
        &self,
        capture: &Capture,
        look: &Look,
        standing: &Standing,
        shard: u32,
        looks: &mut watch::Receiver<std::sync::Arc<Look>>,
    ) -> Result<(), Error> {
        match capture.options.refresh {
            SourceRefresh::Force => self.force(capture, look, looks).await,
            SourceRefresh::Natural => self.wait(capture, standing, shard, looks).await,
        }
    }

    /// Refreshes, unless another shard's refresh was begun after this look already.
    async fn force(
        &self,
        capture: &Capture,
        look: &Look,
        looks: &watch::Receiver<std::sync::Arc<Look>>,
    ) -> Result<(), Error> {
        let mut refreshed = self.refreshed.lock().await;
        if *refreshed >= look.number {
            return Ok(());
        }
        let newest = looks.borrow().number;
        let begun = Instant::now();
        capture.client.refresh(&self.index).await?;
        capture.cost.add(begun.elapsed());
        *refreshed = newest;
        Ok(())
    }

    /// Waits for the index to refresh by itself.
    ///
    /// Statistics count refreshes when they are complete. The first to complete after the look may
    /// have begun before it, the second cannot have. If none completes for longer than two
    /// intervals, there was nothing left to make visible. A shard that nobody searches stops
    /// refreshing, so it is searched first.
    async fn wait(
        &self,
        capture: &Capture,
        standing: &Standing,
        shard: u32,
        looks: &mut watch::Receiver<std::sync::Arc<Look>>,
    ) -> Result<(), Error> {
        let Some(interval) = self.interval else {
            return Err(Error::Config(format!(
                "index {:?} never refreshes by itself (refresh_interval -1), so its changes stay \
                 invisible; use --source-refresh force, or set a refresh interval",
                self.index.as_str()
            )));
        };
        let quiet = interval * 2 + Duration::from_secs(1);
        let window = search::Window {
            index: &self.index,
            shard,
            node: Some(&standing.copy.node),
            after: -1,
            upto: -1,
            size: 1,
        };
        capture.client.read_window(&window).await?;
        let (mut count, mut since) = (standing.refreshes, Instant::now());
        while looks.changed().await.is_ok() {
            let now = {
                let look = looks.borrow_and_update();
                let Some(stats) = look.shard(&self.index, &self.uuid, shard) else {
                    continue;
                };
                Standing::new(look.asked, stats)
            };
            if now.copy != standing.copy {
                return Err(Error::CopyGone {
                    index: self.index.to_string(),
                    node: standing.copy.node.clone(),
                });
            }
            if now.refreshes >= standing.refreshes + 2 {
                return Ok(());
            }
            if now.refreshes != count {
                (count, since) = (now.refreshes, Instant::now());
            } else if since.elapsed() > quiet {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// An index's refresh interval from its settings as the source gives them: `None` for never.
pub(crate) fn refresh_interval(settings: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Settings {
        refresh_interval: Option<String>,
    }
    const DEFAULT: Duration = Duration::from_secs(1);
    let settings: Settings = serde_json::from_str(settings).ok()?;
    let Some(text) = settings.refresh_interval else {
        return Some(DEFAULT);
    };
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: u64 = digits.parse().ok()?; // "-1"
    Some(match &text[digits.len()..] {
        "micros" => Duration::from_micros(number),
        "nanos" => Duration::from_nanos(number),
        "ms" | "" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        _ => Duration::from_secs(number * 86_400),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refresh_interval_is_read_as_the_servers_write_it() {
        let of = |text: &str| refresh_interval(&format!("{{\"refresh_interval\":\"{text}\"}}"));
        assert_eq!(of("-1"), None);
        assert_eq!(of("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(of("30s"), Some(Duration::from_secs(30)));
        assert_eq!(refresh_interval("{}"), Some(Duration::from_secs(1)));
    }
}
