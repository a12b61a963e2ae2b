//! What the tests share.

use std::{sync::Arc, time::Duration};

use bus::{
    Bus, ConnectOptions, JetStreamReader, JetStreamSink, ReaderOptions, SinkOptions, StreamInfo,
    StreamSpec, stream,
};
use model::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, Origin, Root, Tenant, Version,
};
use pipeline::{Delivery, Fault, MessageSink, MessageSource, Payload, Tenure};
use testkit::{NatsOptions, NatsServer, unique_name};
use tokio_util::sync::CancellationToken;

pub(crate) const WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn connect(url: &str) -> Bus {
    let options = ConnectOptions {
        url: url.to_owned(),
        name: "test".to_owned(),
        ..Default::default()
    };
    options.connect().await.unwrap()
}

pub(crate) async fn own_server(config: &str) -> NatsServer {
    let options = NatsOptions {
        config: config.to_owned(),
        ..NatsOptions::default()
    };
    NatsServer::start(options).await.unwrap()
}

/// A tenant and a stream of its own on some server.
pub(crate) struct Log {
    pub(crate) bus: Bus,
    pub(crate) stream: String,
    pub(crate) tenant: String,
}

impl Log {
    /// On the server that all tests share.
    pub(crate) async fn shared() -> Log {
        Log::on(&connect(&NatsServer::shared().await.url()).await, None).await
    }

    pub(crate) async fn on(bus: &Bus, max_bytes: Option<u64>) -> Log {
        let tenant = unique_name("tenant");
        let log = Log {
            bus: bus.clone(),
            stream: unique_name("log"),
            tenant,
        };
        log.ensure(max_bytes).await;
        log
    }

    pub(crate) async fn ensure(&self, max_bytes: Option<u64>) -> StreamInfo {
        let subjects = format!("es.{}.>", self.tenant);
        let spec = StreamSpec {
            max_bytes,
            ..StreamSpec::new(&self.stream, &subjects)
        };
        stream::ensure(&self.bus, &spec).await.unwrap()
    }

    pub(crate) async fn info(&self) -> StreamInfo {
        stream::info(&self.bus, &self.stream)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) fn sink_options(&self, token: u64) -> SinkOptions {
        SinkOptions {
            stream: self.stream.clone(),
            root: Root::Changes,
            tenant: Tenant::try_from(self.tenant.as_str()).unwrap(),
            zstd_level: None,
            token,
            tenure: Tenure::unlimited(),
            ack_timeout: Duration::from_secs(10),
            newest: None,
        }
    }

    pub(crate) fn sink(&self) -> JetStreamSink {
        JetStreamSink::new(&self.bus, self.sink_options(1))
    }

    pub(crate) fn reader_options(&self, consumer: &str) -> ReaderOptions {
        ReaderOptions {
            lease: Duration::from_millis(1500),
            holder: format!("{consumer}@test"),
            ..ReaderOptions::new(&self.stream, consumer)
        }
    }

    pub(crate) async fn reader(&self, consumer: &str) -> JetStreamReader {
        open(&self.bus, self.reader_options(consumer)).await
    }
}

pub(crate) async fn open(bus: &Bus, options: ReaderOptions) -> JetStreamReader {
    JetStreamReader::open(bus, options, &CancellationToken::new())
        .await
        .unwrap()
        .unwrap()
}

/// Documents 'start' and following of an index, each of about `size` bytes.
pub(crate) fn batch(index: &str, start: u64, count: u64, size: usize) -> Arc<Batch> {
    let change = |number: u64| Change {
        id: DocumentId::try_from(number.to_string().as_str()).unwrap(),
        routing: None,
        version: Version::new(Epoch(0), number).unwrap(),
        over: false,
        action: Action::Index(Document::from_json(
            format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(size)).into(),
        )),
    };
    Arc::new(Batch {
        index: index.parse().unwrap(),
        origin: Origin::now("p".into()),
        content: Content::Changes((start..start + count).map(change).collect()),
    })
}

/// Publishes as the publishing loop does: again, with a new attempt, until the log has it.
pub(crate) async fn publish(sink: &mut JetStreamSink, batch: &Arc<Batch>) {
    for attempt in 0.. {
        match try_publish(sink, batch, attempt).await {
            Ok(()) => return,
            Err(fault) if fault.is_retryable() && attempt < 1000 => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}

pub(crate) async fn try_publish(
    sink: &mut JetStreamSink,
    batch: &Arc<Batch>,
    attempt: u64,
) -> Result<(), Fault> {
    sink.publish(batch, attempt).await?.await
}

pub(crate) async fn next(reader: &mut JetStreamReader) -> Delivery {
    let next = tokio::time::timeout(WITHIN, reader.next()).await;
    next.expect("nothing was delivered in time")
        .unwrap()
        .unwrap()
}

/// The next batch; entries with nothing for the reader are settled on the way.
pub(crate) async fn next_batch(reader: &mut JetStreamReader) -> (u64, Arc<Batch>) {
    loop {
        let delivery = next(reader).await;
        match delivery.payload {
            Payload::Batch(batch) => return (delivery.sequence, batch),
            Payload::Nothing => reader.commit(delivery.sequence).await.unwrap(),
            unreadable => panic!("{unreadable:?}"),
        }
    }
}

pub(crate) fn ids(batch: &Batch) -> Vec<u64> {
    batch
        .changes()
        .iter()
        .map(|change| change.id.as_str().parse().unwrap())
        .collect()
}
