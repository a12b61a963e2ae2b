//! Where things are: the checkout, its cache, and what a run leaves under `target`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The root of the checkout: the folder with `versions.env`.
///
/// The place this was compiled in is asked first; a binary that was moved looks upwards from where it runs.
pub fn checkout() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
        let running = std::env::current_dir().unwrap_or_default();
        compiled
            .ancestors()
            .chain(running.ancestors())
            .find(|folder| folder.join("versions.env").is_file())
            .expect("testkit runs inside a checkout of Syncline")
            .to_owned()
    });
    &ROOT
}

/// What was fetched and can be fetched again: `.cache` of the checkout, or `SYNCLINE_CACHE`.
pub fn cache() -> PathBuf {
    std::env::var_os("SYNCLINE_CACHE").map_or_else(|| checkout().join(".cache"), PathBuf::from)
}

/// Homes of running servers and the registry of the shared ones.
pub(crate) fn run() -> PathBuf {
    checkout().join("target/testkit")
}

/// Logs of servers; the log of a server that ended well is removed.
pub fn logs() -> PathBuf {
    checkout().join("target/testkit-logs")
}

/// This crate's own folder, for what is read from it at run time.
pub(crate) fn own(name: &str) -> PathBuf {
    checkout().join("crates/testkit").join(name)
}
