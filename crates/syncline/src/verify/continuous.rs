//! Comparing for ever: how old the proof is, and what differs, as metrics.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use search::Client;
use tokio_util::sync::CancellationToken;
use verify::{IndexReport, Progress, VerifyOptions};

use super::{
    Args, CommandError,
    metrics::{Known, Reading, VerifyMetrics},
    source::{Address, Source, Teller},
};
use crate::program::Shared;

/// A comparison that has read nothing for so long is stuck; a cluster that is away is borne for
/// half a minute, but each of its requests may take long too.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// Compares until the token is cancelled. What cannot be compared now is tried again in the next
/// pass.
pub(super) async fn run(
    args: Args,
    shared: Shared,
    token: CancellationToken,
) -> Result<(), CommandError> {
    let health = &shared.health;
    for condition in ["source", "target", "comparison"] {
        health.readiness.expect(condition);
    }
    let (source, target) = args.addresses()?;
    let source = match source {
        Address::Postgres(options) => Source::Postgres(options, Teller::default()),
        Address::Cluster(config) => {
            let source = search::connect_with_retry(&config, "source", health, &token).await;
            match source.map_err(CommandError::Source)? {
                Some(source) => Source::Cluster(source, Teller::default()),
                None => return Ok(()),
            }
        }
    };
    let target = search::connect_with_retry(&target, "target", health, &token).await;
    let Some(target) = target.map_err(CommandError::Target)? else {
        return Ok(());
    };
    let mut watch = Watch {
        options: args.options(),
        metrics: VerifyMetrics::new(&shared.metrics),
        known: Known::new(),
        source,
        target,
        args,
        shared,
    };
    // It only reads, so it may be dropped anywhere.
    token.run_until_cancelled(watch.run()).await;
    Ok(())
}

struct Watch {
    args: Args,
    options: VerifyOptions,
    shared: Shared,
    metrics: VerifyMetrics,
    known: Known,
    source: Source,
    target: Client,
}

impl Watch {
    async fn run(&mut self) {
        loop {
            let began = Instant::now();
            let passed = self.pass().await;
            let readiness = &self.shared.health.readiness;
            match passed {
                Ok(()) => {
                    self.metrics.passed(began.elapsed());
                    readiness.set("comparison", Ok(()));
                }
                Err(error) => {
                    tracing::warn!(%error, "not all indices could be compared");
                    readiness.set("comparison", Err(error.to_string()));
                }
            }
            tokio::time::sleep(self.args.interval.into()).await;
        }
    }

    /// Compares every index that there is now; the first failure is returned, after the others were
    /// compared all the same.
    async fn pass(&mut self) -> Result<(), CommandError> {
        let heart = self.shared.health.liveness.heart("verify", STUCK_AFTER);
        let progress: Arc<dyn Progress> = Arc::new(Reading::new(&self.metrics, heart));
        let found = self.source.found(&self.args.indices).await;
        if let Source::Postgres(..) = &self.source {
            let said = found.as_ref().map(|_| ()).map_err(ToString::to_string);
            self.shared.health.readiness.set("source", said);
        }
        let found = found?;
        let indices: Known = found.iter().map(|found| found.index.clone()).collect();
        for gone in self.known.difference(&indices) {
            self.metrics.forget(gone);
        }
        self.known = indices;
        let mut failure = None;
        for found in &found {
            let (index, began) = (&found.index, SystemTime::now());
            let pair = (&self.target, index);
            let compared = self.source.compare(found, pair, &self.options, &progress);
            match compared.await {
                Ok(report) => {
                    self.metrics.compared(&report, began);
                    say(&report);
                }
                Err(error) => {
                    self.metrics.failed(index);
                    tracing::warn!(%index, %error, "the index could not be compared");
                    failure.get_or_insert(error.into());
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

fn say(report: &IndexReport) {
    let (index, documents) = (&report.index, report.documents_source);
    let changing = report.changing.count;
    if report.left == 0 && report.target_exists {
        tracing::info!(%index, documents, changing, by = %report.by, "equal");
        return;
    }
    tracing::warn!(
        %index,
        documents,
        missing = report.missing.count,
        extra = report.extra.count,
        different = report.different.count,
        misrouted = report.misrouted.count,
        changing,
        exists = report.target_exists,
        "NOT equal; syncline verify says what differs, and with --repair makes it equal",
    );
}
