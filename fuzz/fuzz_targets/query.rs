//! Filters and bodies come from anybody: reading one never panics, however it is nested.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (name, value, body) = input;
    query_api::reads_filter(name, value);
    query_api::reads_body(body);
});
