//! The seams of Syncline and the two loops that join them.
//!
//! ```text
//! ChangeSource --publish--> MessageSink ~~ the log ~~ MessageSource --apply--> Writer
//! ```
//!
//! [`publish()`] carries what a [`ChangeSource`] yields into a log and confirms a position back to
//! the source once the log has everything up to it. [`apply()`] reads a log from its floor, hands
//! the changes to a [`Writer`] and moves the floor when everything below it is settled. Between the
//! two stands JetStream (the crate `bus`), or, for a copy in one process, [`channel()`].
//!
//! To sync from a system of your own, implement [`ChangeSource`]; to write into one, [`Writer`].
//! The crate `example-file-source` does the first in a page.

mod apply;
mod channel;
pub mod fake;
mod fault;
mod filtered;
mod floor;
mod gate;
mod lane;
mod publish;
mod reached;
mod seams;

pub use apply::{ApplyOptions, apply};
pub use channel::{ChannelSink, ChannelSource, channel};
pub use fault::Fault;
pub use filtered::Filtered;
pub use floor::Floor;
pub use publish::{PublishOptions, publish};
pub use seams::{
    Captured, ChangeSource, DeadLetter, DeadLetters, Delivery, Filter, MessageSink, MessageSource,
    Observer, Outcome, Payload, Registry, Replay, Replayed, Tenure, Verdict, Writer,
};
