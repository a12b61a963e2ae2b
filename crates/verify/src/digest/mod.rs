//! A fingerprint of what a JSON text *means*, computed in one pass over its bytes.
//!
//! Search engines keep a `_source` byte for byte, but a document that went through another program,
//! or comes from synthetic source, may be written differently and still be the same. Two texts have
//! the same digest exactly if they are equal in this sense (but for collisions of 128 bits):
//!
//! - White space between tokens and the order of an object's members do not matter; the order of an
//!   array's elements does.
//! - Where a key occurs twice in an object, the last one counts, as in most parsers. (Elasticsearch
//!   refuses such documents since 6.0.)
//! - Numbers are equal if they are the same number, at any length and without rounding: `1`, `1.0`
//!   and `10e-1` are equal, `0` and `-0` too, `0.1` and `0.10000000000000001` are not, though both
//!   are the same double. Only an exponent of more than 18 digits is compared as written.
//! - Strings are equal if their characters are, escaped or not. Half a surrogate pair, which JSON
//!   can write and Unicode cannot, is a character of its own here.
//!
//! What is accepted is what RFC 8259 calls a JSON text, nested at most [`MAX_DEPTH`] deep.

mod number;
mod string;
#[cfg(test)]
mod tests;

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The deepest nesting that is accepted; search engines refuse more than 1,000 as well.
pub const MAX_DEPTH: usize = 1_000;

/// Why a text has no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// The bytes are no text.
    #[error("it is not UTF-8")]
    Encoding,
    /// The text is no JSON.
    #[error("it is not JSON: byte {at} is not what should follow there")]
    Syntax {
        /// Where, from 0.
        at: usize,
    },
    /// The text is nested too deeply.
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// The digest of one JSON text; see the [module](self) for what makes two of them equal.
///
/// ```
/// # fn main() -> Result<(), verify::DigestError> {
/// let one = verify::digest(br#"{"a": 1, "b": [true, "\u00e9"]}"#)?;
/// let other = verify::digest("{\"b\":[true,\"é\"],\"a\":1.0}".as_bytes())?;
/// assert_eq!(one, other);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the bytes are not one JSON text.
pub fn digest(json: &[u8]) -> Result<u128, DigestError> {
    Digester::default().digest(json)
}

/// Computes digests one after the other without asking for memory each time.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    members: Vec<Member>,
    scratch: Vec<u8>,
}

impl Digester {
    pub(crate) fn digest(&mut self, json: &[u8]) -> Result<u128, DigestError> {
        // Checked as a whole, which is quicker than string by string.
        std::str::from_utf8(json).map_err(|_| DigestError::Encoding)?;
        self.members.clear();
        let mut parser = Parser {
            json,
            at: 0,
            members: &mut self.members,
            scratch: &mut self.scratch,
        };
        parser.skip_space();
        let digest = parser.value(0)?;
        parser.skip_space();
        match parser.peek() {
            None => Ok(digest),
            Some(_) => Err(parser.error()),
        }
    }
}

/// What a hash is a hash of: a string is never equal to a number or an object.
#[derive(Clone, Copy)]
enum Kind {
    Null,
    False,
    True,
    String,
    Number,
    LongNumber,
    OddNumber,
    Element,
    Array,
    Member,
    Object,
}

fn hash(kind: Kind, bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, kind as u64)
}

fn combine(kind: Kind, one: u128, other: u128) -> u128 {
    let mut both = [0; 32];
    both[..16].copy_from_slice(&one.to_le_bytes());
    both[16..].copy_from_slice(&other.to_le_bytes());
    hash(kind, &both)
}

/// A member of an object that is still open.
#[derive(Debug, Clone, Copy)]
struct Member {
    key: u128,
    value: u128,
}

struct Parser<'a> {
    json: &'a [u8],
    at: usize,
    members: &'a mut Vec<Member>,
    scratch: &'a mut Vec<u8>,
}

impl Parser<'_> {
    fn error(&self) -> DigestError {
        DigestError::Syntax { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, token: &[u8]) -> Result<(), DigestError> {
        if self
            .json
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(token))
        {
            self.at += token.len();
            Ok(())
        } else {
            Err(self.error())
        }
    }

    fn value(&mut self, depth: usize) -> Result<u128, DigestError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{' | b'[') if depth >= MAX_DEPTH => Err(DigestError::Depth),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'n') => self.expect(b"null").map(|()| hash(Kind::Null, b"")),
            Some(b't') => self.expect(b"true").map(|()| hash(Kind::True, b"")),
            Some(b'f') => self.expect(b"false").map(|()| hash(Kind::False, b"")),
            _ => Err(self.error()),
        }
    }

    fn array(&mut self, depth: usize) -> Result<u128, DigestError> {
        self.at += 1;
        self.skip_space();
        let mut elements: u128 = 0;
        let mut count: u128 = 0;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(combine(Kind::Array, elements, count));
        }
        loop {
            self.skip_space();
            let element = self.value(depth + 1)?;
            elements = combine(Kind::Element, elements, element);
            count += 1;
            if self.another(b']')? {
                return Ok(combine(Kind::Array, elements, count));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<u128, DigestError> {
        self.at += 1;
        self.skip_space();
        let first = self.members.len();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(self.close(first));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error());
            }
            let key = self.string()?;
            self.skip_space();
            self.expect(b":")?;
            self.skip_space();
            let value = self.value(depth + 1)?;
            self.members.push(Member { key, value });
            if self.another(b'}')? {
                return Ok(self.close(first));
            }
        }
    }

    /// Reads the comma after an element, or the end: then it says true.
    fn another(&mut self, end: u8) -> Result<bool, DigestError> {
        self.skip_space();
        let ended = match self.peek() {
            Some(b',') => false,
            Some(byte) if byte == end => true,
            _ => return Err(self.error()),
        };
        self.at += 1;
        Ok(ended)
    }

    /// The hash of the object whose members begin at `first`: a sum, which knows no order.
    fn close(&mut self, first: usize) -> u128 {
        if may_repeat(&self.members[first..]) {
            // Stable, so that of equal keys the last one stays last; that one is kept.
            self.members[first..].sort_by_key(|member| member.key);
            let mut kept = first;
            for at in first..self.members.len() {
                if kept > first && self.members[kept - 1].key == self.members[at].key {
                    kept -= 1;
                }
                self.members[kept] = self.members[at];
                kept += 1;
            }
            self.members.truncate(kept);
        }
        let members = &self.members[first..];
        let sum = members.iter().fold(0u128, |sum, member| {
            sum.wrapping_add(combine(Kind::Member, member.key, member.value))
        });
        let count = members.len() as u128;
        self.members.truncate(first);
        combine(Kind::Object, sum, count)
    }
}

/// Whether two members may have the same key: nearly never for an object of a usual size, so that
/// it need not be sorted.
fn may_repeat(members: &[Member]) -> bool {
    const WORDS: usize = 32;
    if members.len() < 2 {
        return false;
    }
    let mut seen = [0u64; WORDS];
    members.len() > WORDS * 2
        || members.iter().any(|member| {
            let word = &mut seen[(member.key >> 6) as usize % WORDS];
            let bit = 1 << (member.key % 64);
            let before = *word;
            *word |= bit;
            before & bit != 0
        })
}
