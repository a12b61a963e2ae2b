//! Opening an LMDB file so that a damaged one cannot end the process.
//!
//! LMDB trusts its file and reads it through a memory map: a read behind the end of the file kills
//! the process by a signal. So the file must be as long as its own header says before anything but
//! the header is read. [`pages`] looks deeper, where the file is small enough for that.

pub(crate) mod pages;

use std::{fs, io, path::Path};

use heed::{Env, EnvFlags, EnvOpenOptions, RwTxn};

/// Address space, not disk: the file grows as needed.
const MAP_BYTES: usize = 1 << 40;
/// Two header pages of the smallest page size.
const HEADER_BYTES: u64 = 8 << 10;
const FILE: &str = "data.mdb";

/// Why a file cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The system refuses it.
    Io(String),
    /// It is not what LMDB has written.
    Damaged(String),
}

impl From<heed::Error> for OpenError {
    fn from(error: heed::Error) -> OpenError {
        match error {
            heed::Error::Io(error) => OpenError::Io(error.to_string()),
            error => OpenError::Damaged(error.to_string()),
        }
    }
}

/// Why a commit failed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Nothing was written; it may be tried again.
    Write(String),
    /// The disk failed in the last step, so that LMDB does not know what it holds: it takes no other
    /// commit until the file is opened anew.
    Broken,
}

/// Changes the tables of an environment: all of it, or nothing.
pub(crate) fn commit(
    env: &Env,
    change: impl FnOnce(&mut RwTxn) -> Result<(), heed::Error>,
) -> Result<(), CommitError> {
    let commit = || {
        // A visitor that was killed while it read would hold pages back for ever.
        env.clear_stale_readers()?;
        let mut txn = env.write_txn()?;
        change(&mut txn)?;
        txn.commit()
    };
    commit().map_err(|error| match has_to_be_opened_anew(&error) {
        true => CommitError::Broken,
        false => CommitError::Write(error.to_string()),
    })
}

/// Whether LMDB does not know any more what its file holds, and refuses even to read it.
pub(crate) fn has_to_be_opened_anew(error: &heed::Error) -> bool {
    matches!(error, heed::Error::Mdb(heed::MdbError::Panic))
}

/// Opens the environment in `folder`, or creates it. No other process may write it: the caller holds a
/// lock, or has just made the folder. `look` sees the file before LMDB does.
#[allow(
    unsafe_code,
    reason = "LMDB maps its file; ADR 0004 says what that costs and pays"
)]
pub(crate) fn open(
    folder: &Path,
    flags: EnvFlags,
    look: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Env, OpenError> {
    let file = folder.join(FILE);
    check_headers(&file)
        .and_then(|()| look(&file))
        .map_err(OpenError::Damaged)?;
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_dbs(8).max_readers(512);
    // SAFETY: nobody else writes the file, the flags are either none, or to read alone, or those of a
    // file that is never opened again, and nothing but its headers is read before its length is checked.
    let env = unsafe { options.flags(flags).open(folder) }?;
    check_length(&env, &file).map_err(OpenError::Damaged)?;
    Ok(env)
}

/// Opens the environment in `folder` to read it, while another process of this machine may write it; `None`
/// where there is none. Its pages change, so they are not walked unless the file is short, and then a commit that
/// comes meanwhile may pass for damage.
pub(crate) fn visit(folder: &Path) -> Result<Option<Env>, OpenError> {
    match folder.join(FILE).try_exists() {
        Ok(true) => open(folder, EnvFlags::READ_ONLY, |_| Ok(())).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(OpenError::Io(error.to_string())),
    }
}

/// LMDB takes a file without headers for a new one; for us, a file that is there has to be whole.
fn check_headers(file: &Path) -> Result<(), String> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(found) if found.len() < HEADER_BYTES => Err(format!(
            "{FILE} has {} bytes, less than its headers alone",
            found.len()
        )),
        Ok(_) => Ok(()),
    }
}

/// The file is as long as its newest header says, or what it lacks at its end was never written: then every page
/// that is reached is there, which is rare enough to be looked at.
fn check_length(env: &Env, file: &Path) -> Result<(), String> {
    let pages = env.info().last_page_number as u64 + 1;
    let needed = pages * u64::from(env.stat().page_size);
    let found = env.real_disk_size().map_err(|error| error.to_string())?;
    if found < needed {
        return pages::check(file).map_err(|damage| {
            format!("{FILE} has {found} bytes where its header says {needed}: {damage}")
        });
    }
    Ok(())
}

/// Lets this process write the data of the file in `folder` and no longer its headers, as a disk that
/// fails in the last step of a commit.
#[cfg(test)]
#[allow(
    unsafe_code,
    reason = "LMDB's own descriptor is exchanged for one that cannot be written"
)]
pub(crate) fn fail_headers(folder: &Path) {
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

    let file = folder.join(FILE).canonicalize().unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut open = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| name(entry.unwrap()));
    // LMDB writes its headers through a descriptor that syncs each write.
    let is_it = |number: &String| {
        let target = fs::read_link(format!("/proc/self/fd/{number}"));
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        target.is_ok_and(|target| target == file)
            && flags.is_some_and(|flags| flags & nix::libc::O_DSYNC != 0)
    };
    let of_headers: i32 = open.find(is_it).unwrap().parse().unwrap();
    let readable = fs::File::open(&file).unwrap();
    assert_ne!(readable.as_raw_fd(), of_headers);
    // SAFETY: the descriptor is open, and is handed back to LMDB under its number.
    let mut exchanged = unsafe { OwnedFd::from_raw_fd(of_headers) };
    nix::unistd::dup2(&readable, &mut exchanged).unwrap();
    assert_eq!(exchanged.into_raw_fd(), of_headers);
}

#[cfg(test)]
mod tests {
    use heed::types::Bytes;

    use super::*;

    fn opened(folder: &Path) -> Result<Env, OpenError> {
        open(folder, EnvFlags::empty(), |_| Ok(()))
    }

    /// What a commit took and gave back is not written, and may be the end of the file.
    #[test]
    fn a_file_whose_last_pages_were_never_written_is_whole_and_one_that_was_cut_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let env = opened(folder.path()).unwrap();
        let table: heed::Database<Bytes, Bytes> = {
            let mut txn = env.write_txn().unwrap();
            let table = env.create_database(&mut txn, Some("t")).unwrap();
            table.put(&mut txn, &b"kept"[..], &[1; 3000][..]).unwrap();
            txn.commit().unwrap();
            table
        };
        // Where the free pages lie decides whether the last one is among them.
        let lacks = |round: usize| {
            let passing = |n: u32| [b"passing", &n.to_be_bytes()[..]].concat();
            commit(&env, |txn| {
                let count = 20 * (1 + round as u32);
                for n in 0..count {
                    table.put(txn, &passing(n), &[2; 3000])?;
                }
                for n in (0..count).rev() {
                    table.delete(txn, &passing(n)).map(drop)?;
                }
                Ok(())
            })
            .unwrap();
            let pages = env.info().last_page_number as u64 + 1;
            fs::metadata(&file).unwrap().len() < pages * u64::from(env.stat().page_size)
        };
        assert!((0..50).any(lacks), "nothing is tested");
        drop(env);

        let env = opened(folder.path()).unwrap();
        let txn = env.read_txn().unwrap();
        let table = env.open_database::<Bytes, Bytes>(&txn, Some("t")).unwrap();
        assert_eq!(
            table.unwrap().get(&txn, b"kept").unwrap(),
            Some(&[1; 3000][..])
        );
        drop(txn);
        drop(env);
        let whole = fs::File::options().write(true).open(&file).unwrap();
        whole.set_len(2 * 4096 + 100).unwrap();
        assert!(matches!(opened(folder.path()), Err(OpenError::Damaged(_))));
    }
}
