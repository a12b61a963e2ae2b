//! Compares a source with a target completely, in bounded memory.
pub mod digest;
pub use digest::{DigestError, digest};
