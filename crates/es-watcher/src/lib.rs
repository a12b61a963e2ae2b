//! Captures the changes of a search cluster and publishes them to a stream.
//!
//! [`SearchSource`] reads every shard of the watched indices in the order of its sequence numbers,
//! never above the global checkpoint, from the beginning and for ever (`capture/mod.rs` says how).
//! [`Checkpoints`] remembers how far the stream has it. [`run`] is the service around both.

mod canary;
mod capture;
mod checkpoint;
mod config;
mod error;
mod keeper;
mod ledger;
mod lmdb;
mod metrics;
mod resync;
mod service;
mod source;

pub use self::config::Args;
pub use checkpoint::{
    Checkpoint, CheckpointError, Checkpoints, DiskStore, History, Owner, ShardKey,
};
pub use error::WatchError;
pub use keeper::Memory;
pub use ledger::{Forgotten, Ledger, LedgerError, Remembered, Stood, remembered};
pub use metrics::WatcherMetrics;
pub use resync::Requests;
pub use service::{ServiceError, run};
pub use source::{
    Deletes, DeletesError, SearchSource, SourceObserver, SourceOptions, SourceRefresh,
};
