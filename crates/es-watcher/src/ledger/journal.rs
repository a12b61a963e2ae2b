//! What was entered lately and is not in the tables yet.
//!
//! A table of hashes wants many changes at once; what is published wants to be durable at once. So what is
//! entered is appended here and synced, which is one small write, and goes into the tables later and
//! together. One process that dies in between finds it here again.
//!
//! The file is written from its beginning again after each time. The digest of a record takes in that of the
//! record before, and that of the first the number of the round, which the tables know: what an earlier
//! round, or a write that failed, has left behind the end is not taken for news.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

const FILE: &str = "journal";
/// Length and digest.
const HEADER: usize = 4 + 8;

/// The file, up to where it is filled, and the last digest.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    digest: u64,
}

impl Journal {
    /// Opens the journal in a folder, or creates it, and hands each record of a round to `take`. A record
    /// that is not whole is the last: whoever wrote it has not been told that it is durable.
    pub(super) fn open(
        folder: &Path,
        round: u64,
        mut take: impl FnMut(&[u8]) -> Option<()>,
    ) -> io::Result<Journal> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join(FILE))?;
        File::open(folder)?.sync_all()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (length, digest) = records(&bytes, round, &mut take)?;
        Ok(Journal {
            file,
            length: length as u64,
            digest,
        })
    }

    /// Appends a record and waits until the disk has it. After a failure the next one takes its place.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + record.len());
        let digest = xxh3_64_with_seed(record, self.digest);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&digest.to_be_bytes());
        bytes.extend_from_slice(record);
        self.file.write_all_at(&bytes, self.length)?;
        self.file.sync_data()?;
        self.length += bytes.len() as u64;
        self.digest = digest;
        Ok(())
    }

    /// Begins a round: everything before is in the tables.
    pub(super) fn restart(&mut self, round: u64) {
        self.digest = round;
        self.length = 0;
    }
}

/// Hands each record of a round in a folder's journal to `take`, for somebody who does not write it.
pub(super) fn read(
    folder: &Path,
    round: u64,
    mut take: impl FnMut(&[u8]) -> Option<()>,
) -> io::Result<()> {
    match std::fs::read(folder.join(FILE)) {
        Ok(bytes) => records(&bytes, round, &mut take).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Hands each record of a round to `take`, and returns how long they are together and the last digest.
fn records(
    bytes: &[u8],
    round: u64,
    take: &mut impl FnMut(&[u8]) -> Option<()>,
) -> io::Result<(usize, u64)> {
    let (mut length, mut digest) = (0, round);
    while let Some((record, own)) = record(&bytes[length..], digest) {
        take(record).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a record of the journal makes no sense",
            )
        })?;
        length += HEADER + record.len();
        digest = own;
    }
    Ok((length, digest))
}

/// The record at the beginning of `bytes` and its digest, if it is the one that follows a digest.
fn record(bytes: &[u8], before: u64) -> Option<(&[u8], u64)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let (length, digest) = header.split_first_chunk::<4>()?;
    let record = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let own = xxh3_64_with_seed(record, before);
    (own.to_be_bytes() == digest).then_some((record, own))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(folder: &Path, round: u64) -> (Journal, Vec<Vec<u8>>) {
        let mut found = Vec::new();
        let journal = Journal::open(folder, round, |record| {
            found.push(record.to_vec());
            Some(())
        });
        (journal.unwrap(), found)
    }

    proptest! {
        #[test]
        fn what_was_appended_is_found_again_wherever_the_end_was_cut(
            old in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
            new in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
            cut in 0usize..400,
            flip in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (mut journal, _) = read(folder.path(), 7);
            for record in &old {
                journal.append(record).unwrap();
            }
            journal.restart(8);
            let mut ends = vec![0];
            for record in &new {
                journal.append(record).unwrap();
                ends.push(journal.length as usize);
            }
            drop(journal);
            prop_assert_eq!(&read(folder.path(), 8).1, &new);
            let path = folder.path().join(FILE);
            let mut bytes = std::fs::read(&path).unwrap();
            let cut = cut.min(bytes.len());
            match flip {
                true if cut < bytes.len() => bytes[cut] ^= 0x10,
                _ => bytes.truncate(cut),
            }
            std::fs::write(&path, bytes).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let (mut journal, found) = read(folder.path(), 8);
            prop_assert_eq!(&found, &new[..whole]);
            journal.append(b"after").unwrap();
            drop(journal);
            let (_, found) = read(folder.path(), 8);
            prop_assert_eq!(found.last().unwrap(), b"after");
        }
    }
}
