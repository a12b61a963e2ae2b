//! Captures the changes of a PostgreSQL instance and publishes them to a stream.
//!
//! [`PgSource`] copies every table from a snapshot and then follows the slot from there on
//! (`capture.rs` says how). [`Memory`] remembers what is copied; how far the stream was read, the slot
//! itself remembers. [`run`] is the service around both.
//!
//! **Order.** What leaves for one database is in the order of its versions: a table is copied when the
//! stream has come as far as the copy's snapshot, and the stream waits until the copy has left. So no
//! change ever meets a newer one at the target, but after a restart.

mod capture;
mod config;
mod copying;
mod error;
mod examine;
mod keeper;
mod layout;
mod metrics;

mod naming;
mod plan;
mod publication;
mod reread;
mod rows;
mod service;

mod source;
mod state;
mod stream;

pub use config::{ArgsError, Columns, NoKey, PgArgs, SlotConfirm};
pub use error::{SourceError, fault};
pub use examine::{Finding, Grade, examine};
pub use keeper::{Readers, Settled};

pub use metrics::PgMetrics;
pub use naming::Template;
pub use rows::{Row, TableRows, tables};
pub use service::{Options, ServiceError, run};

pub use source::{PgSource, Position, SlotLife, SourceObserver, SourceOptions, preflight};
pub use state::{Memory, Owner};
