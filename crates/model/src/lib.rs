//! What travels through Syncline, and how it looks on the wire. No I/O.
//!
//! - [`Change`]: one document as it is now, or the fact that it is gone, with the [`Version`] that
//!   says where in its source's history that was true.
//! - [`Batch`]: changes of one index that were captured together.
//! - [`Subject`]: where in the stream a batch belongs.
//! - [`wire`]: a batch as NDJSON messages and back.
//!
//! A document is carried as the bytes its source sent. Nothing here parses one; the only thing ever
//! changed about it is a line break between two tokens, which becomes a space (see [`Document`]).

mod batch;
mod change;
mod lineage;
mod name;
mod subject;
mod version;
pub mod wire;

pub use batch::{Batch, Content, IndexDefinition, Origin, now_ms};
pub use change::{Action, Change, Document, Operation, Tie};
pub use lineage::{AnotherSource, Generation, JoinError, Joined, Lineage, source_of};
pub use name::{DocumentId, IndexName, NameError, Tenant};
pub use subject::{Kind, Root, Subject, SubjectError, expand_filter, token};
pub use version::{Epoch, Version, VersionError};
