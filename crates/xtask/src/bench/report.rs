//! Figures as a file, and tables.

use std::fs;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use testkit::Product;

use super::Context;

/// Writes `target/bench/NAME.json`: the figures, and what they were measured on.
pub(super) fn write(context: &Context, name: &str, figures: Value) -> Result<()> {
    let folder = testkit::checkout().join("target/bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.json"));
    let report = json!({
        "benchmark": name,
        "date": jiff::Timestamp::now().to_string(),
        "quick": context.quick,
        "program": output(&context.program.binary().display().to_string(), &["version"]),
        "commit": output("git", &["describe", "--always", "--dirty"]),
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    });
    fs::write(&file, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("all figures: {}\n", file.display());
    Ok(())
}

/// A table with figures to the right.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table
}

/// Prints a table; the first `texts` columns are no figures.
pub(super) fn print(title: &str, mut table: Table, texts: usize) {
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title}\n{table}");
}

/// A figure, or a dash where there is none.
pub(super) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

fn machine() -> Value {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "model": first("/proc/cpuinfo", "model name"),
        "memory": first("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "load_at_the_end": load.split(' ').next(),
    })
}

fn versions() -> Value {
    json!({
        Product::Es7_17.name().to_owned() + "-7": Product::Es7_17.version(),
        Product::Es8.name().to_owned() + "-8": Product::Es8.version(),
        Product::Os2.name(): Product::Os2.version(),
        "node": output("node", &["--version"]),
        "rustc": output("rustc", &["--version"]),
    })
}

/// What a command prints; nothing where it does not run.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}
