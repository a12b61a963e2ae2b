//! The query API in front of real clusters of every product this machine can run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bad_input;
mod conformance;
mod docs;
mod lists;
mod positions;
mod properties;
mod search;
mod support;
mod tenants;
