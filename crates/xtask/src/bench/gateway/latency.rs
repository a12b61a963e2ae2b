//! How much later a change is in the output than in the input, at 1,000 changes a second, beside a loop that only copies.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bus::{Bus, stream};
use futures::StreamExt;
use hdrhistogram::Histogram;
use model::wire::Encoder;
use model::{Batch, Content, Origin, Root, Tenant};
use serde_json::{Value, json};

use super::{Log, Work, bare};
use crate::bench::bare::change;
use crate::bench::report;
use crate::bench::runs::Run;
use crate::program::Service;

const PER_SECOND: u64 = 1000;
const PERCENTS: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

pub(super) async fn measure(context: &crate::bench::Context) -> Result<Value> {
    eprintln!("gateway: added latency…");
    let mut table = report::table(["", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"]);
    let mut figures = Vec::new();
    for work in [None, Some(&super::WORKS[0]), Some(&super::WORKS[3])] {
        let log = Log::start(super::LARGEST).await?;
        let changes = PER_SECOND * context.pick(20, 5);
        let warm = PER_SECOND * 2;
        let (name, carrier) = match work {
            None => {
                let bus = log.bus.clone();
                let copying = async move { bare::copy_messages(&bus, changes, changes).await };
                ("bare copy loop", Carrier::Loop(tokio::spawn(copying)))
            }
            Some(work) => (
                work.name,
                Carrier::Gateway(Box::new(started(context, work, &log).await?)),
            ),
        };
        let (here, there) = tokio::try_join!(
            arrivals(&log.bus, stream::ES_CHANGES, changes),
            arrivals(&log.bus, stream::ES_GATEWAY, changes),
        )?;
        let publishing = publish(&log.bus, changes);
        let (here, there, ()) = tokio::try_join!(
            async { here.await.context("the input's reader")? },
            async { there.await.context("the output's reader")? },
            publishing,
        )?;
        let mut added = Histogram::<u64>::new(3)?;
        for (first, second) in here.into_iter().zip(there).skip(warm as usize) {
            added.record(second.saturating_duration_since(first).as_micros() as u64)?;
        }
        let milliseconds = |micros: u64| micros as f64 / 1e3;
        let mut row = vec![name.to_owned()];
        row.extend(PERCENTS.map(|p| format!("{:.2}", milliseconds(added.value_at_percentile(p)))));
        row.push(format!("{:.2}", milliseconds(added.max())));
        table.add_row(row);
        let percentiles = PERCENTS.map(|p| {
            (
                format!("p{p}"),
                json!(milliseconds(added.value_at_percentile(p))),
            )
        });
        figures.push(json!({
            "what": name,
            "changes_per_second": PER_SECOND,
            "milliseconds": Value::Object(percentiles.into_iter().collect()),
            "max_milliseconds": milliseconds(added.max()),
        }));
        match carrier {
            Carrier::Loop(copying) => drop(copying.await??),
            Carrier::Gateway(mut gateway) => drop(gateway.process.stop().await?),
        }
    }
    report::print("output after input, at 1,000 changes/s", table, 2);
    Ok(json!(figures))
}

/// What carries the changes from one stream into the other.
enum Carrier {
    Loop(tokio::task::JoinHandle<Result<Run>>),
    Gateway(Box<Service>),
}

async fn started(context: &crate::bench::Context, work: &Work, log: &Log) -> Result<Service> {
    let rules_file = context.program.file("latency.yaml");
    let path = rules_file.display().to_string();
    let mut arguments = work.flags.to_vec();
    if let Some(text) = work.rules {
        std::fs::write(&rules_file, text)?;
        arguments.extend(["--rules", path.as_str()]);
    }
    context.program.gateway(&log.server.url(), &arguments).await
}

type Arrivals = tokio::task::JoinHandle<Result<Vec<Instant>>>;

/// Notes when each message of a stream is seen by a reader of it.
async fn arrivals(bus: &Bus, name: &str, count: u64) -> Result<Arrivals> {
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::New,
        ..pull::Config::default()
    };
    let consumer = bus
        .jetstream()
        .create_consumer_on_stream(config, name)
        .await?;
    let mut messages = consumer.messages().await?;
    Ok(tokio::spawn(async move {
        let mut seen = Vec::with_capacity(count as usize);
        while (seen.len() as u64) < count {
            messages.next().await.context("it ended early")??;
            seen.push(Instant::now());
        }
        Ok(seen)
    }))
}

/// Publishes one change a message, evenly.
async fn publish(bus: &Bus, count: u64) -> Result<()> {
    let encoder = Encoder {
        root: Root::Changes,
        tenant: Tenant::try_from("bench")?,
        max_body: 1 << 20,
        zstd_level: None,
    };
    let client = bus.jetstream();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / PER_SECOND as u32);
    for number in 0..count {
        tick.tick().await;
        let text = format!("{{\"dest\":\"X\",\"carrier\":\"Y\",\"n\":{number}}}");
        let batch = Batch {
            index: "flights".parse()?,
            origin: Origin::now("flights/0".into()),
            content: Content::Changes(vec![change(number, &text)?]),
        };
        for message in encoder.encode(&batch) {
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in message.envelope.to_headers() {
                headers.insert(name, value);
            }
            let subject = message.subject.to_string();
            // Nobody waits for the acknowledgment: what is lost would be missed at the end.
            drop(
                client
                    .publish_with_headers(subject, headers, message.body)
                    .await?,
            );
        }
    }
    Ok(())
}
