//! The real program against a real secured OpenSearch: passwords, certificates, roles, and `check`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod certificates;
mod passwords;
mod preflight;
mod roles;
mod support;
