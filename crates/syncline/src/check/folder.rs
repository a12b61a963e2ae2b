//! The checkpoint folder: there is room, nobody uses it, and what is in it is whole.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use es_watcher::{CheckpointError, DiskStore, Owner};
use nix::sys::statvfs::statvfs;

use super::report::Report;

/// Below that the disk is called nearly full.
const LITTLE_ROOM: u64 = 256 << 20;
const WHAT: &str = "checkpoint folder";

/// Looks at a folder that may not exist yet. `cluster` is the source's UUID, where it is known.
pub(crate) fn look(report: &mut Report, path: &Path, cluster: Option<&str>) {
    let Some(nearest) = nearest(path) else {
        return report.fail(
            WHAT,
            format_args!("no part of {path:?} exists"),
            "give an absolute --checkpoint-path",
        );
    };
    if let Err(error) = writable(&nearest) {
        return report.fail(
            WHAT,
            format_args!("{nearest:?} cannot be written: {error}"),
            "correct its permissions, free its disk, or choose another --checkpoint-path",
        );
    }
    room(report, &nearest);
    if nearest != path {
        return report.ok(
            WHAT,
            format_args!("{path:?} does not exist yet: the first run creates it"),
        );
    }
    match contents(path, cluster) {
        Ok(detail) => report.ok(WHAT, format_args!("{path:?} {detail}")),
        Err(Trouble::InUse) => report.warn(
            WHAT,
            format_args!("{path:?} is in use by a process that runs"),
            "stop it before another run, or give that a --checkpoint-path of its own",
        ),
        Err(Trouble::Unreadable(error)) => report.fail(
            WHAT,
            format_args!("{path:?} cannot be read: {error}"),
            "correct its permissions",
        ),
        Err(Trouble::Store(error)) => report.fail(WHAT, error, ""),
    }
}

/// The folder itself, or the nearest one above it that exists.
fn nearest(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors()
        .find(|folder| folder.exists())
        .map(Path::to_owned)
}

/// Makes sure by writing: permissions alone do not tell of a full or a read-only disk.
fn writable(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".syncline-check-{:016x}", fastrand::u64(..)));
    fs::write(&probe, [0; 4096])?;
    fs::remove_file(&probe)
}

fn room(report: &mut Report, folder: &Path) {
    const WHAT: &str = "checkpoint disk";
    match statvfs(folder) {
        Err(error) => report.warn(
            WHAT,
            format_args!("free space is not to be seen: {error}"),
            "",
        ),
        Ok(disk) => {
            let free = disk.blocks_available() * disk.fragment_size();
            let detail = format!("{} MB free", free >> 20);
            match free < LITTLE_ROOM {
                false => report.ok(WHAT, detail),
                true => report.warn(
                    WHAT,
                    detail,
                    "free some: a run stops when checkpoints cannot be stored",
                ),
            }
        }
    }
}

enum Trouble {
    InUse,
    Unreadable(io::Error),
    Store(CheckpointError),
}

/// Opens a copy of the store: opening the store itself would claim it for us.
fn contents(path: &Path, cluster: Option<&str>) -> Result<String, Trouble> {
    let data = path.join("data.mdb");
    if !data.exists() {
        return Ok("is empty and can be used".to_owned());
    }
    let _lock = lock(path)?;
    let copy = tempfile::tempdir().map_err(Trouble::Unreadable)?;
    fs::copy(&data, copy.path().join("data.mdb")).map_err(Trouble::Unreadable)?;
    let owner = Owner {
        cluster_uuid: cluster.unwrap_or_default().to_owned(),
        tenant: String::new(),
        stream: None,
    };
    match DiskStore::open(copy.path(), &owner) {
        Ok(_) => Ok("holds checkpoints".to_owned()),
        // We do not know which tenant will run.
        Err(CheckpointError::Foreign { found, .. })
            if cluster.is_none() || found.starts_with("the tenant") =>
        {
            Ok(format!("holds checkpoints of {found}"))
        }
        Err(error) => Err(Trouble::Store(of(path, error))),
    }
}

/// As long as it is held no watcher can begin.
fn lock(path: &Path) -> Result<Option<File>, Trouble> {
    let file = match File::open(path.join("watcher.lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Trouble::Unreadable(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Trouble::InUse),
        Err(TryLockError::Error(error)) => Err(Trouble::Unreadable(error)),
    }
}

/// The error as the store itself would have said it, not its copy.
fn of(path: &Path, error: CheckpointError) -> CheckpointError {
    let path = path.to_owned();
    match error {
        CheckpointError::Open { reason, remedy, .. } => CheckpointError::Open {
            path,
            reason,
            remedy,
        },
        CheckpointError::InUse { .. } => CheckpointError::InUse { path },
        CheckpointError::Damaged { reason, .. } => CheckpointError::Damaged { path, reason },
        CheckpointError::Foreign {
            found, expected, ..
        } => CheckpointError::Foreign {
            path,
            found,
            expected,
        },
        CheckpointError::Write { reason, .. } => CheckpointError::Write { path, reason },
        CheckpointError::Broken { .. } => CheckpointError::Broken { path },
        error @ CheckpointError::Epoch(_) => error,
    }
}
