//! Reads a stream and bulk-writes the target search cluster.
//!
//! [`SearchWriter`] writes a bulk and says what became of each document; the order, the lanes and the
//! floor are [`pipeline::apply()`]'s. [`run`] is the service around both.

mod clear;
mod config;
mod file_letters;
mod follow;
mod metrics;
mod positions;
mod service;
mod strangers;
mod writer;

pub use self::config::Args;
pub use file_letters::FileDeadLetters;
pub use metrics::WriterMetrics;
pub use service::{ServiceError, run};
pub use writer::{SearchWriter, Told};
