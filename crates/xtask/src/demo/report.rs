//! The table at the end of the demo.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use testkit::process::Usage;

use crate::changes::Lag;

/// An index, or the table that becomes one, as it was loaded.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) shards: u32,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

/// What was measured.
pub(crate) struct Figures {
    pub(crate) loads: Vec<Load>,
    /// Changes written when the copy was complete, and how long it took.
    pub(crate) copied: u64,
    pub(crate) copying: Duration,
    /// Changes written in all.
    pub(crate) settled: u64,
    /// Deletes among them.
    pub(crate) deletes: u64,
    pub(crate) lag: Lag,
    pub(crate) processes: Vec<(&'static str, Usage)>,
}

impl Figures {
    /// Everything for people to read.
    pub(crate) fn text(&self, equal: bool, elapsed: Duration) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["index", "shards", "documents", "MB"]);
        for load in &self.loads {
            table.add_row([
                load.name.to_owned(),
                load.shards.to_string(),
                load.documents.to_string(),
                format!("{:.1}", load.bytes as f64 / 1e6),
            ]);
        }
        align(&mut table);
        format!(
            "\n{table}\n\n{}\n\n{}",
            self.summary(equal, elapsed),
            self.memory()
        )
    }

    fn summary(&self, equal: bool, elapsed: Duration) -> Table {
        let bytes: u64 = self.loads.iter().map(|load| load.bytes).sum();
        let seconds = self.copying.as_secs_f64();
        let milliseconds =
            |percent| format!("{:.0} ms", self.lag.percentile(percent).as_secs_f64() * 1e3);
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let rows = [
            ("documents copied", self.copied.to_string()),
            ("MB", format!("{:.1}", bytes as f64 / 1e6)),
            (
                "documents/s",
                format!("{:.0}", self.copied as f64 / seconds),
            ),
            ("changes written in all", self.settled.to_string()),
            ("deletes among them", self.deletes.to_string()),
            ("lag p50", milliseconds(50.0)),
            ("lag p99", milliseconds(99.0)),
            (
                "seconds for all of this",
                format!("{:.0}", elapsed.as_secs_f64()),
            ),
            ("equal", if equal { "yes" } else { "NO" }.to_owned()),
        ];
        for (what, figure) in rows {
            table.add_row([what.to_owned(), figure]);
        }
        align(&mut table);
        table
    }

    fn memory(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["process", "most memory, MB", "CPU, µs/document"]);
        for (name, used) in &self.processes {
            table.add_row([
                (*name).to_owned(),
                format!("{:.0}", used.peak_resident as f64 / 1e6),
                format!(
                    "{:.1}",
                    used.cpu().as_secs_f64() * 1e6 / self.settled as f64
                ),
            ]);
        }
        align(&mut table);
        table
    }
}

/// Figures stand to the right.
fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
