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
    remove_folder(store)?;
    nats.restart().await
}

/// Removes a folder that may be gone already.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Copies a stream's folder, or all of them, for what loses its end.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp")
        .args([Path::new("-a"), from, to])
        .status()?;
    ensure!(copied.success(), "{from:?} cannot be copied");
    Ok(())
}
