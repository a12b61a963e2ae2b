//! A copy of a server's disk, and what becomes of it.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::keeper::Home;

use super::{PostgresServer, data_folder, launch, programs, unprivileged};

/// A copy of a server's disk, taken while it ran.
#[derive(Debug)]
pub struct Backup(Home);

/// What a backup is made into when it takes a server's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// A stand-by that has fallen behind. Once it is promoted the log goes on, on a timeline of its own.
    StandBy,
    /// The server as it was, on the timeline it had.
    Restored,
}

impl PostgresServer {
    /// Takes a backup, as `pg_basebackup` does.
    pub async fn backup(&self) -> Result<Backup> {
        let home = Home::create("postgres")?;
        let mut command = unprivileged(&programs()?.join("pg_basebackup"));
        command
            .arg("--pgdata")
            .arg(data_folder(&home)?)
            .args(["--dbname", &self.url("postgres")])
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
        let made = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            made.status.success(),
            "pg_basebackup fails: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(Backup(home))
    }

    /// Ends the server at once and starts a backup in its place, on the same port.
    pub async fn replace(&mut self, backup: Backup, recovery: Recovery) -> Result<()> {
        self.kept.clean_up();
        if recovery == Recovery::StandBy {
            touch(&backup.0.folder.join("data/standby.signal"))?;
        }
        self.kept = launch(&self.options, backup.0, self.port).await?;
        Ok(())
    }

    /// Makes a primary of a stand-by.
    pub async fn promote(&self) -> Result<()> {
        self.psql("postgres", "SELECT pg_promote()").await?;
        Ok(())
    }
}

fn touch(file: &Path) -> Result<()> {
    Ok(std::fs::write(file, "")?)
}
