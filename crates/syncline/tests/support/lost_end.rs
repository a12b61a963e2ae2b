//! What a loss of power takes from a stream.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::NatsServer;

/// Everything that a stream has acknowledged after `copy` is gone from it.
pub(crate) async fn lose_the_end(nats: &mut NatsServer, stream: &Path, copy: &Path) -> Result<()> {
    nats.kill();
    std::fs::remove_dir_all(stream)?;
    copy_folder(copy, stream)?;
    nats.restart().await
}

/// All streams of a server are gone, and what services remember there.
pub(crate) async fn lose_everything(nats: &mut NatsServer, store: &Path) -> Result<()> {
    nats.kill();
    std::fs::remove_dir_all(store)?;
    nats.restart().await
}

/// Copies a stream's folder, for [`lose_the_end`].
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp")
        .args([Path::new("-a"), from, to])
        .status()?;
    ensure!(copied.success(), "{from:?} cannot be copied");
    Ok(())
}
