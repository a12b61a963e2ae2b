//! The servers themselves: each product really starts, stores and returns a document.

mod nats;
mod proxy;
mod search;
