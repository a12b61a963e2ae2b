//! Leases of publishers, and what happens to records.

use std::time::Duration;

use bus::{Lease, LeaseOptions, Role, forget_reader, readers};
use pipeline::MessageSource;
use testkit::{unique_name, wait_until};
use tokio_util::sync::CancellationToken;

use crate::support::{Log, WITHIN, batch, next_batch, publish};

async fn acquire(log: &Log, name: &str) -> Lease {
    let options = LeaseOptions {
        role: Role::Publisher(name.to_owned()),
        holder: "watcher@test".to_owned(),
        lease: Duration::from_secs(60),
    };
    let (stream, shutdown) = (log.info().await, CancellationToken::new());
    let acquired = Lease::acquire(&log.bus, &stream, options, &shutdown);
    tokio::time::timeout(WITHIN, acquired)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_once_with_a_higher_token() {
    let log = Log::shared().await;
    let name = unique_name("publisher/0");
    let mut first = acquire(&log, &name).await;
    assert!(first.tenure().remaining().unwrap() > Duration::from_secs(30));
    first.check().unwrap();
    first.release().await.unwrap();
    assert_eq!(first.tenure().remaining(), Some(Duration::ZERO));
    let second = acquire(&log, &name).await;
    assert!(second.token() > first.token());
}

#[tokio::test]
async fn a_reader_that_is_forgotten_holds_back_nothing_and_stops_if_it_still_runs() {
    let log = Log::shared().await;
    publish(&mut log.sink(), &batch("a", 0, 1, 10)).await;
    let mut reader = log.reader("r.1/ä").await;
    let (sequence, _) = next_batch(&mut reader).await;
    let known = readers(&log.bus, &log.info().await).await.unwrap();
    assert_eq!(
        (known.len(), known[0].consumer.as_str(), known[0].held),
        (1, "r.1/ä", true)
    );

    forget_reader(&log.bus, &log.stream, "r.1/ä").await.unwrap();
    assert_eq!(readers(&log.bus, &log.info().await).await.unwrap(), []);
    let fault = tokio::time::timeout(WITHIN, reader.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        !fault.is_retryable() && fault.to_string().contains("lease"),
        "{fault}"
    );
    assert!(reader.commit(sequence).await.is_err());
}

#[tokio::test]
async fn standing_by_ends_with_the_process() {
    let log = Log::shared().await;
    let _active = log.reader("r").await;
    let shutdown = CancellationToken::new();
    let opening = tokio::spawn({
        let (bus, options, shutdown) = (log.bus.clone(), log.reader_options("r"), shutdown.clone());
        async move { bus::JetStreamReader::open(&bus, options, &shutdown).await }
    });
    let held = || async {
        !readers(&log.bus, &log.info().await)
            .await
            .unwrap()
            .is_empty()
    };
    wait_until("the first holds the lease", WITHIN, held)
        .await
        .unwrap();
    shutdown.cancel();
    assert!(opening.await.unwrap().unwrap().is_none());
}
