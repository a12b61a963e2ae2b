//! Filters and transforms between two streams: reads what sources publish, applies rules, and publishes what
//! goes on under a root of its own.
//!
//! It is a reader of its input, with a floor and a lease, and a publisher into its output, with fencing: its
//! floor moves when the output has what came of an entry, so that a crash at any moment only repeats work.
//! [`Relay`] makes the one a source of the other, and [`pipeline::publish()`] carries; what the rules say is
//! the crate `transform`.

mod admin;
mod config;
mod control;
mod embedded;
mod jq;
mod metrics;
mod relay;
mod service;
mod trial;

pub use self::config::{Args, DownstreamArgs, EmbeddedArgs};
pub use admin::routes;
pub use control::{Control, InForce, RulesError, read_rules};
pub use jq::{JqProcess, WORKER, work};
pub use metrics::GatewayMetrics;
pub use relay::{Passage, Relay};
pub use service::{ServiceError, run};
pub use trial::{Trial, TrialError};
