//! Reading: order, floors, leases.

use std::time::Duration;

use bus::{Error, JetStreamReader, JetStreamSink, ReaderOptions, readers};
use model::{Batch, Content, Origin};
use pipeline::{MessageSource, Payload};
use testkit::{NatsOptions, NatsServer, wait_until};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Log, WITHIN, batch, connect, ids, next, next_batch, open, own_server, publish,
};

#[tokio::test]
async fn a_reader_starts_again_behind_the_floor_it_has_stored() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..5 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let mut reader = log.reader("r").await;
    for _ in 0..4 {
        next_batch(&mut reader).await;
    }
    reader.commit(2).await.unwrap();
    reader.close().await.unwrap();
    let mut reader = log.reader("r").await;
    assert_eq!(next_batch(&mut reader).await.0, 3);
}

#[tokio::test]
async fn a_second_reader_stands_by_and_takes_over_from_one_that_vanished_without_skipping() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..6 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let mut first = log.reader("r").await;
    for _ in 0..5 {
        next_batch(&mut first).await;
    }
    first.commit(3).await.unwrap();
    let floor = || async { readers(&log.bus, &log.info().await).await.unwrap()[0].floor == 3 };
    wait_until("the floor is stored", WITHIN, floor)
        .await
        .unwrap();

    let mut second = tokio::spawn(open_owned(log.bus.clone(), log.reader_options("r")));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut second).await;
    assert!(early.is_err(), "it did not stand by");
    drop(first); // vanishes without giving its lease back
    let mut second = tokio::time::timeout(WITHIN, second).await.unwrap().unwrap();
    assert_eq!(next_batch(&mut second).await.0, 4);
}

async fn open_owned(bus: bus::Bus, options: ReaderOptions) -> JetStreamReader {
    open(&bus, options).await
}

#[tokio::test]
async fn a_reader_that_was_cut_off_for_longer_than_its_lease_is_fenced() {
    let server = own_server("").await;
    let log = Log::on(&connect(&server.url()).await, None).await;
    // The first has a runtime of its own that can be stopped, as a paused process is.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (url, options) = (server.url(), log.reader_options("r"));
    let (opened_tx, opened) = tokio::sync::oneshot::channel();
    let (resume, paused) = std::sync::mpsc::channel::<()>();
    let first = std::thread::spawn(move || {
        let mut reader = runtime.block_on(async { open(&connect(&url).await, options).await });
        let tenure = reader.tenure();
        opened_tx.send(()).unwrap();
        paused.recv().unwrap(); // nothing of the runtime runs until then
        assert_eq!(tenure.remaining(), Some(Duration::ZERO));
        runtime.block_on(async { tokio::time::timeout(WITHIN, reader.next()).await.unwrap() })
    });
    opened.await.unwrap();
    let _second = tokio::time::timeout(WITHIN, log.reader("r")).await.unwrap();
    resume.send(()).unwrap();
    let fault = tokio::task::spawn_blocking(|| first.join().unwrap())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        !fault.is_retryable() && fault.to_string().contains("lease"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_filter_is_kept_and_the_floor_moves_over_what_it_refuses() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    publish(&mut sink, &batch("wanted", 0, 1, 10)).await;
    for number in 0..3 {
        publish(&mut sink, &batch("refused", number, 1, 10)).await;
    }
    let filter = format!("es.{}.wanted.>", log.tenant);
    let options = ReaderOptions {
        filter_subjects: vec![filter],
        ..log.reader_options("r")
    };
    let mut reader = open(&log.bus, options.clone()).await;
    assert_eq!(next(&mut reader).await.sequence, 1);
    let nothing = next(&mut reader).await;
    assert!(
        matches!(nothing.payload, Payload::Nothing) && nothing.sequence == 4,
        "{nothing:?}"
    );
    reader.commit(4).await.unwrap();

    publish(&mut sink, &batch("refused", 3, 1, 10)).await;
    publish(&mut sink, &batch("wanted", 1, 1, 10)).await;
    let (sequence, wanted) = next_batch(&mut reader).await;
    assert_eq!((sequence, ids(&wanted)), (6, vec![1]));
    reader.close().await.unwrap();
    let stored = &readers(&log.bus, &log.info().await).await.unwrap()[0];
    assert_eq!((stored.floor, stored.held), (4, false));
}

#[tokio::test]
async fn nothing_is_skipped_when_the_server_is_killed_again_and_again() {
    let mut server = NatsServer::start(NatsOptions::default()).await.unwrap();
    let log = Log::on(&connect(&server.url()).await, None).await;
    let options = ReaderOptions {
        lease: Duration::from_secs(20),
        ..log.reader_options("r")
    };
    let mut reader = open(&log.bus, options).await;
    let mut sink = log.sink();
    let (progress, mut published) = tokio::sync::watch::channel(0);
    let publisher = tokio::spawn(async move {
        for number in 0..400 {
            publish(&mut sink, &batch("a", number, 1, 100)).await;
            progress.send_replace(number);
        }
    });
    let mut seen = Vec::new();
    let reading = async {
        while seen.last() != Some(&399) {
            let (sequence, batch) = next_batch(&mut reader).await;
            reader.commit(sequence).await.unwrap();
            seen.extend(ids(&batch));
        }
    };
    let killing = async {
        for at in [50, 150, 250] {
            published.wait_for(|number| *number >= at).await.unwrap();
            server.restart().await.unwrap(); // kill -9 first
        }
    };
    tokio::join!(reading, killing);
    publisher.await.unwrap();
    // Repeated where an acknowledgment was lost, but never skipped or out of order.
    seen.dedup();
    assert_eq!(seen, (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_was_created_anew_is_read_from_its_first_message() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..5 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let mut reader = log.reader("r").await;
    while next_batch(&mut reader).await.0 < 5 {}
    reader.commit(5).await.unwrap();
    reader.close().await.unwrap();

    log.bus
        .jetstream()
        .delete_stream(&log.stream)
        .await
        .unwrap();
    log.ensure(None).await;
    publish(&mut sink, &batch("a", 77, 1, 10)).await;
    let mut reader = log.reader("r").await;
    let (sequence, first) = next_batch(&mut reader).await;
    assert_eq!((sequence, ids(&first)), (1, vec![77]));
}

#[tokio::test]
async fn unread_changes_that_were_purged_by_hand_stop_the_reader_with_the_remedy() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..5 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    let mut reader = log.reader("r").await;
    next_batch(&mut reader).await;
    reader.commit(1).await.unwrap();
    reader.close().await.unwrap();
    let stream = log.bus.jetstream().get_stream(&log.stream).await.unwrap();
    stream.purge().sequence(4).await.unwrap();
    let opened =
        JetStreamReader::open(&log.bus, log.reader_options("r"), &CancellationToken::new()).await;
    let error = opened.unwrap_err();
    assert!(
        matches!(error, Error::Unread { from: 2, to: 3, .. }),
        "{error}"
    );
    // A new reader says what it does not see, and starts.
    assert_eq!(next_batch(&mut log.reader("new").await).await.0, 4);
}

#[tokio::test]
async fn a_late_message_of_an_earlier_publisher_is_not_delivered() {
    let log = Log::shared().await;
    let (mut old, mut new) = (
        JetStreamSink::new(&log.bus, log.sink_options(7)),
        JetStreamSink::new(&log.bus, log.sink_options(8)),
    );
    publish(&mut old, &batch("a", 0, 1, 10)).await;
    publish(&mut new, &batch("a", 1, 1, 10)).await;
    publish(&mut old, &batch("a", 2, 1, 10)).await;
    publish(&mut new, &batch("a", 3, 1, 10)).await;
    let mut reader = log.reader("r").await;
    for wanted in [0, 1] {
        assert_eq!(ids(&next_batch(&mut reader).await.1), [wanted]);
    }
    reader.commit(2).await.unwrap();
    reader.close().await.unwrap();
    // The floor carries what is needed to recognise it after a restart too.
    let mut reader = log.reader("r").await;
    let late = next(&mut reader).await;
    assert!(
        matches!(late.payload, Payload::Nothing) && late.sequence == 3,
        "{late:?}"
    );
    assert_eq!(ids(&next_batch(&mut reader).await.1), [3]);
}

#[tokio::test]
async fn a_late_message_of_an_earlier_attempt_is_not_delivered() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for (number, attempt) in [(0, 0), (1, 1)] {
        let batch = batch("a", number, 1, 10);
        let published = crate::support::try_publish(&mut sink, &batch, attempt).await;
        published.unwrap();
    }
    // What the network had kept of the first attempt.
    let jetstream = log.bus.jetstream();
    let stream = jetstream.get_stream(&log.stream).await.unwrap();
    let mut late = stream.get_raw_message(1).await.unwrap();
    late.headers.insert("Nats-Msg-Id", "late");
    let stored = jetstream
        .publish_with_headers(late.subject, late.headers, late.payload)
        .await
        .unwrap();
    assert_eq!(stored.await.unwrap().sequence, 3);
    publish(&mut sink, &batch("a", 2, 1, 10)).await;
    let mut reader = log.reader("r").await;
    for wanted in [0, 1] {
        assert_eq!(ids(&next_batch(&mut reader).await.1), [wanted]);
    }
    let late = next(&mut reader).await;
    assert!(matches!(late.payload, Payload::Nothing), "{late:?}");
    assert_eq!(ids(&next_batch(&mut reader).await.1), [2]);
}

#[tokio::test]
async fn what_somebody_else_published_is_delivered_as_unreadable() {
    let log = Log::shared().await;
    let subject = format!("es.{}.a.index", log.tenant);
    log.bus
        .jetstream()
        .publish(subject.clone(), "hello".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let mut reader = log.reader("r").await;
    let delivery = next(&mut reader).await;
    assert_eq!(delivery.subject.as_deref(), Some(&*subject));
    match delivery.payload {
        Payload::Unreadable { body, .. } => assert_eq!(&body[..], b"hello"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_loops_of_publishing_through_one_sink_do_not_shadow_each_other() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    let mut reader = log.reader("r").await;
    for (number, attempt) in [(0, 0), (1, 3), (2, 0)] {
        crate::support::try_publish(&mut sink, &batch("a", number, 1, 10), attempt)
            .await
            .unwrap();
        assert_eq!(ids(&next_batch(&mut reader).await.1), [number]);
    }
}

#[tokio::test]
async fn an_index_definition_travels_too() {
    let log = Log::shared().await;
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    let definition = model::IndexDefinition {
        lineage: None,
        aliases: None,
        product: "elasticsearch 7.17.29".to_owned(),
        settings: raw(r#"{"number_of_shards":"2"}"#),
        mappings: raw(r#"{"properties":{}}"#),
    };
    let sent = std::sync::Arc::new(Batch {
        index: "a".parse().unwrap(),
        origin: Origin::now("p".into()),
        content: Content::Definition(definition),
    });
    publish(&mut log.sink(), &sent).await;
    let (_, received) = next_batch(&mut log.reader("r").await).await;
    assert_eq!(
        format!("{:?}", received.content),
        format!("{:?}", sent.content)
    );
}

/// The server filters; another filter counts for everything behind the newest message delivered, also for what the old
/// one has left out and for what was on its way already.
#[tokio::test]
async fn other_subjects_are_wanted_between_two_messages_without_a_gap() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..30 {
        let index = if number % 3 == 0 { "a" } else { "b" };
        publish(&mut sink, &batch(index, number, 1, 10)).await;
    }
    let only = |index: &str| format!("es.{}.{index}.>", log.tenant);
    let options = ReaderOptions {
        filter_subjects: vec![only("a")],
        ..log.reader_options("r")
    };
    let mut reader = open(&log.bus, options).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next_batch(&mut reader).await.0);
    }
    assert_eq!(seen, [1, 4, 7]);
    assert_eq!(reader.left_out(), 4);
    reader.want(&[only("a"), only("b")]);
    for sequence in 8..=12 {
        assert_eq!(next_batch(&mut reader).await.0, sequence);
    }
    assert_eq!(reader.left_out(), 4);
    reader.want(&[only("a")]);
    assert_eq!(next_batch(&mut reader).await.0, 13);
    reader.want(&[]);
    for sequence in 14..=30 {
        assert_eq!(next_batch(&mut reader).await.0, sequence);
    }
    // What it wants is written down for people.
    wait_until("the record says so", WITHIN, async || {
        let readers = readers(&log.bus, &log.info().await).await.unwrap();
        readers[0].filter_subjects.is_empty()
    })
    .await
    .unwrap();
}
