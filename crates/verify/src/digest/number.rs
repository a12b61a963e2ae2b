//! Numbers: each becomes its shortest decimal form, digits × 10^exponent, so that equal numbers
//! are equal however they are written and nothing is rounded.

use super::{DigestError, Kind, Parser, combine, hash};

/// The most digits that always fit into 64 bits.
const SHORT: usize = 19;
/// The most digits an exponent may have to be calculated with.
const EXPONENT: usize = 18;

impl<'a> Parser<'a> {
    /// Reads a number, which begins here.
    pub(super) fn number(&mut self) -> Result<u128, DigestError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let whole = self.digits()?;
        if whole.len() > 1 && whole[0] == b'0' {
            self.at -= whole.len() - 1;
            return Err(self.error());
        }
        let mut fraction: &[u8] = b"";
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.digits()?;
        }
        let mut exponent = Some(0);
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            exponent = self.exponent()?;
        }
        match exponent {
            Some(exponent) => Ok(self.decimal(negative, whole, fraction, exponent)),
            None => Ok(hash(Kind::OddNumber, &self.json[start..self.at])),
        }
    }

    /// Reads at least one digit.
    fn digits(&mut self) -> Result<&'a [u8], DigestError> {
        let (json, start) = (self.json, self.at);
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match start == self.at {
            true => Err(self.error()),
            false => Ok(&json[start..self.at]),
        }
    }

    /// Reads an exponent behind its `e`; none if it is too long to calculate with.
    fn exponent(&mut self) -> Result<Option<i64>, DigestError> {
        let negative = self.peek() == Some(b'-');
        if let Some(b'-' | b'+') = self.peek() {
            self.at += 1;
        }
        let digits = self.digits()?;
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let digits = &digits[zeros..];
        if digits.len() > EXPONENT {
            return Ok(None);
        }
        let size = short(digits) as i64;
        Ok(Some(if negative { -size } else { size }))
    }

    fn decimal(&mut self, negative: bool, whole: &[u8], fraction: &[u8], exponent: i64) -> u128 {
        let exponent = exponent - fraction.len() as i64;
        if whole.len() + fraction.len() <= SHORT {
            let scale = 10u64.pow(fraction.len() as u32);
            return shortest(negative, short(whole) * scale + short(fraction), exponent);
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(whole);
        self.scratch.extend_from_slice(fraction);
        let is_zero = |digit: &&u8| **digit == b'0';
        let leading = self.scratch.iter().take_while(is_zero).count();
        let digits = &self.scratch[leading..];
        let trailing = digits.iter().rev().take_while(is_zero).count();
        let digits = &digits[..digits.len() - trailing];
        let exponent = exponent + trailing as i64;
        if digits.len() <= SHORT {
            return shortest(negative, short(digits), exponent);
        }
        let place = place(negative, 0, exponent);
        combine(Kind::LongNumber, hash(Kind::LongNumber, digits), place)
    }
}

/// The value of up to 19 digits.
fn short(digits: &[u8]) -> u64 {
    digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

/// The hash of a number after the zeros at its end have become part of the exponent.
fn shortest(negative: bool, mut digits: u64, mut exponent: i64) -> u128 {
    if digits == 0 {
        return place(false, 0, 0);
    }
    while digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    place(negative, digits, exponent)
}

/// Sixteen bytes, which is the most that hashes in a step.
fn place(negative: bool, digits: u64, exponent: i64) -> u128 {
    let signed = exponent * 2 + i64::from(negative);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&digits.to_le_bytes());
    bytes[8..].copy_from_slice(&signed.to_le_bytes());
    hash(Kind::Number, &bytes)
}
