//! A YAML document as a tree whose every node knows where it stands.
//!
//! A loader that builds maps would lose two things this crate needs: the second of two equal keys
//! (to say on which lines both are) and a scalar's own text (`tenant: no` is the string `no`; what
//! a value means is decided by the flag it belongs to, not by YAML). So the tree is built from the
//! parser's events, keeps mappings as lists of pairs, and bounds depth and size.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// Deeper than any configuration, and shallow enough for the stack.
const MAX_DEPTH: usize = 32;
/// A few anchors can multiply into billions of nodes; a configuration has thousands at most.
const MAX_NODES: usize = 100_000;

/// A node and the line it starts on, counted from 1.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A scalar's text; `quoted` tells `""` from nothing and `"~"` from null.
    Scalar {
        text: String,
        quoted: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::Sequence(items) => items.iter().map(Node::size).sum(),
            Value::Mapping(pairs) => pairs.iter().map(|(k, v)| k.size() + v.size()).sum(),
        }
    }

    /// Whether YAML reads this as null: nothing at all, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Why a text is no YAML document, and where.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) reason: String,
}

impl SyntaxError {
    fn at(mark: Marker, reason: impl Into<String>) -> Self {
        Self {
            line: mark.line(),
            column: mark.col() + 1,
            reason: reason.into(),
        }
    }
}

impl From<ScanError> for SyntaxError {
    fn from(error: ScanError) -> Self {
        Self::at(*error.marker(), error.info())
    }
}

/// Reads the one document of `text`; an empty text has none.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    let mut tree = Tree::default();
    // A byte order mark is an editor's habit and no part of the document.
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) = event?;
        tree.accept(event, span.start)?;
    }
    Ok(tree.root)
}

/// The tree while it grows: the open collections, innermost last.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// In a mapping, the key whose value comes next.
    key: Option<Node>,
}

impl Tree {
    fn accept(&mut self, event: Event<'_>, mark: Marker) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                self.count(1, mark)?;
                let (text, quoted) = (text.into_owned(), style != ScalarStyle::Plain);
                let value = Value::Scalar { text, quoted };
                let line = mark.line();
                self.close(Node { line, value }, anchor);
            }
            Event::SequenceStart(anchor, _) => {
                self.open(Value::Sequence(Vec::new()), anchor, mark)?;
            }
            Event::MappingStart(anchor, _) => {
                self.open(Value::Mapping(Vec::new()), anchor, mark)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.close(open.node, open.anchor);
                }
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(SyntaxError::at(
                        mark,
                        "an alias stands inside its own anchor",
                    ));
                };
                self.count(node.size(), mark)?;
                // The line of the use, not of the anchor, is where the reader has to look.
                let line = mark.line();
                self.close(Node { line, ..node }, 0);
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                let reason = "a second document starts here; a configuration file holds one";
                return Err(SyntaxError::at(mark, reason));
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, value: Value, anchor: usize, mark: Marker) -> Result<(), SyntaxError> {
        if self.open.len() == MAX_DEPTH {
            return Err(SyntaxError::at(
                mark,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        self.count(1, mark)?;
        let node = Node {
            line: mark.line(),
            value,
        };
        self.open.push(Open {
            node,
            anchor,
            key: None,
        });
        Ok(())
    }

    /// Puts a finished node where it belongs: into the innermost open collection, else the root.
    fn close(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open {
                node: parent, key, ..
            }) => match &mut parent.value {
                Value::Sequence(items) => items.push(node),
                Value::Mapping(pairs) => match key.take() {
                    None => *key = Some(node),
                    Some(key) => pairs.push((key, node)),
                },
                Value::Scalar { .. } => {}
            },
        }
    }

    fn count(&mut self, nodes: usize, mark: Marker) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::at(
                mark,
                format!("more than {MAX_NODES} values"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> SyntaxError {
        parse(text).expect_err("the text is no document of ours")
    }

    #[test]
    fn equal_keys_are_both_kept_with_their_lines() {
        let root = parse("a: 1\n# between\na: [x, 'y']\n").unwrap().unwrap();
        let Value::Mapping(pairs) = root.value else {
            panic!("a mapping was written")
        };
        let lines: Vec<usize> = pairs.iter().map(|(key, _)| key.line).collect();
        assert_eq!(lines, [1, 3]);
        assert!(matches!(&pairs[1].1.value, Value::Sequence(items) if items.len() == 2));
    }

    #[test]
    fn an_alias_has_the_line_of_its_use() {
        let root = parse("a: &x 1\nb: *x\n").unwrap().unwrap();
        let Value::Mapping(pairs) = root.value else {
            panic!("a mapping was written")
        };
        assert_eq!(pairs[1].1.line, 2);
        assert!(matches!(&pairs[1].1.value, Value::Scalar { text, .. } if text == "1"));
    }

    #[test]
    fn empty_documents_are_none_and_second_ones_are_refused() {
        assert!(parse("").unwrap().is_none());
        assert!(parse("# only a comment\n").unwrap().is_none());
        assert_eq!(refused("a: 1\n---\nb: 2\n").line, 2);
    }

    #[test]
    fn bombs_of_depth_and_of_aliases_are_refused() {
        assert!(refused(&"[".repeat(100)).reason.contains("levels deep"));
        assert!(refused(&"- ".repeat(5_000)).reason.contains("levels deep"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let uses = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{uses}]\n"));
        }
        assert!(refused(&bomb).reason.contains("more than"));
        assert!(refused("a: &a [*a]").reason.contains("alias"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[-:a-z0-9 \\[\\]{}&*#'\"\\n,|>!?%@]{0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.reason.is_empty());
            }
        }
    }
}
