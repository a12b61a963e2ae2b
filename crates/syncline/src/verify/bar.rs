//! How far a comparison is, drawn on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use model::IndexName;
use verify::{Pass, Side};

/// Documents compared so far, drawn on a terminal only.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Bar {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template(
            "{prefix:24!} {msg:14} {wide_bar} {human_pos:>10}/{human_len} {per_sec:>12} {eta:>6}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Bar(bar)
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl verify::Progress for Bar {
    fn begin(&self, index: &IndexName, pass: Pass, documents: u64) {
        self.0.reset();
        self.0.set_length(documents);
        self.0.set_prefix(index.to_string());
        self.0.set_message(match pass {
            Pass::Compare => "comparing",
            Pass::Narrow => "narrowing down",
            Pass::Find => "finding",
        });
    }

    fn advance(&self, _side: Side, documents: u64, _bytes: u64) {
        self.0.inc(documents);
    }
}
