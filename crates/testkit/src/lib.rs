//! Real servers on free ports for tests, benchmarks and the demo.
//!
//! Nothing here is imitated: [`SearchNode`] is an Elasticsearch or OpenSearch process, [`NatsServer`] a nats-server, both
//! made of pinned, checked artefacts ([`Artefact`]) that are fetched the first time they are wanted. Everything listens
//! on 127.0.0.1 on free ports, counts as started only when it answers, and ends with its owner, even if that is killed.
//!
//! Most tests share a server with all others ([`SearchNode::shared`], [`NatsServer::shared`]) and keep apart by names of
//! their own ([`unique_name`]); a test that kills or configures a server starts its own.

mod artefacts;
mod chaos_proxy;
mod checksums;
mod clock;
mod cluster;
pub mod datasets;
mod expired_server;
mod http;
mod jdk;
mod keeper;
pub mod microvm;
mod nats;
mod paths;
mod postgres;
pub mod process;
mod product;
mod psql;
mod python;
mod search_command;
mod search_node;
mod security;
mod shared;
mod tools;
mod versions;
mod wait;

pub use artefacts::Artefact;
pub use chaos_proxy::ChaosProxy;
pub use clock::Clock;
pub use cluster::SearchCluster;
pub use expired_server::ExpiredServer;
pub use http::{Http, install_crypto};
pub use jdk::Jdk;
pub use nats::{NatsOptions, NatsServer};
pub use paths::{cache, checkout, logs};
pub use postgres::{Backup, PostgresOptions, PostgresServer, PostgresVersion, Recovery};
pub use product::{Product, matrix};
pub use psql::PsqlSession;
pub use python::{pgsync_tools, promql_python, python_tools};
pub use search_node::{NodeOptions, SearchNode};
pub use security::{Pair, Security};
pub use shared::Record;
pub use tools::Tool;
pub use wait::{unique_name, wait_until};
