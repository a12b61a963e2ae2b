//! Filters in PostgREST's notation: `price=gte.10`, `or=(a.eq.1,not.and(b.gt.2,c.is.null))`.

use crate::{
    problem::{Kind, Problem},
    query::list::{bracketed, cut, unquote},
    schema::Operator,
};

/// However a filter is written, no more than this is descended into; the configured limit is lower.
const DEEPEST: usize = 32;

/// A condition on documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Test(Test),
}

/// A condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) field: String,
    pub(crate) operator: Operator,
    /// One, but for `in`.
    pub(crate) values: Vec<String>,
    /// Where it was given.
    pub(crate) parameter: String,
}

impl Filter {
    /// A parameter of the URL that is no other: a field's name, or `and` and `or`, maybe with `not.`.
    pub(crate) fn of_parameter(name: &str, value: &str) -> Result<Filter, Problem> {
        let (is_negated, bare) = match name.strip_prefix("not.") {
            Some(bare) => (true, bare),
            None => (false, name),
        };
        let reader = Reader { parameter: name };
        match bare {
            "and" | "or" => {
                let inner = bracketed(value)
                    .ok_or_else(|| reader.refuse(format!("{value:?} is not in brackets")))?;
                let group = reader.group(bare, inner, 1)?;
                Ok(negated(group, is_negated))
            }
            _ => reader.test(name, value, false),
        }
    }

    /// How deep it goes and how many tests it has; a group is at least one.
    pub(crate) fn cost(&self) -> (usize, usize) {
        match self {
            Filter::Test(test) => (1, test.values.len().max(1)),
            Filter::Not(inner) => inner.cost(),
            Filter::All(inner) | Filter::Any(inner) => {
                let costs = inner.iter().map(Filter::cost);
                let (depth, tests) =
                    costs.fold((1, 0), |sum, cost| (sum.0.max(cost.0 + 1), sum.1 + cost.1));
                (depth, tests.max(1))
            }
        }
    }
}

pub(crate) fn negated(filter: Filter, is_negated: bool) -> Filter {
    if is_negated {
        Filter::Not(Box::new(filter))
    } else {
        filter
    }
}

struct Reader<'a> {
    parameter: &'a str,
}

impl Reader<'_> {
    fn refuse(&self, detail: impl Into<String>) -> Problem {
        Problem::of(Kind::BadParameter, self.parameter, detail)
    }

    fn group(&self, name: &str, inner: &str, depth: usize) -> Result<Filter, Problem> {
        if depth > DEEPEST {
            let detail = format!("brackets go deeper than {DEEPEST}");
            return Err(Problem::of(Kind::TooCostly, self.parameter, detail));
        }
        let parts = cut(inner).map_err(|why| self.refuse(why))?;
        let members: Result<Vec<Filter>, Problem> = parts
            .into_iter()
            .map(|part| self.member(part, depth))
            .collect();
        Ok(match name {
            "and" => Filter::All(members?),
            _ => Filter::Any(members?),
        })
    }

    /// `field.op.value`, `and(...)`, `or(...)`, each maybe with `not.` before it.
    fn member(&self, text: &str, depth: usize) -> Result<Filter, Problem> {
        let text = text.trim();
        let (is_negated, bare) = match text.strip_prefix("not.") {
            Some(bare) => (true, bare),
            None => (false, text),
        };
        for name in ["and", "or"] {
            if let Some(inner) = bare.strip_prefix(name).and_then(bracketed) {
                return Ok(negated(self.group(name, inner, depth + 1)?, is_negated));
            }
        }
        let (field, rest) = self.field(text)?;
        self.test(&field, rest, true)
    }

    /// Cuts the field's name off: it ends before the first word that is an operator or `not`. A name in
    /// which such a word occurs is written in quotes.
    fn field<'t>(&self, text: &'t str) -> Result<(String, &'t str), Problem> {
        if text.starts_with('"') {
            let mut is_escaped = false;
            let end = text.char_indices().skip(1).find(|(_, c)| {
                let is_end = *c == '"' && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                is_end
            });
            let end = end
                .map(|(at, _)| at + 1)
                .ok_or_else(|| self.refuse("a \" has no end"))?;
            let name = unquote(&text[..end]).map_err(|why| self.refuse(why))?;
            let rest = text[end..].strip_prefix('.');
            let rest = rest.ok_or_else(|| self.refuse(format!("{text:?} has no operator")))?;
            return Ok((name, rest));
        }
        for (at, _) in text.match_indices('.') {
            let word = text[at + 1..].split('.').next().unwrap_or_default();
            if at > 0 && (word == "not" || Operator::named(word).is_some()) {
                return Ok((text[..at].to_owned(), &text[at + 1..]));
            }
        }
        Err(Problem::of(
            Kind::UnknownOperator,
            self.parameter,
            format!("{text:?} is no condition; write field.eq.value"),
        ))
    }

    /// `[not.]op.value`. Within brackets a value may be in quotes; alone it stands for itself.
    fn test(&self, field: &str, text: &str, in_brackets: bool) -> Result<Filter, Problem> {
        let (is_negated, text) = match text.strip_prefix("not.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Some((word, value)) = text.split_once('.') else {
            return Err(Problem::of(
                Kind::UnknownOperator,
                self.parameter,
                format!("{text:?} is no condition on {field:?}; write it as eq.value"),
            ));
        };
        let operator = Operator::named(word).ok_or_else(|| {
            let names: Vec<&str> = Operator::ALL
                .iter()
                .map(|operator| operator.name())
                .collect();
            Problem::of(
                Kind::UnknownOperator,
                self.parameter,
                format!("{word:?} is no operator; there are {}", names.join(", ")),
            )
        })?;
        let unquoted = |text: &str| unquote(text).map_err(|why| self.refuse(why));
        let values = match operator {
            Operator::In => {
                let inner = bracketed(value)
                    .ok_or_else(|| self.refuse(format!("{value:?} is no list such as (1,2,3)")))?;
                let parts = if inner.is_empty() {
                    Ok(Vec::new())
                } else {
                    cut(inner)
                };
                let parts = parts.map_err(|why| self.refuse(why))?;
                parts.into_iter().map(unquoted).collect::<Result<_, _>>()?
            }
            _ if in_brackets => vec![unquoted(value)?],
            _ => vec![value.to_owned()],
        };
        let test = Test {
            field: field.to_owned(),
            operator,
            values,
            parameter: self.parameter.to_owned(),
        };
        Ok(negated(Filter::Test(test), is_negated))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn test(field: &str, operator: Operator, values: &[&str], parameter: &str) -> Filter {
        Filter::Test(Test {
            field: field.to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            parameter: parameter.to_owned(),
        })
    }

    #[test]
    fn a_parameter_is_a_test_of_the_field_it_names() {
        let read = |name, value| Filter::of_parameter(name, value).unwrap();
        assert_eq!(
            read("price", "gte.10"),
            test("price", Operator::Gte, &["10"], "price")
        );
        assert_eq!(
            read("name", "eq.a,b).\"c\""),
            test("name", Operator::Eq, &["a,b).\"c\""], "name"),
            "a value that stands alone stands for itself"
        );
        assert_eq!(
            read("name", "in.(a,\"b,\\\"c\",d)"),
            test("name", Operator::In, &["a", "b,\"c", "d"], "name")
        );
        assert_eq!(
            read("price", "not.eq.1"),
            Filter::Not(Box::new(test("price", Operator::Eq, &["1"], "price")))
        );
    }

    #[test]
    fn brackets_nest_and_names_with_dots_end_before_the_operator() {
        let read =
            Filter::of_parameter("or", "(a.b.eq.1.5,not.and(\"x.in.y\".gt.2,c.not.is.null))");
        let expected = Filter::Any(vec![
            test("a.b", Operator::Eq, &["1.5"], "or"),
            Filter::Not(Box::new(Filter::All(vec![
                test("x.in.y", Operator::Gt, &["2"], "or"),
                Filter::Not(Box::new(test("c", Operator::Is, &["null"], "or"))),
            ]))),
        ]);
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_that_names_the_parameter() {
        let deep = format!("({}a.eq.1{})", "and(".repeat(100), ")".repeat(100));
        for (name, value) in [
            ("price", "10"),
            ("price", "above.10"),
            ("price", "in.1,2"),
            ("price", "in.(1,2"),
            ("or", "a.eq.1"),
            ("or", "(a.eq.1"),
            ("or", "(a)"),
            ("or", "(a.eq.\"1)"),
            ("or", "(a.eq.1))"),
            ("and", &deep),
        ] {
            let problem = Filter::of_parameter(name, value).unwrap_err();
            assert_eq!(problem.parameter.as_deref(), Some(name), "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_more(name in ".{0,20}", value in ".{0,200}") {
            drop(Filter::of_parameter(&name, &value));
            drop(Filter::of_parameter("or", &format!("({value})")));
        }

        #[test]
        fn a_value_in_quotes_comes_back_whatever_it_is(value in ".{0,50}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let read = Filter::of_parameter("and", &format!("(a.eq.\"{quoted}\",b.in.(\"{quoted}\"))"));
            let expected = Filter::All(vec![
                test("a", Operator::Eq, &[&value], "and"),
                test("b", Operator::In, &[&value], "and"),
            ]);
            prop_assert_eq!(read.unwrap(), expected);
        }
    }
}
