//! PostgreSQL 12 to 18, as far as Syncline needs it.
//!
//! - [`Connection`]: a session over TCP or a Unix socket, with TLS and SCRAM; queries and `COPY … TO STDOUT`.
//! - [`Replication`]: the stream of a logical slot, with its keepalives and our answers.
//! - [`pgoutput`]: what the stream says. A pure decoder.
//! - [`copy`]: the rows of a `COPY`. Pure.
//! - [`Catalogue`]: which tables there are, their columns, keys and types.
//! - [`Type`]: a column's type, what becomes of its values in JSON, and how an index maps it. Pure.
//!
//! Everything is read as text, which is the same in a `COPY` and in the stream, so that a row becomes the
//! same document by either way. What decides how text looks (DateStyle, TimeZone and so on) is set for every
//! session: [`connection`](Connection).

pub mod copy;
pub mod pgoutput;

mod catalogue;
mod config;
mod connection;
mod error;
mod json;
mod literal;
mod lsn;
mod replication;
mod socket;
mod types;

pub use catalogue::{Catalogue, Column, Part, Table, quote_ident, quote_literal};
pub use config::{Config, SslMode};
pub use connection::{Connection, CopyOut, Row};
pub use error::{Error, ServerError};
pub use lsn::Lsn;
pub use replication::{Event, Replication};
pub use types::{Override, Type, Types};
