//! The nats-server that the gateway runs, and how its storage is divided.

use bus::{
    NatsAccess,
    embedded::{Auth, EmbeddedOptions},
};
use config::SecretFileError;

use crate::EmbeddedArgs;

/// Shares of the file storage for input, output and dead letters; the rest is for leases and floors.
const SHARES: (u64, u64, u64, u64) = (4, 4, 1, 10);

/// What each stream may take, in bytes: a full one cannot stop another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) letters: u64,
}

impl EmbeddedArgs {
    /// How to run the server. Who connects needs the same user or token as the gateway itself.
    pub(crate) fn options(&self, access: &NatsAccess) -> Result<EmbeddedOptions, SecretFileError> {
        let connect = access.options("", "")?;
        let auth = match (connect.user, connect.password, connect.token) {
            (Some(user), Some(password), _) => Some(Auth::User { user, password }),
            (_, _, Some(token)) => Some(Auth::Token(token)),
            _ => None,
        };
        Ok(EmbeddedOptions {
            max_memory: self.js_max_memory.bytes(),
            max_file: self.js_max_file.bytes(),
            auth,
            ..EmbeddedOptions::new(
                self.nats_binary.clone(),
                self.nats_listen,
                self.store_dir.clone(),
            )
        })
    }

    /// How the storage is divided; not at all without an embedded server.
    pub(crate) fn shares(&self) -> Option<Shares> {
        let (input, output, letters, of) = SHARES;
        let tenth = self.js_max_file.bytes() / of;
        self.embedded.then_some(Shares {
            input: tenth * input,
            output: tenth * output,
            letters: tenth * letters,
        })
    }

    /// Where it is reached on this machine.
    pub fn url(&self) -> String {
        let (ip, port) = (self.nats_listen.ip(), self.nats_listen.port());
        match ip {
            _ if !ip.is_unspecified() => format!("nats://{}", self.nats_listen),
            std::net::IpAddr::V4(_) => format!("nats://127.0.0.1:{port}"),
            std::net::IpAddr::V6(_) => format!("nats://[::1]:{port}"),
        }
    }
}
