//! Subjects and subject filters come from streams and from people: reading one never panics, and what
//! is a subject is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{Subject, expand_filter, token};

fuzz_target!(|text: &str| {
    if let Ok(subject) = text.parse::<Subject>() {
        assert_eq!(subject.to_string(), text);
    }
    if let Ok(filter) = expand_filter(text) {
        assert_eq!(
            expand_filter(&filter),
            Ok(filter.clone()),
            "expanding twice changes nothing"
        );
    }
    assert_eq!(token::decode(&token::encode(text)).as_deref(), Some(text));
    if let Some(decoded) = token::decode(text) {
        assert_eq!(token::encode(&decoded), text);
    }
});
