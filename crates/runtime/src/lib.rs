//! What the start and the stop of every service have in common.
//!
//! A service's main is five phases: [`telemetry`], the admin listener ([`admin`]), the tasks
//! ([`supervise`]), the drain ([`shutdown`]), the exit code ([`exit`]). Everything here obeys one
//! [`CancellationToken`](tokio_util::sync::CancellationToken), has a deadline, and reports an error
//! as one sentence that names the thing and the remedy.

pub mod admin;
pub mod backoff;
pub mod body;
pub mod exit;
pub mod health;
mod identity;
pub mod listener;
pub mod metrics;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;
pub mod throttle;

pub use identity::process_name;
