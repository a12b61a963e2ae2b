//! Index patterns come from people: reading or matching one never panics, and a list reads back as it
//! is shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use search::IndexPatterns;

fuzz_target!(|input: (&str, &str, bool)| {
    let (list, name, hidden) = input;
    if let Ok(patterns) = list.parse::<IndexPatterns>() {
        assert_eq!(patterns.to_string().parse(), Ok(patterns.clone()));
        patterns.matches(name, hidden);
    }
});
