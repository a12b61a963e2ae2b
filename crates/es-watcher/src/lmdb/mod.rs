//! Opening an LMDB file so that a damaged one cannot end the process.
//!
//! LMDB trusts its file and reads it through a memory map: a read behind the end of the file kills
//! the process by a signal. So the file must be as long as its own header says before anything but
//! the header is read. [`pages`] looks deeper, where the file is small enough for that.

pub(crate) mod pages;

use std::{fs, io, path::Path};

use heed::{Env, EnvFlags, EnvOpenOptions};

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

/// Opens the environment in `folder`, or creates it. No other process may have it open: the caller
/// holds a lock, or has just made the folder. `look` sees the file before LMDB does.
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
    // SAFETY: nobody else has the file open, the flags are either none or those of a file that is
    // never opened again, and nothing but its headers is read before its length is checked.
    let env = unsafe { options.flags(flags).open(folder) }?;
    check_length(&env).map_err(OpenError::Damaged)?;
    Ok(env)
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

/// The file must be as long as its newest header says.
fn check_length(env: &Env) -> Result<(), String> {
    let pages = env.info().last_page_number as u64 + 1;
    let needed = pages * u64::from(env.stat().page_size);
    let found = env.real_disk_size().map_err(|error| error.to_string())?;
    if found < needed {
        return Err(format!(
            "{FILE} has {found} bytes where its header says {needed}"
        ));
    }
    Ok(())
}
