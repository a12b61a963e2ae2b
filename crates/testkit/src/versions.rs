//! The pins of `versions.env`.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The value of a key in `versions.env`.
pub(crate) fn pinned(key: &str) -> &'static str {
    static PINS: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
        include_str!("../../../versions.env")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect()
    });
    PINS.get(key)
        .unwrap_or_else(|| panic!("versions.env pins {key}"))
}
