//! The log between: NATS, the stream with its room, and its readers.

use bus::{Bus, ConnectOptions, StreamInfo, StreamSpec, stream};

use super::report::Report;

/// The stream behind the bucket of leases and floors.
const BUCKET: &str = "KV_SYNCLINE";

pub(crate) async fn look(report: &mut Report, options: &ConnectOptions, name: &str) {
    const WHAT: &str = "nats connection";
    let bus = match options.connect().await {
        Ok(bus) => bus,
        Err(error) => return report.fail(WHAT, error, ""),
    };
    report.ok(
        WHAT,
        format_args!(
            "nats-server {} at {} with JetStream; messages up to {} kB",
            bus.server_version(),
            bus.server_host(),
            bus.max_payload() >> 10
        ),
    );
    if let Some(info) = log(report, &bus, name).await {
        readers(report, &bus, &info).await;
    }
    bucket(report, &bus).await;
    dead_letters(report, &bus).await;
}

async fn log(report: &mut Report, bus: &Bus, name: &str) -> Option<StreamInfo> {
    const WHAT: &str = "nats stream";
    let subjects = match name {
        stream::ES_CHANGES => vec![stream::ES_CHANGES_SUBJECTS.to_owned()],
        stream::ES_GATEWAY => vec![stream::ES_GATEWAY_SUBJECTS.to_owned()],
        _ => Vec::new(),
    };
    let spec = StreamSpec {
        subjects,
        create: false,
        ..StreamSpec::new(name, "")
    };
    match stream::ensure(bus, &spec).await {
        Ok(info) => {
            fill(report, &info);
            Some(info)
        }
        Err(bus::Error::StreamMissing { .. }) => {
            report.ok(
                WHAT,
                format_args!("{name} does not exist yet: the watcher creates it"),
            );
            None
        }
        Err(error) => {
            report.fail(WHAT, error, "");
            None
        }
    }
}

fn fill(report: &mut Report, info: &StreamInfo) {
    const WHAT: &str = "nats stream";
    let StreamInfo { name, messages, .. } = info;
    let kept = match info.replicas {
        1 => "on one server".to_owned(),
        servers => format!("on {servers} servers"),
    };
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let held = megabytes(info.bytes);
    let Some(limit) = info.max_bytes else {
        return report.ok(
            WHAT,
            format_args!("{name} {kept}, {messages} messages, {held}, no limit of its own"),
        );
    };
    let detail = format!(
        "{name} {kept}, {messages} messages, {held} of {}",
        megabytes(limit)
    );
    // Above that a reader that stands still for a while stops the publisher.
    match info.bytes > limit / 10 * 8 {
        false => report.ok(WHAT, detail),
        true => report.warn(
            WHAT,
            format_args!("{detail}: nearly full; a full stream makes the watcher wait"),
            format_args!(
                "see to its readers, or raise the limit: `nats stream edit {name} --max-bytes=…`"
            ),
        ),
    }
}

async fn readers(report: &mut Report, bus: &Bus, info: &StreamInfo) {
    const WHAT: &str = "nats readers";
    let readers = match bus::readers(bus, info).await {
        Ok(readers) => readers,
        Err(error) => return report.fail(WHAT, error, ""),
    };
    if readers.is_empty() {
        report.ok(
            WHAT,
            format_args!(
                "none has read {} yet; nothing is removed before one has",
                info.name
            ),
        );
    }
    for reader in readers {
        let behind = info.last_sequence.saturating_sub(reader.floor);
        let (name, floor, holder) = (&reader.consumer, reader.floor, &reader.holder);
        let silent = reader.silent_for.as_secs();
        let detail = format!("{name} has settled up to {floor}, {behind} messages behind");
        match reader.held && silent < 60 {
            true => report.ok(WHAT, format_args!("{detail}, read by {holder}")),
            false => report.warn(
                WHAT,
                format_args!("{detail}, and silent for {silent} s (last read by {holder})"),
                "start its es-writer; the stream keeps everything for it meanwhile",
            ),
        }
    }
}

async fn bucket(report: &mut Report, bus: &Bus) {
    const WHAT: &str = "nats bucket";
    match stream::info(bus, BUCKET).await {
        Ok(Some(info)) => report.ok(WHAT, format_args!("SYNCLINE, {} records", info.messages)),
        Ok(None) => report.ok(
            WHAT,
            "SYNCLINE does not exist yet: the first service creates it",
        ),
        Err(error) => report.fail(WHAT, error, ""),
    }
}

async fn dead_letters(report: &mut Report, bus: &Bus) {
    const WHAT: &str = "nats dead letters";
    match stream::info(bus, stream::ES_DLQ).await {
        Ok(Some(info)) if info.messages > 0 => report.warn(
            WHAT,
            format_args!("{} documents that the target refused", info.messages),
            "`syncline dlq list` shows them with the reasons",
        ),
        Ok(_) => report.ok(WHAT, "none"),
        Err(error) => report.fail(WHAT, error, ""),
    }
}
