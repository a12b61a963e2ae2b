//! The log between the services: NATS JetStream.
//!
//! ```text
//! JetStreamSink --messages--> stream --consumer--> JetStreamReader
//!                                ^                     |  floor, by compare-and-set
//!                                +---- purge <---- bucket SYNCLINE
//! ```
//!
//! - [`Bus`] is a connection whose server has been checked; [`stream`] makes sure that a stream
//!   exists and cannot lose what is unread.
//! - [`JetStreamSink`] writes batches into a stream, [`JetStreamReader`] reads it in order. A reader
//!   never relies on redelivery: it remembers a floor, and starts above it again.
//! - [`Lease`] makes sure that of all processes with one name a single one acts. Its record in the
//!   bucket `SYNCLINE` is also where a reader's floor is kept, so that moving the floor and being the
//!   holder are one compare-and-set.
//! - [`Publisher`] is a watcher that has both, the stream and the lease.
//! - [`purge_settled`] frees what every registered reader has passed, and nothing else.
//! - [`JetStreamDeadLetters`] keeps what could not be written, until something newer of its document is
//!   there; [`Letters`] lists it and sends it again. [`trail()`] finds what a stream holds of a document.
//! - [`embedded`] runs nats-server as a child of this process.
//!
//! Invariants: a batch's receipt is good only when the stream has all of its messages; nothing is
//! deleted that some registered reader has not settled; two holders of a lease are never both within
//! their [`pipeline::Tenure`].

pub mod dead_letters;
pub mod embedded;
pub mod stream;

mod args;
mod connection;
mod ending;
mod error;
mod inbound;
mod lease;
mod lineages;
mod passed;
mod publisher;
mod purge;
mod reader;
mod registry;
mod resync;
mod sink;
mod trail;

pub use args::{DownstreamAccess, NatsAccess, NatsArgs, OptionalNatsArgs};
pub use connection::{Answers, Bus, ConnectOptions, until_answered};
pub use dead_letters::{JetStreamDeadLetters, Letter, Letters};
pub use ending::{Acknowledged, Ending, Stored, look as look_at_ending};
pub use error::Error;
pub use lease::{Lease, LeaseOptions, ReaderStatus, Role, forget_reader, readers};
pub use lineages::Lineages;
pub use passed::{Output, TakenBack};
pub use publisher::{Publisher, PublisherOptions};
pub use purge::{Purged, purge_settled};
pub use reader::{Correspondent, JetStreamReader, ReaderOptions};
pub use registry::Bucket;
pub use resync::{Answered, MOST_DOCUMENTS, Named, Resync, Resyncs};
pub use sink::{JetStreamSink, Receipt, SinkOptions, SinkStats};
pub use stream::{StreamInfo, StreamSpec};
pub use trail::{Mention, Trail, trail};
