//! Runs of one tool, and what they come to.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::process::Usage;

/// One run over some documents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) documents: u64,
    pub(super) elapsed: Duration,
    /// What the tool's own process used; nothing where the work is a server's.
    pub(super) used: Option<Usage>,
}

impl Run {
    pub(super) fn per_second(&self) -> f64 {
        self.documents as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of processor time for each document.
    pub(super) fn cpu(&self) -> Option<f64> {
        let used = self.used?;
        Some(used.cpu().as_secs_f64() * 1e6 / self.documents as f64)
    }

    /// The most resident memory, in megabytes.
    pub(super) fn peak(&self) -> Option<f64> {
        Some(self.used?.peak_resident as f64 / 1e6)
    }

    pub(super) fn figures(&self) -> Value {
        json!({
            "documents": self.documents,
            "seconds": self.elapsed.as_secs_f64(),
            "documents_per_second": self.per_second(),
            "cpu_microseconds_per_document": self.cpu(),
            "user_seconds": self.used.map(|used| used.user.as_secs_f64()),
            "system_seconds": self.used.map(|used| used.system.as_secs_f64()),
            "peak_resident_bytes": self.used.map(|used| used.peak_resident),
        })
    }
}

/// The median; the mean of the middle two of an even number.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
