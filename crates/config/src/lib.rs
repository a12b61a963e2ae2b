//! One resolution for every service: flag, then environment, then YAML file, then default.
//!
//! The service's clap command is the single source of truth. A flag `--poll-interval` with the
//! variable `POLL_INTERVAL` is the key `poll_interval` in the service's section of the file:
//!
//! ```yaml
//! es-watcher:
//!   es_hosts: [http://localhost:9200, http://localhost:9201]   # or "a,b", as on the command line
//!   poll_interval: 250
//! ```
//!
//! So a setting is declared once, and has the same name, parser, default and description
//! everywhere: on the command line, in the environment, in the file, in `--check-config` and in
//! the generated reference.
//!
//! Invariants:
//! - Everything wrong in the file and the environment is reported at once, each with its line and
//!   key, the reason and the remedy.
//! - Nothing that is a [`Secret`], and no password inside a URL, is printed by this crate. (A
//!   service that logs a URL itself passes it through [`mask_urls`].)
//! - An environment variable that is set to nothing counts as not set.
//! - `--switch=false` on the command line switches off what the file switches on.
//! - Where a flag conflicts with another, it does so wherever the two were given.

mod error;
mod file;
mod flags;
mod reference;
mod resolve;
mod secret;
mod setting;
mod suggest;
pub mod tree;
mod units;
mod yaml;

pub use error::{Error, Issue};
pub use reference::reference;
pub use resolve::{Resolved, Resolver, Sections, resolve};
pub use secret::{Secret, SecretFileError, mask_urls};
pub use setting::{Origin, Setting};
pub use units::{ByteSize, CommaList, Millis, Rate, UnitError};
