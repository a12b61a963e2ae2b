//! The registry of a process, what the kernel knows about it, and buckets to agree on.
//!
//! Each service has one struct of metrics that it registers here once; names carry base units and
//! labels stay few (an index is a label, a document never).

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

pub use prometheus_client;

/// What a scrape's answer is, for its `Content-Type`.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A process's metrics. Cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry that already has the process's own metrics.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers what a service measures; `prefix` (`es_watcher`) stands before every name.
    pub fn register<T>(&self, prefix: &str, with: impl FnOnce(&mut Registry) -> T) -> T {
        with(self.lock().sub_registry_with_prefix(prefix))
    }

    /// Everything as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be written as text, which is a fault of its encoder.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.lock())?;
        Ok(page)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buckets for durations in seconds: 0.5 ms to 65 s, each twice the last.
pub fn seconds_buckets() -> impl Iterator<Item = f64> {
    (0..18).map(|n| 0.0005 * f64::from(1 << n))
}

/// Buckets for sizes in bytes: 256 B to 64 MB, each four times the last.
pub fn bytes_buckets() -> impl Iterator<Item = f64> {
    (0..10).map(|n| 256.0 * f64::from(1 << (2 * n)))
}

/// Buckets for numbers of things: 1 to 65,536, each twice the last.
pub fn count_buckets() -> impl Iterator<Item = f64> {
    (0..17).map(|n| f64::from(1 << n))
}

/// What the kernel says about this process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// Memory in RAM.
    pub resident_memory_bytes: u64,
    /// Time on a processor, user and system.
    pub cpu_seconds: f64,
    /// File descriptors in use.
    pub open_fds: u64,
    /// Seconds from the Unix epoch to its start.
    pub start_time_seconds: f64,
}

/// The kernel's clock tick for user space: `USER_HZ`, 100 on every platform this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// Reads the figures of this process; `None` where there is no `/proc`.
    pub fn read() -> Option<Self> {
        let file = |path: &str| std::fs::read_to_string(path).ok();
        let status = file("/proc/self/status")?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident: u64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
        let stat = file("/proc/self/stat")?;
        let ticks = stat_ticks(&stat)?;
        let boot = file("/proc/stat")?;
        let boot: f64 = boot
            .lines()
            .find_map(|l| l.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        // Reading the directory takes a descriptor of its own.
        let open = std::fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1);
        Some(Self {
            resident_memory_bytes: resident * 1024,
            cpu_seconds: (ticks.user + ticks.system) / TICKS_PER_SECOND,
            open_fds: u64::try_from(open).ok()?,
            start_time_seconds: boot + ticks.start / TICKS_PER_SECOND,
        })
    }
}

struct Ticks {
    user: f64,
    system: f64,
    start: f64,
}

/// Fields 14, 15 and 22; the second, the program's name, may hold spaces and brackets itself.
fn stat_ticks(stat: &str) -> Option<Ticks> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some(Ticks {
        user: field(14)?,
        system: field(15)?,
        start: field(22)?,
    })
}

/// Reads [`Process`] at each scrape, under the names Prometheus gives these figures everywhere.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(process) = Process::read() else {
            return Ok(());
        };
        let mut write = |name: &str, help: &str, metric: &dyn ErasedMetric| {
            metric.write(&mut encoder, name, help)
        };
        // The encoder adds `_total` to a counter's name.
        let cpu = ConstCounter::new(process.cpu_seconds);
        write(
            "process_cpu_seconds",
            "Time on a processor, user and system",
            &cpu,
        )?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory in RAM",
                process.resident_memory_bytes as f64,
            ),
            (
                "process_open_fds",
                "File descriptors in use",
                process.open_fds as f64,
            ),
            (
                "process_start_time_seconds",
                "Start of the process since the Unix epoch",
                process.start_time_seconds,
            ),
        ] {
            write(name, help, &ConstGauge::new(value))?;
        }
        Ok(())
    }
}

/// `EncodeMetric` takes its encoder by value and so cannot be a trait object itself.
trait ErasedMetric {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
    ) -> Result<(), fmt::Error>;
}

impl<M: EncodeMetric> ErasedMetric for M {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
    ) -> Result<(), fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_page_has_the_services_metrics_and_the_processs() {
        let metrics = Metrics::new();
        let changes = metrics.register("es_watcher", |registry| {
            let changes = Counter::<u64>::default();
            registry.register("changes", "Changes captured", changes.clone());
            changes
        });
        changes.inc_by(3);
        let page = metrics.encode().unwrap();
        for line in [
            "es_watcher_changes_total 3\n",
            "# TYPE process_cpu_seconds counter\n",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn the_kernels_figures_are_plausible() {
        let process = Process::read().unwrap();
        assert!(process.resident_memory_bytes > 1 << 20, "{process:?}");
        assert!(process.open_fds >= 3, "{process:?}");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - process.start_time_seconds;
        assert!((-5.0..86_400.0).contains(&age), "{process:?}");
    }

    #[test]
    fn a_programs_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        let ticks = stat_ticks(&format!("1 (a) b (c) S {}", fields.join(" "))).unwrap();
        assert_eq!((ticks.user, ticks.system, ticks.start), (14.0, 15.0, 22.0));
        assert!(stat_ticks("").is_none());
    }

    #[test]
    fn buckets_rise_over_the_documented_range() {
        let ends = |buckets: Vec<f64>| {
            assert!(buckets.is_sorted());
            (buckets[0], buckets[buckets.len() - 1])
        };
        assert_eq!(ends(seconds_buckets().collect()), (0.0005, 65.536));
        assert_eq!(ends(bytes_buckets().collect()), (256.0, 67_108_864.0));
        assert_eq!(ends(count_buckets().collect()), (1.0, 65_536.0));
    }
}
