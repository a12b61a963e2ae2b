//! Comparisons of real clusters of two products.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod by_version;
mod changing;
mod content;
mod repair;
mod scrolls;
mod support;
