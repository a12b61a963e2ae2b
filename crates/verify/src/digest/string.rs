//! Strings: hashed where they stand, unless an escape has to be taken out first.

use super::{DigestError, Kind, Parser, hash};

impl Parser<'_> {
    /// Reads a string, which begins here, and hashes its characters.
    pub(super) fn string(&mut self) -> Result<u128, DigestError> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.peek() == Some(b'"') {
            let plain = &self.json[start..self.at];
            self.at += 1;
            return Ok(hash(Kind::String, plain));
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.json[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(hash(Kind::String, self.scratch));
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.error()),
            }
            let start = self.at;
            self.skip_plain();
            self.scratch.extend_from_slice(&self.json[start..self.at]);
        }
    }

    /// Goes on to the next quote, backslash or control character, eight bytes a step.
    fn skip_plain(&mut self) {
        const ONES: u64 = u64::MAX / 255;
        const HIGHS: u64 = ONES << 7;
        // Each sets the high bit of the first byte that fits; later ones may be wrong.
        let is_below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
        let is = |word: u64, byte: u8| is_below(word ^ (ONES * u64::from(byte)), 1);
        while let Some((eight, _)) = self.json[self.at..].split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*eight);
            let special = (is_below(word, 0x20) | is(word, b'"') | is(word, b'\\')) & HIGHS;
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        while let Some(byte) = self.peek() {
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                return;
            }
            self.at += 1;
        }
    }

    /// Reads an escape, which begins here, into the scratch.
    fn escape(&mut self) -> Result<(), DigestError> {
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.code(),
            _ => return Err(self.error()),
        };
        self.at += 1;
        self.scratch.push(byte);
        Ok(())
    }

    /// Reads `uXXXX`, and the other half if it is the first one of a surrogate pair.
    fn code(&mut self) -> Result<(), DigestError> {
        let mut code = u32::from(self.unit()?);
        if (0xd800..0xdc00).contains(&code) && self.json[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 1;
            match u32::from(self.unit()?) {
                low @ 0xdc00..0xe000 => code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00),
                _ => self.at = back,
            }
        }
        match char::from_u32(code) {
            Some(char) => {
                let mut utf8 = [0; 4];
                let utf8 = char.encode_utf8(&mut utf8);
                self.scratch.extend_from_slice(utf8.as_bytes());
            }
            // Half a pair, in the three bytes that UTF-8 would have for it and forbids.
            None => {
                let [low, middle] = [code & 0x3f, code >> 6 & 0x3f].map(|bits| 0x80 | bits as u8);
                self.scratch.extend_from_slice(&[0xed, middle, low]);
            }
        }
        Ok(())
    }

    fn unit(&mut self) -> Result<u16, DigestError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.error());
            };
            unit = unit << 4 | digit as u16;
            self.at += 1;
        }
        Ok(unit)
    }
}
