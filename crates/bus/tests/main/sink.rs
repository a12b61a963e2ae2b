//! Publishing.

use bus::{JetStreamSink, SinkOptions, purge_settled};
use pipeline::{MessageSink, MessageSource, Tenure};
use testkit::{NatsOptions, NatsServer, unique_name, wait_until};

use crate::support::{
    Log, WITHIN, batch, connect, ids, next_batch, own_server, publish, try_publish,
};

#[tokio::test]
async fn batches_arrive_in_order_and_equal_whatever_their_size() {
    let log = Log::shared().await;
    for zstd_level in [None, Some(1)] {
        let mut sink = JetStreamSink::new(
            &log.bus,
            SinkOptions {
                zstd_level,
                ..log.sink_options(1)
            },
        );
        let limit = log.bus.max_payload();
        let sent = [
            batch("a", 0, 10, 100),
            // Together above the limit: several messages.
            batch("a", 10, 30, limit / 10),
            // Alone above the limit: a message in parts.
            batch("b.c", 40, 1, 3 * limit),
            batch("a", 41, 1, 1),
        ];
        let mut receipts = Vec::new();
        for batch in &sent {
            receipts.push(sink.publish(batch, 0).await.unwrap());
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }

        let mut reader = log.reader(&unique_name("reader")).await;
        let mut received = Vec::new();
        while received.len() < 42 {
            let (sequence, batch) = next_batch(&mut reader).await;
            reader.commit(sequence).await.unwrap();
            received.extend(batch.changes().iter().cloned());
        }
        let sent: Vec<_> = sent
            .iter()
            .flat_map(|batch| batch.changes())
            .cloned()
            .collect();
        assert_eq!(format!("{sent:?}"), format!("{received:?}"));
        assert!(sink.stats().messages() >= if zstd_level.is_none() { 9 } else { 4 });
        assert!(sink.stats().raw_bytes() > 3 * limit as u64);
        reader.close().await.unwrap();
        log.bus
            .jetstream()
            .get_stream(&log.stream)
            .await
            .unwrap()
            .purge()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_full_stream_pushes_back_and_takes_more_once_a_reader_has_settled() {
    let log = Log::shared().await;
    let log = Log::on(&log.bus, Some(1 << 20)).await;
    let mut sink = log.sink();
    let fault = loop {
        if let Err(fault) = try_publish(&mut sink, &batch("a", 0, 1, 100 << 10), 0).await {
            break fault;
        }
    };
    assert!(fault.is_retryable(), "{fault}");
    assert!(
        fault.to_string().contains(&log.stream) && fault.to_string().contains("full"),
        "{fault}"
    );

    let mut reader = log.reader("r").await;
    let last = log.info().await.last_sequence;
    while next_batch(&mut reader).await.0 < last {}
    reader.commit(last).await.unwrap();
    // The reader purges by itself.
    wait_until("the stream has room again", WITHIN, || async {
        log.info().await.messages == 1
    })
    .await
    .unwrap();
    publish(&mut sink, &batch("a", 1, 1, 100 << 10)).await;
    assert_eq!(ids(&next_batch(&mut reader).await.1), [1]);
}

#[tokio::test]
async fn the_slowest_reader_keeps_what_it_has_not_settled() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    for number in 0..10 {
        publish(&mut sink, &batch("a", number, 1, 10)).await;
    }
    assert_eq!(
        purge_settled(&log.bus, &log.stream).await.unwrap().slowest,
        None
    );
    let (mut fast, mut slow) = (log.reader("fast").await, log.reader("slow").await);
    fast.commit(0).await.unwrap();
    while next_batch(&mut fast).await.0 < 10 {}
    while next_batch(&mut slow).await.0 < 4 {}
    fast.commit(10).await.unwrap();
    slow.commit(4).await.unwrap();
    fast.close().await.unwrap();
    slow.close().await.unwrap();

    let purged = purge_settled(&log.bus, &log.stream).await.unwrap();
    assert_eq!(purged.slowest.unwrap().consumer, "slow");
    assert_eq!(
        log.info().await.first_sequence,
        4,
        "the message at the floor stays"
    );
    let mut slow = log.reader("slow").await;
    assert_eq!(ids(&next_batch(&mut slow).await.1), [4]);
}

#[tokio::test]
async fn a_subject_of_another_stream_and_a_missing_permission_are_fatal() {
    let log = Log::shared().await;
    let other = Log::on(&log.bus, None).await;
    let options = SinkOptions {
        stream: other.stream.clone(),
        ..log.sink_options(1)
    };
    let mut sink = JetStreamSink::new(&log.bus, options);
    let fault = try_publish(&mut sink, &batch("a", 0, 1, 1), 0)
        .await
        .unwrap_err();
    assert!(
        !fault.is_retryable() && fault.to_string().contains("another stream"),
        "{fault}"
    );

    let server = own_server(
        "authorization { users: [ { user: all, password: p }, { user: few, password: p, \
         permissions: { publish: [\"$JS.API.>\"], subscribe: [\"_INBOX.>\"] } } ] }",
    )
    .await;
    let url = |user: &str| {
        server
            .url()
            .replace("nats://", &format!("nats://{user}:p@"))
    };
    let log = Log::on(&connect(&url("all")).await, None).await;
    let few = connect(&url("few")).await;
    let mut sink = JetStreamSink::new(&few, log.sink_options(1));
    let fault = try_publish(&mut sink, &batch("a", 0, 1, 1), 0)
        .await
        .unwrap_err();
    assert!(
        !fault.is_retryable() && fault.to_string().contains("permission"),
        "{fault}"
    );
}

/// A disk that is slower than those who publish.
#[tokio::test]
async fn a_stream_that_has_too_much_waiting_is_asked_again() {
    let options = NatsOptions {
        sync_always: true,
        jetstream: "max_buffered_msgs: 2".to_owned(),
        ..NatsOptions::default()
    };
    let server = NatsServer::start(options).await.unwrap();
    let log = Log::on(&connect(&server.url()).await, None).await;
    let (mut sink, mut receipts) = (log.sink(), Vec::new());
    for number in 0..300 {
        let one = batch("a", number, 1, 10);
        receipts.push(sink.publish(&one, 0).await.unwrap());
    }
    let mut refused = Vec::new();
    for receipt in receipts {
        refused.extend(receipt.await.err());
    }
    assert!(!refused.is_empty(), "the stream took everything at once");
    for fault in refused {
        assert!(fault.is_retryable(), "{fault}");
    }
    publish(&mut sink, &batch("a", 300, 1, 10)).await;
}

/// A publisher waits for a position, which went out last, before what went out first.
#[tokio::test]
async fn acknowledgments_may_be_waited_for_in_any_order() {
    let log = Log::shared().await;
    let mut sink = log.sink();
    let mut receipts = Vec::new();
    for number in 0..5 {
        let one = batch("a", number, 1, 10);
        receipts.push(sink.publish(&one, 0).await.unwrap());
    }
    for at in [3, 0, 1, 1, 0] {
        receipts.remove(at).await.unwrap();
    }
    let newest = sink.acknowledged().newest().unwrap();
    assert_eq!(newest.sequence, log.info().await.last_sequence);
}

#[tokio::test]
async fn what_is_acknowledged_after_the_lease_has_run_out_does_not_count() {
    let log = Log::shared().await;
    let (_end, ended) = tokio::sync::watch::channel(std::time::Instant::now());
    let options = SinkOptions {
        tenure: Tenure::until(ended),
        ..log.sink_options(1)
    };
    let mut sink = JetStreamSink::new(&log.bus, options);
    let fault = try_publish(&mut sink, &batch("a", 0, 1, 1), 0)
        .await
        .unwrap_err();
    assert!(
        !fault.is_retryable() && fault.to_string().contains("lease"),
        "{fault}"
    );
}
