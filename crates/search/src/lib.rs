//! Elasticsearch 7.10 to 9 and OpenSearch 1 to 3 over HTTP, as far as Syncline needs them.
//!
//! - [`Client`]: one cluster behind one or several hosts; every other part is a method of it.
//! - `capture`: where a shard's history stands, and reading windows of it.
//! - `bulk`: writing, with an outcome per document.
//! - `count`: how many documents are alive, by sequence number.
//! - `scroll`: reading a shard in the order in which it is stored.
//! - `headers`: reading a shard's ids and numbers without its documents.
//! - `document`: looking documents up by id.
//! - `metadata`: what an index looks like, and creating one like it.
//! - [`retry`]: which failures pass by themselves. A pure function.
//!
//! Invariants: every request but a scroll's may be sent twice, so a failed host is followed by the next
//! one; a
//! document's `_source` is a slice of the response it came in, byte for byte as the server keeps
//! it; and an answer that is not complete (a failed shard, a timeout) is an error, never a shorter
//! answer.

mod args;
mod auth;
mod bulk;
mod capture;
mod client;
mod config;
mod count;
mod document;
mod error;
mod exposed;
mod headers;
mod hosts;
mod indices;
mod mark;
mod metadata;
mod plan;
mod portable;
mod refusal;
mod request;
pub mod retry;
mod scroll;
mod server;
mod sigv4;
mod sizer;
mod templates;
mod tls;

pub use args::{
    ArgsError, AwsServiceArg, EsArgs, SourceArgs, TargetArgs, connect, connect_with_retry,
};
pub use bulk::{Item, ItemError};
pub use capture::{Hit, Page, ShardStats, Window};
pub use client::Client;
pub use config::{Auth, AwsService, ClientConfig, Tls};
pub use count::{MOST_BUCKETS, ShardCopy};
pub use document::{Found, MgetOptions};
pub use error::Error;
pub use exposed::Exposed;
pub use headers::{MOST_NUMBERS, Numbers};
pub use indices::{IndexInfo, Replication, Uncapturable};
pub use mark::Mark;
pub use metadata::{Creation, DefinitionVersion, Outcome};
pub use model::{IndexPatterns, PatternError};
pub use plan::{Choices, Dialect, Drift, Existing, Plan, Translation, plan};
pub use portable::{LeftOut, Reason, portable_settings};
pub use request::{Request, encode};
pub use scroll::Scroll;
pub use server::{Product, Server, ServerVersion};
pub use sizer::PageSizer;
pub use templates::{
    Kind as TemplateKind, Left, State as TemplateState, TemplateName, TemplatePlan, Templates,
    plan_templates,
};
pub use url::Url;
