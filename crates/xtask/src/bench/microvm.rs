//! The memory of gateway and nats-server in a guest of 128 MB, while 1,000,000 changes come in through its rules and
//! nobody reads them, and when it has booted again with all of them on its data drive.
//!
//! The processor is emulated: times say nothing here, memory does. The guest itself says how it stands. `KERNEL=minimal` takes
//! the kernel for production; with Debian's, which the tests boot, a guest of 128 MB has too little left for all of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bus::{ConnectOptions, stream};
use serde_json::{Value, json};
use testkit::Http;
use testkit::microvm::{MicroVm, MicroVmImages, MicroVmOptions, config_drive, data_drive};

use super::Context;
use super::gateway::{PREDICATE_AND_RENAME, PUBLISHED};
use super::report::{self, figure};
use super::stream::halves::{self, Documents};
use crate::indices::Index;
use crate::program::value;

/// About so many changes are sent at once: half an emulated processor does not take a million from a sender that does
/// not wait, without timeouts on both sides of it.
const SLICE: u64 = 50_000;
/// How long an emulated processor may take for it.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) async fn run(context: &Context) -> Result<()> {
    let slice = Documents::new(&Index::FLIGHTS.documents()?, SLICE)?;
    let slices = context.pick(1_000_000_u64, 1).div_ceil(slice.total());
    let total = slices * slice.total();
    let images = MicroVmImages::build(context.program.binary())?;
    let (data, config) = (
        context.program.file("data.ext4"),
        context.program.file("config.ext4"),
    );
    data_drive(&data, 1024)?;
    let folder = context.program.file("config");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("config.yaml"),
        "nats-gateway:\n  rules: /config/rules.yaml\n",
    )?;
    std::fs::write(folder.join("rules.yaml"), PREDICATE_AND_RENAME)?;
    config_drive(&config, &folder)?;
    let mut options = MicroVmOptions::new(vec![data, config])?;
    options.settings = vec!["REPORT_EVERY=1".to_owned()];

    eprintln!("microvm: {total} changes through the guest…");
    let guest = MicroVm::boot(&images, &options).await?;
    let filled = fill(&guest, &slice, slices).await;
    if filled.is_err() {
        eprintln!("{}", guest.console()?);
    }
    let (began, backlog) = filled?;
    let elapsed = began.elapsed();
    let filling = Memory::of(&guest.stop().await?)?;
    eprintln!("microvm: and once more with all of them…");
    let guest = MicroVm::boot(&images, &options).await?;
    ensure!(
        backlog == held(&guest).await?,
        "the backlog is not what it was"
    );
    let resting = Memory::of(&guest.stop().await?)?;

    let mut table = report::table([
        "",
        "available of all, MB",
        "least available",
        "gateway, most resident",
        "nats-server, most resident",
    ]);
    let rows = [
        ("while they come", &filling),
        ("booted with all of them", &resting),
    ];
    for (what, memory) in rows {
        table.add_row([
            what.to_owned(),
            figure(Some(memory.total), 1),
            figure(Some(memory.least), 1),
            figure(Some(memory.gateway), 1),
            figure(Some(memory.server), 1),
        ]);
    }
    let title = format!(
        "a guest of 128 MB with {} changes, {} MB in its streams (emulated, {:.0} s)",
        total,
        backlog.1 >> 20,
        elapsed.as_secs_f64()
    );
    report::print(&title, table, 1);
    let figures = rows.map(|(what, memory)| memory.figures(what));
    let (messages, bytes) = backlog;
    let figures = json!({
        "changes": total,
        "messages": messages,
        "bytes": bytes,
        "seconds": elapsed.as_secs_f64(),
        "memory": figures,
    });
    report::write(context, "microvm", figures)
}

/// Sends documents slice by slice, each when the gateway has passed the one before on. Returns when it began, and what the
/// guest holds.
async fn fill(guest: &MicroVm, slice: &Documents, slices: u64) -> Result<(Instant, (u64, u64))> {
    let began = Instant::now();
    let options = ConnectOptions {
        url: guest.nats_url(),
        name: "bench".to_owned(),
        ..ConnectOptions::default()
    };
    let bus = options.connect().await?;
    let admin = Http::new(&guest.admin_url());
    for number in 1..=slices {
        halves::publish(&bus, stream::ES_CHANGES, slice, Some(1)).await?;
        while value(&admin, PUBLISHED).await? < (number * slice.total()) as f64 {
            ensure!(began.elapsed() < PATIENCE, "it does not come to an end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok((began, held(guest).await?))
}

/// How many messages wait for a writer, and how large they are.
async fn held(guest: &MicroVm) -> Result<(u64, u64)> {
    let options = ConnectOptions {
        url: guest.nats_url(),
        name: "bench".to_owned(),
        ..ConnectOptions::default()
    };
    let info = stream::info(&options.connect().await?, stream::ES_GATEWAY).await?;
    let info = info.context("the output is there")?;
    Ok((info.messages, info.bytes))
}

/// What the guest has said about its memory, in MB.
struct Memory {
    /// For programs.
    total: f64,
    least: f64,
    gateway: f64,
    server: f64,
}

impl Memory {
    /// From lines such as `microvm: memory: 60.4 MB of 92.7 available, nats-gateway 34.9 MB (peak 35.2), nats-server
    /// 16.7 MB (peak 16.7)`.
    fn of(console: &str) -> Result<Memory> {
        let mut memory = Memory {
            total: 0.0,
            least: f64::MAX,
            gateway: 0.0,
            server: 0.0,
        };
        for line in console.lines() {
            let Some((_, line)) = line.split_once("microvm: memory: ") else {
                continue;
            };
            let after = |words: &str| {
                let (_, rest) = line.split_once(words)?;
                let number = rest.trim_start().split([' ', ')', ',']).next()?;
                number.parse::<f64>().ok()
            };
            let least = line
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            memory.least = memory.least.min(least.unwrap_or(f64::MAX));
            memory.total = memory.total.max(after("MB of ").unwrap_or_default());
            let peak = |name: &str| {
                let (_, rest) = line.split_once(name)?;
                let (_, rest) = rest.split_once("(peak ")?;
                rest.split(')').next()?.parse::<f64>().ok()
            };
            memory.gateway = memory.gateway.max(peak("nats-gateway").unwrap_or_default());
            memory.server = memory.server.max(peak("nats-server").unwrap_or_default());
        }
        ensure!(
            memory.total > 0.0,
            "the guest says nothing of its memory: {console}"
        );
        Ok(memory)
    }

    fn figures(&self, what: &str) -> Value {
        json!({
            "what": what,
            "megabytes_for_programs": self.total,
            "least_available_megabytes": self.least,
            "gateway_peak_megabytes": self.gateway,
            "nats_server_peak_megabytes": self.server,
        })
    }
}
