//! An object of which one level is opened: its fields stay places in its text until somebody wants one.

use std::borrow::Cow;

use bytes::BufMut;
use model::wire::write_text;

use super::{
    Node, covers,
    scan::{Scanner, Span},
};

/// An object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object<'a> {
    /// What it was read from, if it was.
    text: &'a str,
    fields: Vec<Field<'a>>,
}

/// A field of an object.
#[derive(Debug, Clone)]
enum Field<'a> {
    /// As it stands in the text. What its key says it means: nothing is escaped in it.
    Read { key: Span, value: Span },
    /// What its key means, and its value.
    Known(Box<(Cow<'a, str>, Node<'a>)>),
}

/// Memory for the fields of one document after the other: an allocator takes longer over it than reading does.
#[derive(Debug, Default)]
pub(crate) struct Memory<'a>(Vec<Field<'a>>);

impl<'a> Object<'a> {
    /// Cuts an object into its fields; `None` where the text is none.
    pub(super) fn read(text: &'a str, memory: &mut Memory<'a>) -> Option<Object<'a>> {
        let mut object = Object {
            text,
            fields: std::mem::take(&mut memory.0),
        };
        let mut scanner = Scanner::new(text)?;
        scanner.parts(*b"{}", |scanner| {
            let (key, is_escaped) = scanner.key()?;
            let value = scanner.value()?;
            if is_escaped {
                object.unescaped(key, value)
            } else {
                object.fields.push(Field::Read { key, value });
                Some(())
            }
        })?;
        scanner.is_over().then_some(object)
    }

    /// Adds a field whose key does not say what it means; `None` where it means nothing, as half of a surrogate pair.
    #[cold]
    fn unescaped(&mut self, key: Span, value: Span) -> Option<()> {
        let key = serde_json::from_str(key.of(self.text)).ok()?;
        self.push(key, Node::Raw(value.of(self.text)));
        Some(())
    }

    /// Leaves its memory to the next one.
    pub(super) fn leave(mut self, memory: &mut Memory<'a>) {
        self.fields.clear();
        memory.0 = self.fields;
    }

    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// The name of a field.
    pub(super) fn key(&self, at: usize) -> &[u8] {
        match &self.fields[at] {
            Field::Read { key, .. } => key.within_quotes().bytes_of(self.text),
            Field::Known(known) => known.0.as_bytes(),
        }
    }

    /// The text of a value that nobody has wanted yet, if it is neither object nor array.
    pub(super) fn untouched(&self, at: usize) -> Option<&'a str> {
        match &self.fields[at] {
            Field::Read { value, .. } => {
                let text = value.of(self.text);
                (!text.starts_with(['{', '['])).then_some(text)
            }
            Field::Known(_) => None,
        }
    }

    /// The value of a field.
    pub(super) fn value(&mut self, at: usize) -> &mut Node<'a> {
        &mut self.known(at).1
    }

    /// Calls the fields that a path means otherwise; what was called so before is gone.
    pub(super) fn rename(&mut self, path: &[String], new: &str) {
        let mut at = 0;
        while at < self.len() {
            let key = self.key(at);
            if covers(key, path) == path.len() {
                self.known(at).0 = new.to_owned().into();
            } else if key == new.as_bytes() {
                self.fields.remove(at);
                continue;
            }
            at += 1;
        }
    }

    fn known(&mut self, at: usize) -> &mut (Cow<'a, str>, Node<'a>) {
        let field = &mut self.fields[at];
        loop {
            match field {
                Field::Known(known) => return known,
                Field::Read { key, value } => {
                    let key = key.within_quotes().of(self.text).into();
                    let value = Node::Raw(value.of(self.text));
                    *field = Field::Known(Box::new((key, value)));
                }
            }
        }
    }

    /// The values of all fields.
    pub(super) fn values(&mut self, mut each: impl FnMut(&mut Node<'a>)) {
        (0..self.len()).for_each(|at| each(self.value(at)));
    }

    /// Adds a field at the end.
    pub(super) fn push(&mut self, key: String, value: Node<'a>) {
        let known = (key.into(), value);
        self.fields.push(Field::Known(Box::new(known)));
    }

    /// Takes a field out.
    pub(super) fn remove(&mut self, at: usize) -> Node<'a> {
        let value = std::mem::replace(self.value(at), Node::Raw("null"));
        self.fields.remove(at);
        value
    }

    /// All fields, each by itself.
    pub(super) fn into_fields(mut self) -> impl Iterator<Item = (String, Node<'a>)> {
        (0..self.len()).map(move |at| {
            let (key, value) = self.known(at);
            let value = std::mem::replace(value, Node::Raw("null"));
            (std::mem::take(key).into_owned(), value)
        })
    }

    /// Appends it as JSON. Neighbours that nobody has touched are copied together.
    pub(super) fn write(&self, json: &mut impl BufMut) {
        json.put_u8(b'{');
        let mut fields = self.fields.iter().peekable();
        let mut is_first = true;
        while let Some(field) = fields.next() {
            if !is_first {
                json.put_u8(b',');
            }
            is_first = false;
            match field {
                Field::Known(known) => {
                    write_text(json, &known.0);
                    json.put_u8(b':');
                    known.1.write(json);
                }
                Field::Read { key, value } => {
                    let mut to = value.to;
                    // A single byte between two of them is their comma.
                    while let Some(Field::Read { key, value }) = fields.peek()
                        && key.from == to + 1
                    {
                        to = value.to;
                        fields.next();
                    }
                    let from = key.from;
                    json.put_slice(Span { from, to }.of(self.text).as_bytes());
                }
            }
        }
        json.put_u8(b'}');
    }
}
