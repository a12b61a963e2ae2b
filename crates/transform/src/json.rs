//! A JSON document that is opened only where somebody looks.
//!
//! Every value is a slice of the original text until a path leads through it; what nobody touches is
//! written back byte by byte, so that neither the order of keys nor a number's digits change.
//!
//! A path `a.b` means the field `b` in `a`, as search engines read it: `{"a":{"b":1}}`, `{"a.b":1}`
//! and, for each element, `{"a":[{"b":1},{"b":2}]}`.

mod object;
mod path;
mod scan;

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use model::wire::write_text;
use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) use object::Memory;
use object::Object;
pub(crate) use path::Path;
use path::covers;
use scan::Scanner;

/// What documents are written on, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Paper {
    line: Vec<u8>,
    /// Where small ones are kept together: memory for each would take longer than writing it.
    page: BytesMut,
}

impl Paper {
    /// How much memory is taken for small ones at once, in bytes.
    const PAGE: usize = 64 << 10;

    /// Takes away what was written.
    fn take(&mut self) -> Bytes {
        if self.line.len() > Paper::PAGE / 4 {
            return std::mem::take(&mut self.line).into();
        }
        if self.page.capacity() < self.line.len() {
            self.page.reserve(Paper::PAGE);
        }
        self.page.extend_from_slice(&self.line);
        self.line.clear();
        self.page.split().freeze()
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Node<'a> {
    /// One that nobody has looked into.
    Raw(&'a str),
    /// A new one, as JSON text.
    Text(String),
    Object(Object<'a>),
    Array(Vec<Node<'a>>),
}

/// Why a change of a document is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("the document is not JSON: {0}")]
    Malformed(String),
    #[error("the document is not a JSON object")]
    NoObject,
    #[error("`{0}` is a single value, so nothing can be put below it")]
    InTheWay(String),
}

impl<'a> Node<'a> {
    /// A document.
    pub(crate) fn document(bytes: &'a [u8]) -> Result<Node<'a>, JsonError> {
        Node::document_in(bytes, &mut Memory::default())
    }

    /// The same in memory that another document has left.
    pub(crate) fn document_in(
        bytes: &'a [u8],
        memory: &mut Memory<'a>,
    ) -> Result<Node<'a>, JsonError> {
        let text = str::from_utf8(bytes);
        let text = text.map_err(|error| JsonError::Malformed(error.to_string()))?;
        // One pass over the text checks all of it and opens the first level.
        if let Some(object) = Object::read(text, memory) {
            return Ok(Node::Object(object));
        }
        match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Err(JsonError::NoObject),
            Err(error) => Err(JsonError::Malformed(error.to_string())),
        }
    }

    /// Leaves its memory to the next one.
    pub(crate) fn leave(self, memory: &mut Memory<'a>) {
        if let Node::Object(object) = self {
            object.leave(memory);
        }
    }

    /// The JSON text of a value that is neither object nor array.
    pub(crate) fn scalar(&self) -> Option<&str> {
        let text = match self {
            Node::Raw(raw) => *raw,
            Node::Text(text) => text,
            Node::Object(_) | Node::Array(_) => return None,
        };
        (!text.starts_with(['{', '['])).then_some(text)
    }

    /// Opens one level of it.
    fn open(&mut self) -> &mut Node<'a> {
        match self {
            Node::Raw(raw) => {
                // Whoever has cut it out has checked it, so that this does not fail.
                let opened = match raw.as_bytes().first() {
                    Some(b'{') => Object::read(raw, &mut Memory::default()).map(Node::Object),
                    Some(b'[') => items(raw).map(Node::Array),
                    _ => None,
                };
                if let Some(opened) = opened {
                    *self = opened;
                }
            }
            Node::Text(text) if text.starts_with(['{', '[']) => {
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
                    *self = from_value(value);
                }
            }
            _ => {}
        }
        self
    }

    /// Calls `each` with every value at a path; `false` from it ends the search. Arrays that stand at its end
    /// are given as they are.
    pub(crate) fn at(
        &mut self,
        path: &[String],
        each: &mut dyn FnMut(&mut Node<'a>) -> bool,
    ) -> bool {
        if path.is_empty() {
            return each(self);
        }
        match self.open() {
            Node::Object(object) => {
                (0..object.len()).all(|at| match covers(object.key(at), path) {
                    0 => true,
                    names => object.value(at).at(&path[names..], each),
                })
            }
            Node::Array(items) => items.iter_mut().all(|item| item.at(path, each)),
            Node::Raw(_) | Node::Text(_) => true,
        }
    }

    /// Calls `each` with every single value in it: itself, or what its arrays and objects hold.
    pub(crate) fn leaves(&mut self, each: &mut dyn FnMut(&mut Node<'a>)) {
        match self.open() {
            Node::Object(object) => object.values(|value| value.leaves(each)),
            Node::Array(items) => items.iter_mut().for_each(|item| item.leaves(each)),
            leaf => each(leaf),
        }
    }

    /// Calls `each` with every single value at a path, also those in arrays, until it says `true`; says
    /// whether it did.
    pub(crate) fn any(&mut self, path: &Path, each: &mut dyn FnMut(&str) -> bool) -> bool {
        self.any_below(path.names(), each)
    }

    fn any_below(&mut self, path: &[String], each: &mut dyn FnMut(&str) -> bool) -> bool {
        if path.is_empty() {
            return self.any_element(each);
        }
        match self.open() {
            Node::Object(object) => {
                (0..object.len()).any(|at| match covers(object.key(at), path) {
                    0 => false,
                    names => match object.untouched(at).filter(|_| names == path.len()) {
                        Some(text) => each(text),
                        None => object.value(at).any_below(&path[names..], each),
                    },
                })
            }
            Node::Array(items) => items.iter_mut().any(|item| item.any_below(path, each)),
            Node::Raw(_) | Node::Text(_) => false,
        }
    }

    fn any_element(&mut self, each: &mut dyn FnMut(&str) -> bool) -> bool {
        if let Some(text) = self.scalar() {
            return each(text);
        }
        match self.open() {
            Node::Array(items) => items.iter_mut().any(|item| item.any_element(each)),
            // There is something, which is all that can be said of an object.
            _ => each("{}"),
        }
    }

    /// Takes every value at a path out of it.
    pub(crate) fn take(&mut self, path: &[String], taken: &mut Vec<Node<'a>>) {
        match self.open() {
            Node::Object(object) => {
                let mut at = 0;
                while at < object.len() {
                    match covers(object.key(at), path) {
                        0 => at += 1,
                        names if names == path.len() => taken.push(object.remove(at)),
                        names => {
                            object.value(at).take(&path[names..], taken);
                            at += 1;
                        }
                    }
                }
            }
            Node::Array(items) => items.iter_mut().for_each(|item| item.take(path, taken)),
            Node::Raw(_) | Node::Text(_) => {}
        }
    }

    /// Gives a field another last name, in every object that has it; what had that name is replaced.
    pub(crate) fn rename(&mut self, path: &[String], to: &str) {
        match self.open() {
            Node::Object(object) => {
                let mut is_there = false;
                for at in 0..object.len() {
                    let names = covers(object.key(at), path);
                    is_there |= names == path.len();
                    if names > 0 && names < path.len() {
                        object.value(at).rename(&path[names..], to);
                    }
                }
                match path {
                    _ if !is_there => {}
                    [_] => object.rename(path, to),
                    // A key with dots in it keeps what stands before the last.
                    [above @ .., _] => object.rename(path, &format!("{}.{to}", above.join("."))),
                    [] => {}
                }
            }
            Node::Array(items) => items.iter_mut().for_each(|item| item.rename(path, to)),
            Node::Raw(_) | Node::Text(_) => {}
        }
    }

    /// Puts a value at a path, in every element of the arrays on the way; makes the objects that are missing.
    pub(crate) fn put(&mut self, path: &[String], value: &Node<'a>) -> Result<(), JsonError> {
        let Some((first, rest)) = path.split_first() else {
            *self = value.clone();
            return Ok(());
        };
        match self.open() {
            Node::Array(items) => items.iter_mut().try_for_each(|item| item.put(path, value)),
            Node::Object(object) => {
                for at in 0..object.len() {
                    let names = covers(object.key(at), path);
                    if names > 0 {
                        return object.value(at).put(&path[names..], value);
                    }
                }
                let mut new = value.clone();
                for name in rest.iter().rev() {
                    let mut around = Object::default();
                    around.push(name.clone(), new);
                    new = Node::Object(around);
                }
                object.push(first.clone(), new);
                Ok(())
            }
            scalar if scalar.scalar() == Some("null") => {
                *scalar = Node::Object(Object::default());
                scalar.put(path, value)
            }
            _ => Err(JsonError::InTheWay(path.join("."))),
        }
    }

    /// Lifts what the objects at a path hold into the object around them, with the names joined. An empty path
    /// means the document itself.
    pub(crate) fn flatten(&mut self, path: &[String], separator: &str) {
        let Node::Object(object) = self.open() else {
            if let Node::Array(items) = self {
                items
                    .iter_mut()
                    .for_each(|item| item.flatten(path, separator));
            }
            return;
        };
        if path.len() > 1 {
            for at in 0..object.len() {
                if object.key(at) == path[0].as_bytes() {
                    object.value(at).flatten(&path[1..], separator);
                }
            }
            return;
        }
        let mut flat = Object::default();
        for (key, mut value) in std::mem::take(object).into_fields() {
            let meant = path.first().is_none_or(|name| key == *name);
            match meant && matches!(value.open(), Node::Object(_)) {
                true => value.spill(key, separator, &mut flat),
                false => flat.push(key, value),
            }
        }
        *object = flat;
    }

    fn spill(mut self, name: String, separator: &str, into: &mut Object<'a>) {
        match self.open() {
            Node::Object(object) if object.len() > 0 => {
                for (key, value) in std::mem::take(object).into_fields() {
                    value.spill(format!("{name}{separator}{key}"), separator, into);
                }
            }
            _ => into.push(name, self),
        }
    }

    /// The value as JSON, in memory for `length` bytes at first.
    pub(crate) fn to_json(&self, length: usize, paper: &mut Paper) -> Bytes {
        paper.line.reserve(length);
        self.write(&mut paper.line);
        paper.take()
    }

    /// Appends the value as JSON.
    fn write(&self, json: &mut impl BufMut) {
        match self {
            Node::Raw(raw) => json.put_slice(raw.as_bytes()),
            Node::Text(text) => json.put_slice(text.as_bytes()),
            Node::Object(object) => object.write(json),
            Node::Array(items) => {
                json.put_u8(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        json.put_u8(b',');
                    }
                    item.write(json);
                }
                json.put_u8(b']');
            }
        }
    }

    /// A text as a value.
    pub(crate) fn text(text: &str) -> Node<'a> {
        let mut json = Vec::with_capacity(text.len() + 2);
        write_text(&mut json, text);
        Node::Text(String::from_utf8(json).unwrap_or_default())
    }
}

/// Cuts an array into its items; `None` where the text is none.
fn items(text: &str) -> Option<Vec<Node<'_>>> {
    let mut scanner = Scanner::new(text)?;
    let mut items = Vec::new();
    scanner.parts(*b"[]", |scanner| {
        items.push(Node::Raw(scanner.value()?.of(text)));
        Some(())
    })?;
    scanner.is_over().then_some(items)
}

/// What a text is that stands in JSON as `json`; numbers and the like stand for themselves.
pub(crate) fn plain(json: &str) -> Cow<'_, str> {
    match json.starts_with('"') {
        false => Cow::Borrowed(json),
        true => serde_json::from_str::<Text<'_>>(json).map_or(Cow::Borrowed(json), |text| text.0),
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn from_value<'a>(value: serde_json::Value) -> Node<'a> {
    match value {
        serde_json::Value::Object(entries) => {
            let mut object = Object::default();
            for (key, value) in entries {
                object.push(key, from_value(value));
            }
            Node::Object(object)
        }
        serde_json::Value::Array(items) => Node::Array(items.into_iter().map(from_value).collect()),
        scalar => Node::Text(scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn changed(document: &str, change: impl FnOnce(&mut Node<'_>)) -> String {
        let mut node = Node::document(document.as_bytes()).unwrap();
        change(&mut node);
        String::from_utf8(node.to_json(0, &mut Paper::default()).into()).unwrap()
    }

    #[test]
    fn what_nobody_touches_stays_byte_by_byte() {
        let document =
            r#"{"n": 1.50e3, "big":123456789012345678901234567890,"z":{"y" : [1, 2]},"a":"é"}"#;
        let after = changed(document, |node| {
            node.put(path("a").names(), &Node::text("x")).unwrap();
        });
        assert_eq!(
            after,
            r#"{"n": 1.50e3,"big":123456789012345678901234567890,"z":{"y" : [1, 2]},"a":"x"}"#
        );
    }

    #[test]
    fn a_path_means_nested_dotted_and_repeated_fields() {
        let document =
            r#"{"a":{"b":1},"a.b":2,"x":[{"a":{"b":3}}],"a":[{"b":4},{"c":0,"b":[5,6]}]}"#;
        let mut node = Node::document(document.as_bytes()).unwrap();
        let mut found = Vec::new();
        node.any(&path("a.b"), &mut |text| {
            found.push(text.to_owned());
            false
        });
        assert_eq!(found, ["1", "2", "4", "5", "6"]);
    }

    #[test]
    fn values_are_taken_renamed_and_put() {
        let document = r#"{"a":{"b":1,"c":2},"l":[{"b":1},{"b":2}]}"#;
        assert_eq!(
            changed(document, |n| n.take(path("a.b").names(), &mut Vec::new())),
            r#"{"a":{"c":2},"l":[{"b":1},{"b":2}]}"#
        );
        assert_eq!(
            changed(document, |n| n.rename(path("l.b").names(), "d")),
            r#"{"a":{"b":1,"c":2},"l":[{"d":1},{"d":2}]}"#
        );
        assert_eq!(
            changed(document, |n| n.rename(path("a.b").names(), "c")),
            r#"{"a":{"c":1},"l":[{"b":1},{"b":2}]}"#,
            "what had the name is replaced"
        );
        assert_eq!(
            changed(document, |n| n
                .put(path("a.x.y").names(), &Node::text("new"))
                .unwrap()),
            r#"{"a":{"b":1,"c":2,"x":{"y":"new"}},"l":[{"b":1},{"b":2}]}"#
        );
        let mut node = Node::document(document.as_bytes()).unwrap();
        let refused = node.put(path("a.b.c").names(), &Node::text("x"));
        assert!(matches!(refused, Err(JsonError::InTheWay(_))));
    }

    #[test]
    fn objects_are_flattened_and_arrays_are_not() {
        let document = r#"{"a":{"b":{"c":1},"d":[{"e":2}],"f":{}},"g":{"h":3}}"#;
        assert_eq!(
            changed(document, |n| n.flatten(path("a").names(), "_")),
            r#"{"a_b_c":1,"a_d":[{"e":2}],"a_f":{},"g":{"h":3}}"#
        );
        assert_eq!(
            changed(document, |n| n.flatten(&[], ".")),
            r#"{"a.b.c":1,"a.d":[{"e":2}],"a.f":{},"g.h":3}"#
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        assert!(matches!(
            Node::document(b"{\"a\":"),
            Err(JsonError::Malformed(_))
        ));
        assert!(matches!(
            Node::document(b"{\"a\":\"\xff\"}"),
            Err(JsonError::Malformed(_))
        ));
        assert!(matches!(Node::document(b"[1]"), Err(JsonError::NoObject)));
        assert!(matches!(Node::document(b"7"), Err(JsonError::NoObject)));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c.é\"\\\\]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c.\"é]{1,3}", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        /// Looking anywhere changes nothing, and what is put is found.
        #[test]
        fn looking_changes_nothing_and_what_is_put_is_found(value in any_json(), names in "[a-c](\\.[a-c]){0,3}") {
            let document = json!({ "a": value }).to_string();
            let path = path(&names);
            let looked = changed(&document, |node| {
                node.any(&path, &mut |_| false);
                node.leaves(&mut |_| {});
            });
            prop_assert_eq!(
                serde_json::from_str::<Value>(&looked).unwrap(),
                serde_json::from_str::<Value>(&document).unwrap()
            );
            let mut node = Node::document(document.as_bytes()).unwrap();
            if node.put(path.names(), &Node::text("found")).is_ok() {
                let empty_array_on_the_way = !node.any(&path, &mut |text| text == "\"found\"");
                prop_assert!(!empty_array_on_the_way || document.contains("[]"), "{document}");
            }
            let mut node = Node::document(document.as_bytes()).unwrap();
            node.take(path.names(), &mut Vec::new());
            prop_assert!(!node.any(&path, &mut |_| true), "it is still there");
        }
    }
}
