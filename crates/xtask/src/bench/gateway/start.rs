//! From exec to ready.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer};

use crate::bench::Context;
use crate::bench::report;

pub(super) async fn measure(context: &Context) -> Result<Value> {
    eprintln!("gateway: exec to ready…");
    let rounds = context.pick(20, 5);
    let nats = NatsServer::start(NatsOptions::default()).await?;
    let mut alone = Vec::new();
    for _ in 0..rounds {
        let mut gateway = context.program.gateway(&nats.url(), &[]).await?;
        alone.push(gateway.ready_after);
        gateway.process.stop().await?;
    }
    let store = context.program.file("embedded-store").display().to_string();
    let binary = NatsServer::binary()?.display().to_string();
    let (mut embedded, mut first) = (Vec::new(), None);
    for _ in 0..rounds {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .to_string();
        let arguments = [
            "--embedded",
            "--nats-binary",
            &binary,
            "--nats-listen",
            &address,
            "--store-dir",
            &store,
        ];
        let mut gateway = context.program.gateway("nats://unused", &arguments).await?;
        match first {
            None => first = Some(gateway.ready_after),
            Some(_) => embedded.push(gateway.ready_after),
        }
        gateway.process.stop().await?;
    }
    let mut table = report::table(["", "median ms", "fastest ms", "slowest ms"]);
    let mut figures = Vec::new();
    for (name, mut times) in [
        ("gateway", alone),
        ("with embedded NATS", embedded),
        (
            "with embedded NATS, empty store",
            first.into_iter().collect(),
        ),
    ] {
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let (median, fastest, slowest) = (
            ms(times.get(times.len() / 2)),
            ms(times.first()),
            ms(times.last()),
        );
        table.add_row([
            name.to_owned(),
            format!("{median:.0}"),
            format!("{fastest:.0}"),
            format!("{slowest:.0}"),
        ]);
        figures.push(json!({
            "what": name,
            "median_milliseconds": median,
            "fastest_milliseconds": fastest,
            "slowest_milliseconds": slowest,
        }));
    }
    report::print("exec to ready", table, 0);
    Ok(json!(figures))
}
