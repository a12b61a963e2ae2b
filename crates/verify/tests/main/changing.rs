//! While writes go on.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use model::IndexName;
use testkit::Product;
use tokio::sync::Notify;
use verify::{By, Pass, Progress, VerifyOptions};

use crate::support::{Pair, counts, documents, ids, index, options};

#[tokio::test]
async fn what_keeps_changing_is_neither_equal_nor_different() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.bulk(&pair.at_source, &documents(50)).await?;
    pair.bulk(&pair.at_source, &index("hot", None, "{}"))
        .await?;
    pair.copy(0, |_| true).await?;
    for by in [By::Content, By::Version] {
        let options = VerifyOptions {
            by,
            lag: Duration::from_millis(300),
            ..options()
        };
        // A counter that somebody raises all the time.
        let write = async {
            for n in 0.. {
                let line = index("hot", None, &format!("{{\"big\":{n}}}"));
                pair.bulk(&pair.at_source, &line).await?;
            }
            anyhow::Ok(())
        };
        pair.bulk(&pair.at_source, &index("hot", None, "{\"big\":-1}"))
            .await?;
        let report = tokio::select! {
            report = pair.verify_with(&options) => report?,
            ended = write => panic!("{ended:?}"),
        };
        assert_eq!(counts(&report), (0, 0, 0, 0), "{report}");
        assert_eq!(ids(&report.changing.listed), ["hot"]);
        assert!(!report.equal() && report.left == 0);
    }
    pair.delete().await
}

/// Says when documents that differ are being looked for.
#[derive(Default)]
struct Finding(Notify);

impl Progress for Finding {
    fn begin(&self, _: &IndexName, pass: Pass, _: u64) {
        if pass == Pass::Find {
            self.0.notify_one();
        }
    }
}

#[tokio::test]
async fn what_arrives_within_the_lag_is_equal_and_what_stands_still_is_not() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((2, 2)).await?;
    pair.bulk(&pair.at_source, &documents(50)).await?;
    pair.copy(0, |id| id.ends_with('0')).await?;
    let options = VerifyOptions {
        lag: Duration::from_secs(10),
        ..options()
    };
    // A writer that is behind: what it has not brought yet it brings while the lag passes.
    let finding = Arc::new(Finding::default());
    let (report, copied) = tokio::join!(pair.verify_watched(&options, finding.clone()), async {
        finding.0.notified().await;
        for end in ['1', '2', '3', '4'] {
            pair.copy(0, |id| id.ends_with(end)).await?;
        }
        anyhow::Ok(())
    });
    copied?;
    let report = report?;
    assert_eq!(counts(&report), (25, 0, 0, 0), "{report}");
    pair.delete().await
}
