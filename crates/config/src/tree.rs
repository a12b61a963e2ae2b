//! A YAML or JSON document with a shape of its own, such as a rule file: read key by key, with everything
//! that is wrong gathered and said at once.

use std::{cell::RefCell, fmt};

use crate::{
    Issue,
    suggest::nearest,
    yaml::{self, Value},
};

pub use crate::yaml::Node;

/// What was found to be wrong in one document, in the order of its lines.
#[derive(Debug, Default)]
pub struct Issues {
    name: String,
    found: RefCell<Vec<Issue>>,
}

impl Issues {
    /// Nothing yet, in a document that goes by this name, such as its path.
    pub fn of(name: impl Into<String>) -> Issues {
        Issues {
            name: name.into(),
            found: RefCell::default(),
        }
    }

    /// Adds what is wrong on a line, at the path of a key such as `filters.rules[0].keep`.
    pub fn add(&self, line: usize, path: &str, reason: impl Into<String>) {
        let at = match path {
            "" => String::new(),
            path => format!(": `{path}`"),
        };
        self.found.borrow_mut().push(Issue {
            line,
            place: format!("{}:{line}{at}", self.name),
            reason: reason.into(),
        });
    }

    /// Adds what is wrong with no line of its own.
    pub fn add_general(&self, reason: impl Into<String>) {
        self.found.borrow_mut().push(Issue {
            line: 0,
            place: self.name.clone(),
            reason: reason.into(),
        });
    }

    /// Reads a document; `None` where it is empty, or no YAML, which is noted.
    pub fn parse(&self, text: &str) -> Option<Node> {
        match yaml::parse(text) {
            Ok(root) => root.filter(|root| !root.is_null()),
            Err(error) => {
                let reason = format!("not valid YAML, column {}: {}", error.column, error.reason);
                self.add(error.line, "", reason);
                None
            }
        }
    }

    /// Everything that was found.
    pub fn into_vec(self) -> Vec<Issue> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|issue| issue.line);
        found
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }
}

/// A node and where it stands.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a Node,
    path: &'a str,
    issues: &'a Issues,
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.path).finish()
    }
}

impl<'a> Place<'a> {
    /// A node at a path.
    pub fn new(node: &'a Node, path: &'a str, issues: &'a Issues) -> Place<'a> {
        Place { node, path, issues }
    }

    /// Where it stands, such as `filters.rules[0].keep`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Notes what is wrong here.
    pub fn wrong(&self, reason: impl Into<String>) {
        self.issues.add(self.node.line, self.path, reason);
    }

    /// The text of a scalar; anything else is noted.
    pub fn text(&self) -> Option<&'a str> {
        let text = self.node.text().filter(|_| !self.node.is_null());
        if text.is_none() {
            self.wrong("a single value is wanted here");
        }
        text
    }

    /// A scalar read as a value; what does not parse is noted.
    pub fn parse<T: std::str::FromStr<Err: fmt::Display>>(&self) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(error.to_string());
                None
            }
        }
    }

    /// The texts of a list of scalars, or of one scalar that is cut at its commas.
    pub fn texts(&self) -> Option<Vec<&'a str>> {
        match self.node.items() {
            None => {
                let parts = self.text()?.split(',').map(str::trim);
                Some(parts.filter(|part| !part.is_empty()).collect())
            }
            Some(items) => {
                let texts = items.iter().map(Node::text).collect::<Option<Vec<_>>>();
                if texts.is_none() {
                    self.wrong("a list of single values is wanted here");
                }
                texts
            }
        }
    }

    /// Calls `each` with every item of a list, or with the node itself where it is none.
    pub fn each(&self, mut each: impl FnMut(Place<'_>)) {
        match self.node.items() {
            None => each(*self),
            Some(items) => {
                for (at, node) in items.iter().enumerate() {
                    let path = format!("{}[{at}]", self.path);
                    each(Place::new(node, &path, self.issues));
                }
            }
        }
    }

    /// Calls `read` with the entries of a mapping; anything else is noted, as are keys that `read` has not
    /// asked for, and those that are there twice.
    pub fn table<T>(&self, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        let Value::Mapping(pairs) = &self.node.value else {
            self.wrong("`key: value` lines are wanted here");
            return None;
        };
        let table = Table {
            place: *self,
            pairs,
            known: RefCell::default(),
        };
        let value = read(&table);
        table.check();
        Some(value)
    }
}

/// The entries of a mapping.
#[derive(Debug)]
pub struct Table<'a> {
    place: Place<'a>,
    pairs: &'a [(Node, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// Where it stands.
    pub fn place(&self) -> Place<'a> {
        self.place
    }

    /// Calls `read` with the value of a key, if it is there.
    pub fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Place<'_>) -> Option<T>,
    ) -> Option<T> {
        self.known.borrow_mut().push(key);
        let (_, node) = self
            .pairs
            .iter()
            .find(|(name, _)| name.text() == Some(key))?;
        let path = match self.place.path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        read(Place::new(node, &path, self.place.issues))
    }

    /// The same where the key has to be there.
    pub fn need<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Place<'_>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.borrow_mut().push(key);
            self.place.wrong(format!("`{key}` is missing"));
            return None;
        }
        self.get(key, read)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, _)| name.text() == Some(key))
    }

    /// The line of a key; the mapping's own where it is not there.
    pub fn line(&self, key: &str) -> usize {
        let mut pairs = self.pairs.iter();
        pairs
            .find(|(name, _)| name.text() == Some(key))
            .map_or(self.place.node.line, |(name, _)| name.line)
    }

    /// Every key and its value, whatever the keys are.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let pairs = self.pairs.iter();
        pairs.filter_map(|(key, value)| {
            let key = key.text()?;
            Some((key, value))
        })
    }

    fn check(&self) {
        let known = self.known.borrow();
        for (at, (key, _)) in self.pairs.iter().enumerate() {
            let name = key.text().unwrap_or("?");
            let mut earlier = self.pairs[..at].iter();
            let reason =
                if let Some((first, _)) = earlier.find(|(other, _)| other.text() == Some(name)) {
                    format!(
                        "`{name}` was given before, on line {}; keep one",
                        first.line
                    )
                } else if known.is_empty() || known.contains(&name) {
                    continue;
                } else if let Some(near) = nearest(name, known.iter().copied()) {
                    format!("there is no `{name}` here; did you mean `{near}`?")
                } else {
                    format!("there is no `{name}` here; there are {}", known.join(", "))
                };
            self.place.issues.add(key.line, self.place.path, reason);
        }
    }
}

impl Node {
    /// The line it begins on, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The text of a scalar, as it was written.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            Value::Scalar { .. } | Value::Mapping(_) => None,
        }
    }

    /// The keys of a mapping; none of anything else.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let pairs = match &self.value {
            Value::Mapping(pairs) => pairs.as_slice(),
            Value::Scalar { .. } | Value::Sequence(_) => &[],
        };
        pairs.iter().filter_map(|(key, _)| key.text())
    }

    /// Whether it is a mapping.
    pub fn is_table(&self) -> bool {
        matches!(self.value, Value::Mapping(_))
    }

    /// What it is as JSON: plain scalars that read as a number, a boolean or null are one, everything else
    /// is text.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Scalar { text, quoted: true } => Json::String(text.clone()),
            Value::Scalar { text, .. } => match text.as_str() {
                "" | "~" | "null" => Json::Null,
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                text => match serde_json::from_str::<serde_json::Number>(text) {
                    Ok(number) => Json::Number(number),
                    Err(_) => Json::String(text.to_owned()),
                },
            },
            Value::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Value::Mapping(pairs) => {
                let pairs = pairs.iter();
                let entry = |(key, value): &(Node, Node)| {
                    (key.text().unwrap_or_default().to_owned(), value.to_json())
                };
                Json::Object(pairs.map(entry).collect())
            }
        }
    }
}
