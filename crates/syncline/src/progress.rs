//! What a copy shows while it runs: a bar for each index, then the lag.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use es_watcher::{ShardKey, SourceObserver};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use model::{Batch, Change, IndexName};
use pipeline::{Observer, Outcome};
use search::IndexInfo;

/// The log beside the bars: each line appears above them.
#[derive(Clone)]
pub(crate) struct Lines(pub(crate) MultiProgress);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Counts what was written, and draws it on a terminal.
pub(crate) struct Progress {
    bars: MultiProgress,
    indices: Mutex<HashMap<IndexName, Index>>,
    behind: Mutex<HashMap<ShardKey, u64>>,
    /// Bytes of its log that are not read of each database.
    log_behind: Mutex<HashMap<String, u64>>,
    /// When the change was captured that was settled last; 0 when its lag is known.
    captured_ms: AtomicU64,
    lag_ms: AtomicU64,
    said: Mutex<HashSet<String>>,
    started: Instant,
}

/// What was written of one index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    bar: ProgressBar,
    pub(crate) applied: u64,
    pub(crate) already: u64,
    pub(crate) refused: u64,
    pub(crate) bytes: u64,
    /// When the last change was settled.
    pub(crate) last: Instant,
}

impl Progress {
    /// Progress of a copy that begins now. `totals` are the documents to expect by index.
    pub(crate) fn new(bars: MultiProgress, totals: &[(IndexName, u64)]) -> Progress {
        let progress = Progress {
            bars,
            indices: Mutex::default(),
            behind: Mutex::default(),
            log_behind: Mutex::default(),
            captured_ms: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            said: Mutex::default(),
            started: Instant::now(),
        };
        for (index, total) in totals {
            progress.with(index, |index| index.bar.set_length(*total));
        }
        progress
    }

    /// The indices by name, and since when.
    pub(crate) fn summary(&self) -> (Vec<(IndexName, Index)>, Instant) {
        let indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summary: Vec<_> = indices
            .iter()
            .map(|(n, i)| (n.clone(), i.clone()))
            .collect();
        summary.sort_by(|one, other| one.0.cmp(&other.0));
        (summary, self.started)
    }

    /// Says what is not read yet, and how old the change was that was written last.
    pub(crate) fn say_lag(&self) {
        let lag = Duration::from_millis(self.lag_ms.load(Ordering::Relaxed));
        let log = self
            .log_behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let behind = match log.is_empty() {
            false => format!("{} bytes of the server's log", log.values().sum::<u64>()),
            true => {
                let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
                format!("{} operations", behind.values().sum::<u64>())
            }
        };
        drop(log);
        self.say(&format!("behind: {behind}; last change took {lag:.1?}"));
    }

    /// So many bytes of a database's log are not read yet.
    pub(crate) fn log_behind(&self, database: &str, bytes: u64) {
        let mut behind = self
            .log_behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        behind.insert(database.to_owned(), bytes);
    }

    /// Prints a line above the bars, unless it was printed before.
    pub(crate) fn say_once(&self, line: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(line.to_owned()) {
            self.say(line);
        }
    }

    /// Prints a line above the bars.
    pub(crate) fn say(&self, line: &str) {
        if self.bars.println(line).is_err() || self.bars.is_hidden() {
            eprintln!("{line}");
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        let indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
        for index in indices.values() {
            index.bar.finish_and_clear();
        }
    }

    fn with(&self, name: &IndexName, change: impl FnOnce(&mut Index)) {
        let mut indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match indices.get_mut(name) {
            Some(index) => index,
            None => indices
                .entry(name.clone())
                .or_insert_with(|| self.index(name)),
        };
        change(index);
    }

    fn index(&self, name: &IndexName) -> Index {
        let style = ProgressStyle::with_template(
            "{prefix:24!} {wide_bar} {human_pos:>10}/{human_len} {per_sec:>12} {msg:>10} {eta:>6}",
        );
        let bar = self.bars.add(ProgressBar::new(0));
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_string());
        Index {
            bar,
            applied: 0,
            already: 0,
            refused: 0,
            bytes: 0,
            last: Instant::now(),
        }
    }
}

impl Observer for Progress {
    fn settled(&self, batch: &Batch, change: &Change, outcome: &Outcome) {
        let captured = batch.origin.captured_ms;
        self.captured_ms.store(captured, Ordering::Relaxed);
        let mut first_refusals = false;
        self.with(&batch.index, |index| {
            match outcome {
                Outcome::Applied => index.applied += 1,
                Outcome::AlreadyApplied | Outcome::Superseded(_) => index.already += 1,
                Outcome::Refused(_) => index.refused += 1,
                Outcome::Retry(_) => {}
            }
            first_refusals = index.refused <= 3;
            index.bytes += change.document().map_or(0, |d| d.as_bytes().len() as u64);
            let done = index.applied + index.already + index.refused;
            // Drawing is cheap, asking the clock for every document is not.
            if done % 256 == 0 {
                index.last = Instant::now();
                let seconds = self.started.elapsed().as_secs_f64().max(0.001);
                index.bar.set_position(done);
                index
                    .bar
                    .set_message(format!("{:.1} MB/s", index.bytes as f64 / 1e6 / seconds));
                self.lag_ms
                    .store(batch.origin.age().as_millis() as u64, Ordering::Relaxed);
            }
        });
        if let Outcome::Refused(reason) = outcome
            && first_refusals
        {
            self.say(&format!(
                "{} refuses {:?}: {reason}",
                batch.index,
                change.id.as_str()
            ));
        }
    }

    fn retrying(&self, what: &'static str, reason: &dyn std::fmt::Display, pause: Duration) {
        self.say(&format!("{what}: {reason}; trying again in {pause:.1?}"));
    }

    fn in_flight(&self, entries: usize, _: usize) {
        if entries == 0 {
            // Few changes would never come to the count at which the clock is asked.
            match self.captured_ms.swap(0, Ordering::Relaxed) {
                0 => {}
                captured => {
                    let lag = model::now_ms().saturating_sub(captured);
                    self.lag_ms.store(lag, Ordering::Relaxed);
                }
            }
            let mut indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
            for index in indices.values_mut() {
                let done = index.applied + index.already + index.refused;
                if index.bar.position() != done {
                    index.bar.set_position(done);
                    index.last = Instant::now();
                }
            }
        }
    }
}

impl SourceObserver for Progress {
    fn found(&self, index: &IndexInfo) {
        self.with(&index.name, |_| {});
    }

    fn left_out(&self, index: &IndexName) {
        self.say(&format!(
            "{index} is left out: it cannot be captured (see `syncline check`)"
        ));
    }

    fn behind(&self, shard: &ShardKey, operations: u64) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.insert(shard.clone(), operations);
    }

    fn trouble(&self, what: &str, reason: &dyn std::fmt::Display, pause: Duration) {
        self.say(&format!("{what}: {reason}; trying again in {pause:.1?}"));
    }
}
