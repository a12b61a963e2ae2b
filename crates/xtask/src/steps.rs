//! What a task shows while it works: a line a step, moving on a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The steps of a task.
#[derive(Debug, Default)]
pub(crate) struct Steps(MultiProgress);

impl Steps {
    /// Begins a step. A total makes it a bar.
    pub(crate) fn begin(&self, what: &str, total: Option<u64>) -> Step {
        if self.0.is_hidden() {
            eprintln!("{what}…");
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{spinner} {msg:44!} {wide_bar} {human_pos:>9}/{human_len} {per_sec:>14}",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let bar = self.0.add(bar);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Step {
            bar,
            what: what.to_owned(),
        }
    }

    /// Prints a line between the steps.
    pub(crate) fn say(&self, line: &str) {
        if self.0.is_hidden() || self.0.println(line).is_err() {
            eprintln!("{line}");
        }
    }
}

/// A step that goes on.
#[derive(Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
    what: String,
}

impl Step {
    /// So much is done.
    pub(crate) fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Ends it with a word on how it went.
    pub(crate) fn done(self, steps: &Steps, how: &str) {
        let seconds = self.bar.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        steps.say(&format!("✓ {}: {how} ({seconds:.1} s)", self.what));
    }
}
