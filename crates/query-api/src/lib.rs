//! REST search over what was synced.
//!
//! A request comes in at `http`, is read into one form whichever way it was written (`query`), is
//! compiled against the index's fields as the key sees them (`schema`, `compile`), goes out through
//! `backend` and comes back through `answer`. All in between are pure functions.
//!
//! Invariants:
//! - What is sent to the cluster is a `compile::Guarded`, which can only be made with the key's forced
//!   filter in it.
//! - A field or index that a key may not see is as unknown as one that does not exist.
//! - An answer is whole or a problem document: a failed shard or a search cut short is no answer.
//! - What the cluster says about an error goes to the log and never to a caller.

mod answer;
mod backend;
mod catalogue;
mod compile;
mod config;
mod cursor;
mod http;
mod keys;
mod limits;
mod metrics;
mod openapi;
mod positions;
mod problem;
mod query;
mod schema;
mod service;
mod shared;
mod snapshots;

pub use self::config::Args;
pub use cursor::NoRandom;
pub use keys::{KeysError, NewKey, NewKeyArgs, NewKeyError, new_key};
pub use service::{Bound, ServiceError, bind, run};

/// Reads a filter as it stands in a URL and says whether it makes sense: for fuzzing.
pub fn reads_filter(name: &str, value: &str) -> bool {
    query::Filter::of_parameter(name, value).is_ok()
}

/// Reads a search out of a JSON body and says whether it makes sense: for fuzzing.
pub fn reads_body(body: &[u8]) -> bool {
    query::body::read(body).is_ok()
}
