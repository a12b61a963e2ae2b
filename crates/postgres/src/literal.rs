//! Values that consist of values: arrays, composites, ranges, hstore. Pure. Each is cut into the texts of
//! its parts; what is malformed is `None`, and becomes text.

/// An element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    Null,
    Text(String),
    Array(Vec<Element>),
}

/// `{1,NULL,"a b",{…}}`, with bounds in front (`[0:1]={…}`) or without. `delimiter` is the element
/// type's, nearly always a comma.
pub(crate) fn array(text: &str, delimiter: u8) -> Option<Vec<Element>> {
    let text = match text.starts_with('[') {
        true => text.split_once('=')?.1,
        false => text,
    };
    let mut cursor = Cursor::new(text);
    let elements = cursor.array(delimiter, 0)?;
    cursor.is_done().then_some(elements)
}

/// `(1,,"a b")`: an empty place is a null.
pub(crate) fn composite(text: &str) -> Option<Vec<Option<String>>> {
    let mut cursor = Cursor::new(text);
    cursor.eat(b'(')?;
    let mut fields = Vec::new();
    loop {
        fields.push(match cursor.peek()? {
            b',' | b')' => None,
            _ => Some(cursor.field(b",)")?),
        });
        match cursor.next()? {
            b',' => {}
            b')' => return cursor.is_done().then_some(fields),
            _ => return None,
        }
    }
}

/// A range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Range {
    Empty,
    Between {
        /// Nothing for no bound.
        lower: Option<String>,
        upper: Option<String>,
        includes_lower: bool,
        includes_upper: bool,
    },
}

/// `[1,5)`, `(,5]`, `empty`.
pub(crate) fn range(text: &str) -> Option<Range> {
    let mut cursor = Cursor::new(text);
    let range = cursor.range()?;
    cursor.is_done().then_some(range)
}

/// `{[1,5),[7,9)}`.
pub(crate) fn multirange(text: &str) -> Option<Vec<Range>> {
    let mut cursor = Cursor::new(text);
    cursor.eat(b'{')?;
    let mut ranges = Vec::new();
    if cursor.peek()? == b'}' {
        cursor.next();
        return cursor.is_done().then_some(ranges);
    }
    loop {
        ranges.push(cursor.range()?);
        match cursor.next()? {
            b',' => {}
            b'}' => return cursor.is_done().then_some(ranges),
            _ => return None,
        }
    }
}

/// `"a"=>"1", "b"=>NULL`.
pub(crate) fn hstore(text: &str) -> Option<Vec<(String, Option<String>)>> {
    let mut cursor = Cursor::new(text);
    let mut pairs = Vec::new();
    while !cursor.is_done() {
        let key = cursor.quoted()?;
        cursor.eat(b'=')?;
        cursor.eat(b'>')?;
        let value = match cursor.peek()? {
            b'"' => Some(cursor.quoted()?),
            _ => {
                for letter in *b"NULL" {
                    cursor.eat(letter)?;
                }
                None
            }
        };
        pairs.push((key, value));
        if cursor.eat(b',').is_some() {
            cursor.eat(b' ');
        }
    }
    Some(pairs)
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// As deep as an array can be; the server allows 6.
const DEEPEST: usize = 16;

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Cursor<'a> {
        Cursor {
            text: text.as_bytes(),
            at: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.at == self.text.len()
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn array(&mut self, delimiter: u8, depth: usize) -> Option<Vec<Element>> {
        self.eat(b'{')?;
        let mut elements = Vec::new();
        if self.eat(b'}').is_some() {
            return Some(elements);
        }
        loop {
            elements.push(match self.peek()? {
                b'{' if depth < DEEPEST => Element::Array(self.array(delimiter, depth + 1)?),
                b'"' => Element::Text(self.quoted()?),
                _ => {
                    let start = self.at;
                    let text = self.unquoted(&[delimiter, b'}'])?;
                    // A text NULL is quoted.
                    match &self.text[start..self.at] {
                        null if null.eq_ignore_ascii_case(b"NULL") => Element::Null,
                        _ => Element::Text(text),
                    }
                }
            });
            match self.next()? {
                b'}' => return Some(elements),
                byte if byte == delimiter => {}
                _ => return None,
            }
        }
    }

    fn range(&mut self) -> Option<Range> {
        if self.text[self.at..].starts_with(b"empty") {
            self.at += 5;
            return Some(Range::Empty);
        }
        let includes_lower = match self.next()? {
            b'[' => true,
            b'(' => false,
            _ => return None,
        };
        let lower = self.bound(b',')?;
        self.eat(b',')?;
        let upper = match self.peek()? {
            b')' | b']' => None,
            _ => Some(self.field(b")]")?),
        };
        let includes_upper = match self.next()? {
            b']' => true,
            b')' => false,
            _ => return None,
        };
        Some(Range::Between {
            lower,
            upper,
            includes_lower,
            includes_upper,
        })
    }

    fn bound(&mut self, end: u8) -> Option<Option<String>> {
        match self.peek()? == end {
            true => Some(None),
            false => Some(Some(self.field(&[end])?)),
        }
    }

    /// A value in a composite or range, of which any part can be quoted.
    fn field(&mut self, ends: &[u8]) -> Option<String> {
        let mut value = Vec::new();
        loop {
            match self.peek()? {
                b'"' => self.quoted_into(&mut value)?,
                b'\\' => {
                    self.at += 1;
                    value.push(self.next()?);
                }
                byte if ends.contains(&byte) => return String::from_utf8(value).ok(),
                byte => {
                    value.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn unquoted(&mut self, ends: &[u8]) -> Option<String> {
        let mut value = Vec::new();
        loop {
            match self.peek()? {
                b'\\' => {
                    self.at += 1;
                    value.push(self.next()?);
                }
                byte if ends.contains(&byte) => return String::from_utf8(value).ok(),
                byte => {
                    value.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = Vec::new();
        self.quoted_into(&mut value)?;
        String::from_utf8(value).ok()
    }

    /// A quote inside is written with a backslash, or twice.
    fn quoted_into(&mut self, value: &mut Vec<u8>) -> Option<()> {
        self.eat(b'"')?;
        loop {
            match self.next()? {
                b'\\' => value.push(self.next()?),
                b'"' if self.peek() == Some(b'"') => {
                    self.at += 1;
                    value.push(b'"');
                }
                b'"' => return Some(()),
                byte => value.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn text(text: &str) -> Element {
        Element::Text(text.to_owned())
    }

    #[test]
    fn arrays_have_bounds_nulls_quotes_and_dimensions() {
        assert_eq!(array("{}", b','), Some(vec![]));
        assert_eq!(
            array(r#"[0:1]={a,"b \"c\""}"#, b','),
            Some(vec![text("a"), text("b \"c\"")])
        );
        assert_eq!(
            array(r#"{NULL,"NULL",null,""}"#, b','),
            Some(vec![Element::Null, text("NULL"), Element::Null, text("")])
        );
        assert_eq!(
            array("{{1,2},{3,4}}", b','),
            Some(vec![
                Element::Array(vec![text("1"), text("2")]),
                Element::Array(vec![text("3"), text("4")])
            ])
        );
        assert_eq!(
            array("{(2,2),(1,1);(4,4),(3,3)}", b';'),
            Some(vec![text("(2,2),(1,1)"), text("(4,4),(3,3)")])
        );
        for torn in ["", "{", "{a", "{a}}", "{\"a}", "[0:1]"] {
            assert_eq!(array(torn, b','), None, "{torn}");
        }
    }

    #[test]
    fn composites_ranges_and_hstore_are_cut_into_their_parts() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            composite(r#"(1,,"a ""b"", c",x)"#),
            Some(vec![some("1"), None, some("a \"b\", c"), some("x")])
        );
        assert_eq!(
            range("[1,5)"),
            Some(Range::Between {
                lower: some("1"),
                upper: some("5"),
                includes_lower: true,
                includes_upper: false
            })
        );
        assert_eq!(
            range(r#"(,"2024-01-01 00:00:00"]"#),
            Some(Range::Between {
                lower: None,
                upper: some("2024-01-01 00:00:00"),
                includes_lower: false,
                includes_upper: true
            })
        );
        assert_eq!(range("empty"), Some(Range::Empty));
        assert_eq!(multirange("{}"), Some(vec![]));
        assert_eq!(multirange("{[1,2),[5,6)}").map(|r| r.len()), Some(2));
        assert_eq!(
            hstore(r#""a"=>"1", "b\"c"=>NULL"#),
            Some(vec![("a".to_owned(), some("1")), ("b\"c".to_owned(), None)])
        );
    }

    /// As the server writes (array_out).
    fn write_array(elements: &[Option<String>]) -> String {
        let parts: Vec<String> = elements
            .iter()
            .map(|element| match element {
                None => "NULL".to_owned(),
                Some(text) => {
                    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                }
            })
            .collect();
        format!("{{{}}}", parts.join(","))
    }

    /// As the server writes (record_out).
    fn write_composite(fields: &[Option<String>]) -> String {
        let parts: Vec<String> = fields
            .iter()
            .map(|field| match field {
                None => String::new(),
                Some(text) => {
                    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
                }
            })
            .collect();
        format!("({})", parts.join(","))
    }

    proptest! {
        #[test]
        fn an_array_is_read_back(elements in vec(option::of(any::<String>()), 0..6)) {
            let expected: Vec<Element> = elements
                .iter()
                .map(|e| e.clone().map_or(Element::Null, Element::Text))
                .collect();
            prop_assert_eq!(array(&write_array(&elements), b','), Some(expected));
        }

        #[test]
        fn a_composite_is_read_back(fields in vec(option::of(any::<String>()), 1..6)) {
            prop_assert_eq!(composite(&write_composite(&fields)), Some(fields));
        }

        #[test]
        fn any_text_is_cut_or_refused_without_a_panic(text: String) {
            array(&text, b',');
            composite(&text);
            range(&text);
            multirange(&text);
            hstore(&text);
        }
    }
}
