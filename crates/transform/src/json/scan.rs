//! Reading JSON text ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)) without making anything of it: where a value
//! ends, and whether it is one.
//!
//! This is where a gateway with rules spends its time, so texts are looked through eight bytes at once. What counts as
//! JSON here is what counts for `serde_json`, and a property says so.

/// Reads a text from its beginning to its end.
#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// A part of a text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Span {
    /// The part of the text that it is about.
    pub(super) fn of(self, text: &str) -> &str {
        let part = text.get(self.from as usize..self.to as usize);
        part.unwrap_or_default()
    }

    /// The same of a text in quotes, without them.
    pub(super) fn within_quotes(self) -> Span {
        Span {
            from: self.from + 1,
            to: self.to - 1,
        }
    }

    /// The same as bytes, for which nobody looks whether a character is cut.
    pub(super) fn bytes_of(self, text: &str) -> &[u8] {
        let part = text.as_bytes().get(self.from as usize..self.to as usize);
        part.unwrap_or_default()
    }
}

impl<'a> Scanner<'a> {
    /// `None` for a text of 4 GB or more, which nobody sends.
    pub(super) fn new(text: &'a str) -> Option<Scanner<'a>> {
        u32::try_from(text.len()).ok()?;
        let text = text.as_bytes();
        Some(Scanner { text, at: 0 })
    }

    /// Goes over a byte if it is the next one behind any space.
    #[inline(always)]
    pub(super) fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Whether nothing but space is left.
    #[inline(always)]
    pub(super) fn is_over(&mut self) -> bool {
        self.skip_space();
        self.peek().is_none()
    }

    /// Goes over an object or an array: over what begins it, then part by part over what it holds, and over its end.
    #[inline(always)]
    pub(super) fn parts(
        &mut self,
        [begin, end]: [u8; 2],
        mut part: impl FnMut(&mut Scanner<'a>) -> Option<()>,
    ) -> Option<()> {
        if !self.takes(begin) {
            return None;
        }
        if self.takes(end) {
            return Some(());
        }
        loop {
            part(self)?;
            if !self.takes(b',') {
                return self.takes(end).then_some(());
            }
        }
    }

    /// Goes over a key and its colon. Gives the key in its quotes, and whether anything in it is escaped.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Option<(Span, bool)> {
        self.skip_space();
        let from = self.at;
        let is_escaped = self.skip_text()?;
        let span = self.since(from);
        self.takes(b':').then_some((span, is_escaped))
    }

    /// Goes over a value, whatever is in it.
    #[inline(always)]
    pub(super) fn value(&mut self) -> Option<Span> {
        self.skip_space();
        let from = self.at;
        match self.peek()? {
            b'{' | b'[' => self.skip_nested()?,
            _ => self.skip_single()?,
        }
        Some(self.since(from))
    }

    #[inline(always)]
    fn since(&self, from: usize) -> Span {
        Span {
            from: from as u32,
            to: self.at as u32,
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        // Nearly always there is none, which one comparison tells.
        while let Some(byte @ ..=b' ') = self.peek()
            && matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
        {
            self.at += 1;
        }
    }

    /// Goes over an object or an array. Not by calling itself: documents may be deeper than the stack.
    #[inline(never)]
    fn skip_nested(&mut self) -> Option<()> {
        // What ends each of those that have begun.
        let mut ends = Vec::new();
        loop {
            self.skip_space();
            let end = match self.peek()? {
                b'{' => Some(b'}'),
                b'[' => Some(b']'),
                _ => None,
            };
            if let Some(end) = end {
                self.at += 1;
                if !self.takes(end) {
                    ends.push(end);
                    self.begin_part(end)?;
                    continue;
                }
            } else {
                self.skip_single()?;
            }
            // A value has ended, and perhaps what it is in.
            loop {
                let Some(end) = ends.last().copied() else {
                    return Some(());
                };
                if self.takes(b',') {
                    self.begin_part(end)?;
                    break;
                }
                if !self.takes(end) {
                    return None;
                }
                ends.pop();
            }
        }
    }

    /// Goes over what stands before a value in something with this end.
    fn begin_part(&mut self, end: u8) -> Option<()> {
        match end {
            b'}' => self.key().map(drop),
            _ => Some(()),
        }
    }

    #[inline(always)]
    fn skip_single(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.skip_text().map(drop),
            b't' => self.skip_word("true"),
            b'f' => self.skip_word("false"),
            b'n' => self.skip_word("null"),
            _ => self.skip_number(),
        }
    }

    #[inline(always)]
    fn skip_word(&mut self, word: &str) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Option<()> {
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek()? {
            // Nothing stands behind a 0 but a fraction.
            b'0' => self.at += 1,
            _ => self.skip_digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.skip_digits()?;
        }
        // A digit behind a 0 would be no part of it, and no part of anything else.
        Some(())
    }

    /// One at least.
    #[inline(always)]
    fn skip_digits(&mut self) -> Option<()> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// Goes over a text; says whether anything in it is escaped.
    #[inline(always)]
    fn skip_text(&mut self) -> Option<bool> {
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        let mut is_escaped = false;
        loop {
            self.at = end_of_plain(self.text, self.at);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(is_escaped);
                }
                b'\\' => {
                    is_escaped = true;
                    self.at += 1;
                    self.skip_escape()?;
                }
                // Everything else below the space has to be escaped.
                _ => return None,
            }
        }
    }

    #[inline(never)]
    fn skip_escape(&mut self) -> Option<()> {
        let escape = self.peek()?;
        self.at += 1;
        match escape {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }
}

/// The first byte from `at` on that is no plain text: a quote, a backslash, or one below the space.
#[inline(always)]
fn end_of_plain(bytes: &[u8], mut at: usize) -> usize {
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        match first_special(u64::from_le_bytes(*eight)) {
            Some(within) => return at + within,
            None => at += 8,
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let plain = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..b' '));
    at + plain.unwrap_or(rest.len())
}

/// Which of eight bytes, the first one lowest, is the first that is no plain text.
#[inline(always)]
fn first_special(eight: u64) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST_BITS: u64 = EACH << 7;
    // Taking 1 from a byte sets its highest bit if it was 0, or had that bit before, or something was borrowed by a
    // byte below, which has been found then itself.
    let zeros = |bytes: u64| bytes.wrapping_sub(EACH) & !bytes;
    let below_space = eight.wrapping_sub(EACH * u64::from(b' ')) & !eight;
    let quotes = zeros(eight ^ (EACH * u64::from(b'"')));
    let backslashes = zeros(eight ^ (EACH * u64::from(b'\\')));
    let found = (below_space | quotes | backslashes) & HIGHEST_BITS;
    (found != 0).then_some(found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::value::RawValue;

    use super::*;

    /// Text that is JSON more often than not, and nearly JSON else.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            8 => "[\\[\\]{}:,\"\\\\]",
            3 => Just("\"a\":".to_owned()),
            3 => prop_oneof![Just("true"), Just("false"), Just("null"), Just("nul")].prop_map(str::to_owned),
            3 => "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
            3 => "\"[a-zé\"\\\\ \\x00-\\x20]{0,20}\"",
            3 => "\"(\\\\[\"\\\\/bfnrtux]|\\\\u[0-9a-fA-Fg]{4}|.){0,4}\"",
            1 => "[ \n\t\r]{1,2}",
        ];
        let whole = prop_oneof![
            Just("{\"a\":[1,{\"b\":[]},\"x\\u00e9y\"],\"c\":-0.5e+3}".to_owned()),
            Just("[{},[[]],null,true,{\"\":{\"d\":false}}]".to_owned()),
        ];
        let damaged = (whole, any::<prop::sample::Index>(), piece.clone()).prop_map(
            |(mut json, at, piece)| {
                json.insert_str(at.index(json.len()), &piece);
                json
            },
        );
        prop_oneof![vec(piece, 0..8).prop_map(|pieces| pieces.concat()), damaged]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// What is a value here is one for the library, and the other way round, and it ends at the same place.
        #[test]
        fn a_value_is_what_a_json_library_takes_for_one(text in nearly_json()) {
            let mut scanner = Scanner::new(&text).unwrap();
            let found = scanner.value().filter(|_| scanner.is_over());
            let found = found.map(|span| span.of(&text));
            let by_library = serde_json::from_str::<&RawValue>(&text).ok().map(RawValue::get);
            prop_assert_eq!(found, by_library, "{}", text);
        }

        #[test]
        fn eight_bytes_at_once_are_searched_like_one_by_one(bytes in vec(prop_oneof![
            6 => any::<u8>(), 1 => Just(b'"'), 1 => Just(b'\\'), 1 => 0u8..0x23, 6 => b'a'..=b'z',
        ], 0..40), from in 0usize..10) {
            let from = from.min(bytes.len());
            let one_by_one = bytes[from..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            prop_assert_eq!(end_of_plain(&bytes, from), from + one_by_one.unwrap_or(bytes.len() - from));
        }
    }

    #[test]
    fn a_value_may_be_deeper_than_the_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let found = Scanner::new(&deep).and_then(|mut scanner| scanner.value());
        assert_eq!(found.map(|span| span.to as usize), Some(deep.len()));
    }
}
