//! A document that says when it was sent: written into the source now and then, its age at the target is
//! the lag from end to end.

use serde::{Deserialize, Serialize};

use crate::now_ms;

/// The document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// When it was sent, in milliseconds since 1970 by the sender's clock.
    #[serde(rename = "syncline_canary_sent_ms")]
    pub sent_ms: u64,
}

impl Canary {
    /// One that is sent now.
    pub fn now() -> Canary {
        Canary { sent_ms: now_ms() }
    }

    /// Reads a document; nothing where it is no canary.
    pub fn read(document: &[u8]) -> Option<Canary> {
        serde_json::from_slice(document).ok()
    }
}
