//! A server that comes back from a loss of power without the end of its stream.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bus::Ending;
use pipeline::MessageSource;
use tempfile::TempDir;
use testkit::{NatsOptions, NatsServer};

use crate::support::{Log, WITHIN, batch, connect, ids, next_batch, publish, try_publish};

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

/// A server whose stream is saved, and lost back to that, by its files.
struct Loss {
    server: NatsServer,
    /// The stream's folder.
    stream: PathBuf,
    /// Where it is saved.
    saved: PathBuf,
    _folder: TempDir,
}

impl Loss {
    async fn prepare() -> (Loss, Log) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let options = NatsOptions {
            store: Some(store.clone()),
            ..NatsOptions::default()
        };
        let server = NatsServer::start(options).await.unwrap();
        let log = Log::on(&connect(&server.url()).await, None).await;
        let loss = Loss {
            stream: store.join("jetstream/$G/streams").join(&log.stream),
            saved: folder.path().join("saved"),
            server,
            _folder: folder,
        };
        (loss, log)
    }

    async fn save(&mut self) {
        self.server.kill();
        copy(&self.stream, &self.saved);
        self.server.restart().await.unwrap();
    }

    /// Whatever came after [`Loss::save`] is gone.
    async fn lose_the_end(&mut self) {
        self.server.kill();
        std::fs::remove_dir_all(&self.stream).unwrap();
        copy(&self.saved, &self.stream);
        self.server.restart().await.unwrap();
    }

    /// All streams are gone, and the bucket with them.
    async fn lose_everything(&mut self) {
        self.server.kill();
        std::fs::remove_dir_all(self.stream.parent().unwrap()).unwrap();
        self.server.restart().await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_notices_a_lost_end_and_reads_everything_that_is_left_again() {
    let (mut loss, log) = Loss::prepare().await;
    let mut sink = log.sink();
    for number in 0..5 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    loss.save().await;

    // Two readers go on to message 10: one ends there, the other is still at work.
    for number in 5..10 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let (mut ended, mut working) = (log.reader("ended").await, log.reader("working").await);
    for reader in [&mut ended, &mut working] {
        while next_batch(reader).await.0 < 10 {}
        reader.commit(10).await.unwrap();
    }
    ended.close().await.unwrap();

    // The end is lost and filled with something else.
    loss.lose_the_end().await;
    let mut sink = log.sink();
    for number in 100..107 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let fault = tokio::time::timeout(WITHIN, working.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        fault.is_retryable() && fault.to_string().contains("lost its end"),
        "{fault}"
    );
    working.close().await.unwrap();
    for consumer in ["ended", "working"] {
        let mut reader = log.reader(consumer).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&106) {
            seen.extend(ids(&next_batch(&mut reader).await.1));
        }
        assert_eq!(seen, (0..5).chain(100..107).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_publisher_notices_that_what_was_acknowledged_is_gone() {
    let (mut loss, log) = Loss::prepare().await;
    let (mut idle, mut busy) = (log.sink(), log.sink());
    publish(&mut idle, &batch("a", 0, 1, 10)).await;
    loss.save().await;
    for number in 1..4 {
        publish(&mut idle, &batch("a", number, 1, 10)).await;
    }
    publish(&mut busy, &batch("b", 0, 1, 10)).await;
    let kept = idle.acknowledged().newest().unwrap();
    assert_eq!(
        bus::look_at_ending(
            &log.bus,
            (&log.stream, log.info().await.created),
            Some(&kept)
        )
        .await
        .unwrap(),
        Ending::Whole
    );
    let idle = idle.acknowledged();
    let noticed = idle.lost(&log.bus, log.info().await.created);
    tokio::pin!(noticed);
    assert!(
        tokio::time::timeout(Duration::ZERO, &mut noticed)
            .await
            .is_err(),
        "nothing is lost yet"
    );

    loss.lose_the_end().await;
    // One that goes on is told by the number it gets, one that rests by looking.
    let told = async {
        for attempt in 1.. {
            let fault = try_publish(&mut busy, &batch("b", 1, 1, 10), attempt).await;
            let reason = fault.unwrap_err().to_string(); // at first: the server is away
            if reason.contains("lost its end") {
                return reason;
            }
            tokio::task::yield_now().await;
        }
        unreachable!()
    };
    let told = tokio::time::timeout(WITHIN, told).await.unwrap();
    assert!(told.contains("gives the number 2 again"), "{told}");
    let error = tokio::time::timeout(WITHIN, noticed).await.unwrap();
    assert!(error.to_string().contains("ends at 2"), "{error}");
    let lost = bus::look_at_ending(
        &log.bus,
        (&log.stream, log.info().await.created),
        Some(&kept),
    )
    .await
    .unwrap();
    assert!(matches!(lost, Ending::Lost { upto: 2, .. }), "{lost:?}");

    // A stream that has grown beyond the number has another message in its place.
    for number in 0..4 {
        publish(&mut log.sink(), &batch("c", number, 1, 10)).await;
    }
    let lost = bus::look_at_ending(
        &log.bus,
        (&log.stream, log.info().await.created),
        Some(&kept),
    )
    .await
    .unwrap();
    assert!(matches!(lost, Ending::Lost { upto: 0, .. }), "{lost:?}");
}

/// What a server says that has lost a stream with its power, or from which an operator has removed it.
#[tokio::test]
async fn a_stream_that_is_gone_has_lost_its_end_for_who_reads_it_and_for_who_writes_it() {
    let (mut loss, log) = Loss::prepare().await;
    let mut sink = log.sink();
    publish(&mut sink, &batch("a", 0, 1, 10)).await;
    let mut reader = log.reader("r").await;
    next_batch(&mut reader).await;
    reader.commit(1).await.unwrap();

    // The reader's lease goes with its bucket.
    let created = log.info().await.created;
    let publishers = [sink.acknowledged(), log.sink().acknowledged()].map(|acknowledged| {
        let (bus, created) = (log.bus.clone(), created);
        tokio::spawn(async move { acknowledged.lost(&bus, created).await })
    });
    loss.lose_everything().await;
    let fault = tokio::time::timeout(WITHIN, reader.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        fault.is_retryable() && fault.to_string().contains("is gone"),
        "{fault}"
    );
    for publisher in publishers {
        let lost = tokio::time::timeout(WITHIN, publisher).await.unwrap();
        let error = lost.unwrap().to_string();
        assert!(error.contains("is gone"), "{error}");
    }

    log.ensure(None).await;
    reader.close().await.unwrap();
    let mut sink = log.sink();
    publish(&mut sink, &batch("a", 1, 1, 10)).await;
    let mut reader = log.reader("r").await;
    assert_eq!(ids(&next_batch(&mut reader).await.1), [1]);
}

/// The reader was cut off when the server lost its end: until it is back, its floor is a number of before.
#[tokio::test]
async fn a_floor_from_before_a_lost_end_frees_nothing_of_what_came_after() {
    let (mut loss, log) = Loss::prepare().await;
    let mut sink = log.sink();
    for number in 0..5 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    loss.save().await;
    for number in 5..10 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let mut reader = log.reader("r").await;
    while next_batch(&mut reader).await.0 < 10 {}
    reader.commit(10).await.unwrap();
    reader.close().await.unwrap();
    let floor = async || bus::readers(&log.bus, &log.info().await).await.unwrap()[0].floor;
    assert_eq!(floor().await, 10);

    loss.lose_the_end().await;
    // Shorter than the floor, up to it, and beyond it.
    for upto in [7, 10, 13] {
        let mut sink = log.sink();
        for number in log.info().await.last_sequence..upto {
            publish(&mut sink, &batch("b", 100 + number, 1, 10)).await;
        }
        assert_eq!(floor().await, 0, "at {upto}");
        let purged = bus::purge_settled(&log.bus, &log.stream).await.unwrap();
        assert_eq!(purged.removed, 0, "at {upto}");
    }
    let mut reader = log.reader("r").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&112) {
        seen.extend(ids(&next_batch(&mut reader).await.1));
    }
    assert_eq!(seen, (0..5).chain(105..113).collect::<Vec<_>>());
}
