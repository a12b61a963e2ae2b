//! Watcher and writer of the program, as processes over JetStream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::program::{Program, Service};

const SETTLED: &str = "syncline_writer_changes_total";
const PUBLISHED: &str = "syncline_watcher_changes_total";
const DELETES: &str = "syncline_watcher_deletes_total";
const LOOKS: &str = "syncline_watcher_looks_total";
const BEHIND: &str = "syncline_watcher_behind_operations";

/// How long copying, or catching up, may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The two services.
pub(crate) struct Carrier {
    pub(crate) began: Instant,
    pub(crate) watcher: Service,
    pub(crate) writer: Service,
}

impl Carrier {
    /// Starts both, the watcher with some flags more; they are ready.
    pub(crate) async fn start(
        program: &Program,
        source: &str,
        nats: &str,
        target: &str,
        indices: &str,
        of_the_watcher: &[&str],
    ) -> Result<Carrier> {
        let began = Instant::now();
        Ok(Carrier {
            began,
            watcher: program
                .watcher(source, nats, indices, of_the_watcher)
                .await?,
            writer: program.writer(target, nats).await?,
        })
    }

    /// Waits until so many changes are written; returns how many are.
    pub(crate) async fn until_settled(&mut self, total: u64, show: impl Fn(u64)) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let settled = self.writer.metric(SETTLED).await?;
            show(settled);
            if settled >= total {
                return Ok(settled);
            }
            self.expect_going_on(deadline)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the watcher has seen the source at rest and everything published is written; returns how many
    /// changes that were.
    pub(crate) async fn caught_up(&mut self) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        let looks = self.watcher.metric(LOOKS).await?;
        loop {
            // The second look from now began after now, so it sees every change that came before.
            let looked = self.watcher.metric(LOOKS).await? >= looks + 2;
            let behind = self.watcher.metric(BEHIND).await?;
            let published = self.watcher.metric(PUBLISHED).await?;
            let settled = self.writer.metric(SETTLED).await?;
            if looked && behind == 0 && published == settled {
                return Ok(settled);
            }
            self.expect_going_on(deadline).with_context(|| {
                format!("behind {behind}, published {published}, settled {settled}")
            })?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many documents the watcher has found to be deleted.
    pub(crate) async fn deletes(&mut self) -> Result<u64> {
        self.watcher.metric(DELETES).await
    }

    /// Ends them in order.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.watcher.process.stop().await?;
        self.writer.process.stop().await?;
        Ok(())
    }

    fn expect_going_on(&mut self, deadline: Instant) -> Result<()> {
        self.watcher.process.expect_alive()?;
        self.writer.process.expect_alive()?;
        ensure!(Instant::now() < deadline, "not done after {PATIENCE:?}");
        Ok(())
    }
}

/// Waits until a watcher alone has published so many changes.
#[cfg(feature = "bench")]
pub(crate) async fn until_published(watcher: &mut Service, total: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while watcher.metric(PUBLISHED).await? < total {
        watcher.process.expect_alive()?;
        ensure!(
            Instant::now() < deadline,
            "not published after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
