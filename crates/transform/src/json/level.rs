//! Opening a single level of a value: what is below stays text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Node, Text};

/// Most documents have fewer fields, and an object without any memory of its own is rare.
const FIELDS: usize = 16;

/// Cuts an object or an array into its parts. From text rather than bytes, whose parts would be checked one by one.
pub(super) fn open(text: &str) -> serde_json::Result<Node<'_>> {
    serde_json::from_str::<Level<'_>>(text).map(|level| level.0)
}

struct Level<'a>(Node<'a>);

impl<'de> Deserialize<'de> for Level<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LevelVisitor).map(Level)
    }
}

struct LevelVisitor;

impl<'de> Visitor<'de> for LevelVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut entries = Vec::with_capacity(FIELDS);
        while let Some((key, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            entries.push((key.0, Node::Raw(value)));
        }
        Ok(Node::Object(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            items.push(Node::Raw(item));
        }
        Ok(Node::Array(items))
    }
}
