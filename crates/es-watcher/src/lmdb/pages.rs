//! Whether an LMDB file is one that LMDB can be let loose on.
//!
//! LMDB follows page numbers and offsets through its memory map without looking: one flipped bit in
//! a page's header ends the process by a signal. So before it is opened, every page that its trees
//! reach is walked here, with ordinary reads, and every number is compared with what it may be. The
//! layout is that of LMDB's `mdb.c` (data version 1, 64 bits, little endian): `MDB_page`, `MDB_node`,
//! `MDB_meta`, `MDB_db`. What values say is not checked here; they carry digests.

use std::{collections::HashSet, fs::File, io, os::unix::fs::FileExt, path::Path};

const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
/// Where the two trees, of free pages and of named databases, stand in a meta page.
const TREES: [usize; 2] = [PAGE_HEADER + 24, PAGE_HEADER + 24 + TREE];
/// The size of `MDB_db`.
const TREE: usize = 48;
const LAST_PAGE: usize = PAGE_HEADER + 24 + 2 * TREE;
const TRANSACTION: usize = LAST_PAGE + 8;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
/// The value stands on pages of its own.
const BIG_DATA: u16 = 0x01;
/// The value is a tree.
const SUB_DATA: u16 = 0x02;
/// LMDB's own limit for the depth of a tree.
const DEEPEST: u32 = 32;

/// Walks the file; a file that is not there is fine.
///
/// It may end before the last page that its header names: a commit does not write a page that it took and gave
/// back (`mdb_page_flush` leaves those with `P_LOOSE` out). What its trees reach has to be there.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|error| error.to_string())?,
    };
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut first = vec![0; TRANSACTION + 8];
    file.read_exact_at(&mut first, 0)
        .map_err(|_| format!("data.mdb has {length} bytes, less than its headers alone"))?;
    let page_size = number::<4>(&first, TREES[0])? as usize;
    if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) {
        return Err(format!("its header says pages of {page_size} bytes"));
    }
    let mut walk = Walk {
        file,
        page_size,
        last: 1,
        seen: HashSet::new(),
    };
    let metas = [walk.meta(0)?, walk.meta(1)?];
    let newest = usize::from(metas[1].transaction > metas[0].transaction);
    walk.last = metas[newest].last;
    let [free, named] = metas[newest].roots;
    walk.tree(free, 0, Kind::FreePages)?;
    walk.tree(named, 0, Kind::Values)
}

struct Meta {
    transaction: u64,
    last: u64,
    roots: [u64; 2],
}

/// What a tree's values are.
#[derive(Clone, Copy)]
enum Kind {
    /// Lists of pages, each with its length in front.
    FreePages,
    Values,
}

struct Walk {
    file: File,
    page_size: usize,
    /// The last page in use.
    last: u64,
    seen: HashSet<u64>,
}

impl Walk {
    fn meta(&mut self, page: u64) -> Result<Meta, String> {
        let bytes = self.read(page)?;
        let is_meta = number::<2>(&bytes, 10)? as u16 & META != 0
            && number::<4>(&bytes, PAGE_HEADER)? == u64::from(MAGIC)
            && number::<4>(&bytes, PAGE_HEADER + 4)? == u64::from(DATA_VERSION)
            && number::<4>(&bytes, TREES[0])? == self.page_size as u64;
        if !is_meta {
            return Err(format!("header {page} is none"));
        }
        let root = |tree: usize| number::<8>(&bytes, tree + 40);
        Ok(Meta {
            transaction: number::<8>(&bytes, TRANSACTION)?,
            last: number::<8>(&bytes, LAST_PAGE)?,
            roots: [root(TREES[0])?, root(TREES[1])?],
        })
    }

    fn tree(&mut self, page: u64, depth: u32, kind: Kind) -> Result<(), String> {
        if page == NO_PAGE && depth == 0 {
            return Ok(());
        }
        let bytes = self.take(page)?;
        if depth >= DEEPEST {
            return Err(format!("page {page} lies too deep"));
        }
        let flags = number::<2>(&bytes, 10)? as u16;
        let lower = number::<2>(&bytes, 12)? as usize;
        let upper = number::<2>(&bytes, 14)? as usize;
        let fits = lower >= PAGE_HEADER && lower <= upper && upper <= self.page_size;
        if !fits || !lower.is_multiple_of(2) || (flags != BRANCH && flags != LEAF) {
            return Err(format!("the header of page {page} makes no sense"));
        }
        if flags == BRANCH && lower < PAGE_HEADER + 4 {
            return Err(format!("page {page} branches nowhere"));
        }
        for slot in (PAGE_HEADER..lower).step_by(2) {
            let node = number::<2>(&bytes, slot)? as usize;
            if node < upper || !node.is_multiple_of(2) {
                return Err(format!("an entry of page {page} lies outside"));
            }
            if flags == BRANCH {
                self.branch(&bytes, node, depth, kind)?;
            } else {
                self.leaf(&bytes, node, kind)?;
            }
        }
        Ok(())
    }

    fn branch(&mut self, page: &[u8], node: usize, depth: u32, kind: Kind) -> Result<(), String> {
        let child = number::<6>(page, node)?;
        let key = number::<2>(page, node + 6)? as usize;
        slice(page, node + NODE_HEADER, key)?;
        self.tree(child, depth + 1, kind)
    }

    fn leaf(&mut self, page: &[u8], node: usize, kind: Kind) -> Result<(), String> {
        let size = number::<4>(page, node)? as usize;
        let flags = number::<2>(page, node + 4)? as u16;
        let key = number::<2>(page, node + 6)? as usize;
        slice(page, node + NODE_HEADER, key)?;
        let value = node + NODE_HEADER + key;
        match (flags, kind) {
            (0, Kind::Values) => slice(page, value, size).map(drop),
            (0, Kind::FreePages) => self.free_pages(key, slice(page, value, size)?),
            (BIG_DATA, kind) => {
                let pages = self.overflow(number::<8>(page, value)?, size)?;
                match kind {
                    Kind::Values => Ok(()),
                    Kind::FreePages => self.free_pages(key, &pages),
                }
            }
            (SUB_DATA, Kind::Values) if size == TREE => {
                let root = number::<8>(page, value + 40)?;
                self.tree(root, 0, Kind::Values)
            }
            _ => Err(format!("an entry has the flags {flags}")),
        }
    }

    /// The value of `size` bytes that begins on a page of its own.
    fn overflow(&mut self, first: u64, size: usize) -> Result<Vec<u8>, String> {
        let mut bytes = self.take(first)?;
        let count = number::<4>(&bytes, 12)?;
        let needed = (PAGE_HEADER + size).div_ceil(self.page_size) as u64;
        let last = first.saturating_add(count.saturating_sub(1));
        if number::<2>(&bytes, 10)? as u16 != OVERFLOW || count < needed || last > self.last {
            return Err(format!("page {first} does not begin a large value"));
        }
        for page in first + 1..=last {
            self.seen.insert(page);
            bytes.extend(self.read(page)?);
        }
        Ok(slice(&bytes, PAGE_HEADER, size)?.to_vec())
    }

    /// LMDB copies these lists by their own length and writes to the pages they name.
    fn free_pages(&self, key: usize, list: &[u8]) -> Result<(), String> {
        let count = number::<8>(list, 0)?;
        let names = list.get(8..).unwrap_or_default().chunks_exact(8);
        let mut above = u64::MAX;
        for at in 0..names
            .len()
            .min(usize::try_from(count).unwrap_or(usize::MAX))
        {
            let page = number::<8>(list, 8 + 8 * at)?;
            if page < 2 || page > self.last || page >= above {
                return Err(format!("the list of free pages names page {page}"));
            }
            above = page;
        }
        if key != 8 || count > names.len() as u64 {
            return Err("a list of free pages makes no sense".to_owned());
        }
        Ok(())
    }

    /// Reads a page that nothing else may lead to.
    fn take(&mut self, page: u64) -> Result<Vec<u8>, String> {
        if page < 2 || page > self.last || !self.seen.insert(page) {
            return Err(format!("an entry points to page {page}"));
        }
        let bytes = self.read(page)?;
        if number::<8>(&bytes, 0)? != page {
            return Err(format!("page {page} says that it is another"));
        }
        Ok(bytes)
    }

    fn read(&self, page: u64) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; self.page_size];
        let at = page.saturating_mul(self.page_size as u64);
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(format!("page {page} cannot be read: {error}")),
        }
    }
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    let end = at.saturating_add(length);
    bytes
        .get(at..end)
        .ok_or_else(|| "an entry is longer than its page".to_owned())
}

/// A little-endian number of so many bytes.
fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Result<u64, String> {
    let mut number = [0; 8];
    number[..BYTES].copy_from_slice(slice(bytes, at, BYTES)?);
    Ok(u64::from_le_bytes(number))
}
