//! Rows in the text format of COPY: the chapter "COPY", section "Text Format", of the manual. Pure.

use std::borrow::Cow;

use memchr::memchr2;

/// The values of a row, from a line of the text format with or without its line feed. Values without an
/// escape are slices of it.
pub fn row(line: &[u8]) -> impl Iterator<Item = Option<Cow<'_, [u8]>>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let here = rest?;
        let (value, after) = cut(here);
        rest = after;
        Some(value)
    })
}

/// The first value of a line and what comes behind it.
fn cut(line: &[u8]) -> (Option<Cow<'_, [u8]>>, Option<&[u8]>) {
    let Some(at) = memchr2(b'\t', b'\\', line) else {
        return (Some(Cow::Borrowed(line)), None);
    };
    if line[at] == b'\t' {
        return (Some(Cow::Borrowed(&line[..at])), Some(&line[at + 1..]));
    }
    if line.get(..2) == Some(b"\\N") && matches!(line.get(2), None | Some(b'\t')) {
        return (None, line.get(3..));
    }
    unescape(line, at)
}

/// A value with an escape at `at`.
fn unescape(line: &[u8], mut at: usize) -> (Option<Cow<'_, [u8]>>, Option<&[u8]>) {
    let mut value = line[..at].to_vec();
    loop {
        match line.get(at) {
            None => return (Some(Cow::Owned(value)), None),
            Some(b'\t') => return (Some(Cow::Owned(value)), Some(&line[at + 1..])),
            Some(b'\\') => {
                let (byte, length) = escape(&line[at + 1..]);
                value.push(byte);
                at += 1 + length;
            }
            Some(_) => {
                let plain = memchr2(b'\t', b'\\', &line[at..]).unwrap_or(line.len() - at);
                value.extend_from_slice(&line[at..at + plain]);
                at += plain;
            }
        }
    }
}

/// The byte that an escape stands for, and how many bytes it has after the backslash.
fn escape(text: &[u8]) -> (u8, usize) {
    match text.first() {
        Some(b'b') => (8, 1),
        Some(b'f') => (12, 1),
        Some(b'n') => (b'\n', 1),
        Some(b'r') => (b'\r', 1),
        Some(b't') => (b'\t', 1),
        Some(b'v') => (11, 1),
        Some(digit @ b'0'..=b'7') => {
            let mut byte = u32::from(digit - b'0');
            let mut length = 1;
            while let Some(digit @ b'0'..=b'7') = text.get(length).filter(|_| length < 3) {
                byte = byte * 8 + u32::from(digit - b'0');
                length += 1;
            }
            (byte as u8, length)
        }
        Some(b'x') => {
            let digit = |at: usize| text.get(at).and_then(|d| (*d as char).to_digit(16));
            match (digit(1), digit(2)) {
                (Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
                (Some(one), None) => (one as u8, 2),
                _ => (b'x', 1),
            }
        }
        Some(other) => (*other, 1),
        None => (b'\\', 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    /// As the server writes (CopyAttributeOutText).
    fn write(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut line = Vec::new();
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                line.push(b'\t');
            }
            match value {
                None => line.extend(b"\\N"),
                Some(value) => {
                    for byte in value {
                        match byte {
                            8 => line.extend(b"\\b"),
                            12 => line.extend(b"\\f"),
                            b'\n' => line.extend(b"\\n"),
                            b'\r' => line.extend(b"\\r"),
                            b'\t' => line.extend(b"\\t"),
                            11 => line.extend(b"\\v"),
                            b'\\' => line.extend(b"\\\\"),
                            byte => line.push(*byte),
                        }
                    }
                }
            }
        }
        line.push(b'\n');
        line
    }

    fn read(line: &[u8]) -> Vec<Option<Vec<u8>>> {
        row(line).map(|v| v.map(Cow::into_owned)).collect()
    }

    proptest! {
        #[test]
        fn what_the_server_writes_is_read_back(
            values in vec(option::of(vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'\t'), Just(b'N')], 0..9)), 1..6),
        ) {
            prop_assert_eq!(read(&write(&values)), values);
        }

        #[test]
        fn any_bytes_are_some_row(line in vec(any::<u8>(), 0..40)) {
            read(&line);
        }
    }

    #[test]
    fn a_value_without_an_escape_is_not_copied() {
        let values: Vec<_> = row(b"a\tb c\n").collect();
        assert!(values.iter().all(|v| matches!(v, Some(Cow::Borrowed(_)))));
    }

    #[test]
    fn escapes_by_number_are_known() {
        assert_eq!(read(b"\\101\\x42\\q\\\\N"), [Some(b"ABq\\N".to_vec())]);
    }
}
