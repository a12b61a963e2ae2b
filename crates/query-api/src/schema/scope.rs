//! Which of an index's fields a key may see, and the one way to a field by its name.

use crate::{
    problem::{Kind as ProblemKind, Problem},
    schema::{Field, Schema},
};

/// A name with `*` for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    pub(crate) fn new(text: &str) -> Glob {
        Glob(text.to_owned())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// Which fields may be seen: names and globs, those with a `-` in front taken away again. A name stands
/// for all that is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldScope {
    allowed: Vec<Glob>,
    denied: Vec<Glob>,
}

impl FieldScope {
    pub(crate) fn of<S: AsRef<str>>(patterns: &[S]) -> FieldScope {
        let mut scope = FieldScope::default();
        for pattern in patterns {
            match pattern.as_ref().strip_prefix('-') {
                Some(denied) => scope.denied.push(Glob::new(denied)),
                None => scope.allowed.push(Glob::new(pattern.as_ref())),
            }
        }
        scope
    }

    /// The names and globs without those taken away.
    pub(crate) fn includes(&self) -> Vec<&str> {
        self.allowed.iter().map(|glob| glob.0.as_str()).collect()
    }

    /// Whether everything may be seen.
    pub(crate) fn is_all(&self) -> bool {
        self.denied.is_empty() && self.allowed.iter().any(|glob| glob.0 == "*")
    }

    /// Whether the value at a path may be seen.
    pub(crate) fn allows(&self, path: &str) -> bool {
        let ends = path.match_indices('.').map(|(at, _)| at);
        let mut seen = false;
        for end in ends.chain([path.len()]) {
            let part = &path[..end];
            if self.denied.iter().any(|glob| glob.matches(part)) {
                return false;
            }
            seen |= self.allowed.iter().any(|glob| glob.matches(part));
        }
        seen
    }
}

/// A schema as one key sees it. A field outside the scope is as unknown as one that does not exist, so
/// nobody learns that it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScopedSchema<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) scope: &'a FieldScope,
}

impl<'a> ScopedSchema<'a> {
    /// The fields that may be seen, by name.
    pub(crate) fn fields(self) -> impl Iterator<Item = (&'a str, &'a Field)> {
        let all = self.schema.fields.iter();
        all.filter(move |(name, field)| self.shows(name, field))
            .map(|(name, field)| (name.as_str(), field))
    }

    /// The field of that name.
    ///
    /// # Errors
    /// When there is none, or it may not be seen.
    pub(crate) fn field(self, name: &str, parameter: &str) -> Result<&'a Field, Problem> {
        let found = self.schema.fields.get_key_value(name);
        match found.filter(|(name, field)| self.shows(name, field)) {
            Some((_, field)) => Ok(field),
            None => Err(Problem::of(
                ProblemKind::UnknownField,
                parameter,
                format!("{:?} has no field {name:?}", self.schema.name),
            )),
        }
    }

    fn shows(self, name: &str, field: &Field) -> bool {
        // Neither an alias nor a copy may be a way to a field that is hidden.
        self.scope.allows(name)
            && (field.alias_of.is_none() || self.scope.allows(&field.path))
            && field.copied_from.iter().all(|from| self.scope.allows(from))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (glob, name, expected) in [
            ("*", "anything", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*a", "aba", true),
            ("a*b*a", "aa", false),
            ("ab*ba", "aba", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(Glob::new(glob).matches(name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn a_name_stands_for_what_is_below_and_a_denied_one_too() {
        let scope = FieldScope::of(&["customer", "-customer.secret", "price*"]);
        assert!(scope.allows("customer.name") && scope.allows("price_eur"));
        assert!(!scope.allows("customer.secret") && !scope.allows("customer.secret.more"));
        assert!(!scope.allows("other") && !scope.is_all());
        assert!(FieldScope::of(&["*"]).is_all());
        assert!(!FieldScope::default().allows("x"));
    }

    #[test]
    fn a_hidden_field_cannot_be_reached_by_an_alias_and_is_as_unknown_as_none() {
        let schema = Schema::of(
            "m",
            "m",
            "u",
            &json!({ "properties": {
                "secret": { "type": "keyword" },
                "open": { "type": "alias", "path": "secret" },
            }}),
        );
        let scope = FieldScope::of(&["open"]);
        let scoped = ScopedSchema {
            schema: &schema,
            scope: &scope,
        };
        assert_eq!(scoped.fields().count(), 0);
        let hidden = scoped.field("secret", "secret").unwrap_err();
        let absent = scoped.field("absent", "absent").unwrap_err();
        assert_eq!(hidden.kind, absent.kind);
        assert_eq!(hidden.detail.replace("secret", "absent"), absent.detail);
    }

    #[test]
    fn a_hidden_field_cannot_be_reached_by_what_it_is_copied_to() {
        let schema = Schema::of(
            "m",
            "m",
            "u",
            &json!({ "properties": {
                "secret": { "type": "keyword", "copy_to": ["all", "gone"] },
                "title": { "type": "text", "copy_to": "all" },
                "all": { "type": "text" },
                "every": { "type": "alias", "path": "all" },
            }}),
        );
        let seen = |patterns: &[&str]| -> Vec<String> {
            let scope = FieldScope::of(patterns);
            let scoped = ScopedSchema {
                schema: &schema,
                scope: &scope,
            };
            scoped.fields().map(|(name, _)| name.to_owned()).collect()
        };
        assert_eq!(seen(&["*", "-secret"]), ["title"]);
        assert_eq!(seen(&["*"]), ["all", "every", "secret", "title"]);
    }
}
