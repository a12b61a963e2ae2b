//! Any line is some row of a COPY, and any text of any type is one JSON value.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use postgres::{Type, copy};
use serde_json::value::RawValue;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (kind, line) = input;
    let inner = Arc::new(Type::Numeric);
    let of = match kind % 9 {
        0 => Type::Date,
        1 => Type::Timestamp,
        2 => Type::Bytes,
        3 => Type::Point,
        4 => Type::Hstore,
        5 => Type::Range(inner),
        6 => Type::MultiRange(inner),
        7 => Type::Array(inner, b','),
        _ => Type::Composite([("a".to_owned(), inner)].into()),
    };
    for value in copy::row(&line).flatten() {
        let Ok(text) = std::str::from_utf8(&value) else {
            continue;
        };
        let mut json = Vec::new();
        of.write(&mut json, text);
        serde_json::from_slice::<&RawValue>(&json).expect("it is one JSON value");
    }
});
