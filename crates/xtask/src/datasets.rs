//! `cargo xtask datasets`: the real data of tests, demo and benchmarks.

use anyhow::Result;
use testkit::datasets::Dataset;

/// Runs the task.
pub(crate) fn run() -> Result<()> {
    for dataset in Dataset::ALL {
        let file = dataset.file()?;
        println!(
            "{:12}  {:>7} documents  {}",
            dataset.name(),
            dataset.documents()?,
            file.display()
        );
    }
    Ok(())
}
