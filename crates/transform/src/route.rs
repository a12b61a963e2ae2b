//! To which index a change goes.
//!
//! A document has one place. A template of what never changes (index, tenant) always gives the same place.
//! One with a field gives another when the field changes, and a delete does not know the field at all; so
//! it is taken only with all the values that the field can have, and what is written in one place is deleted
//! in all the others.

use model::{IndexName, Tenant};

use crate::{
    json::{Node, Path, plain},
    scope::At,
};

/// The most values of a field: each costs a delete for every document.
pub(crate) const MOST_VALUES: usize = 64;

/// A name with gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Index,
    Tenant,
    Field(Path),
}

/// Where changes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) template: Template,
    /// The values of the field in it, if there is one.
    pub(crate) values: Vec<String>,
}

/// The place of the documents of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    One(IndexName),
    /// By the value of a field.
    ByField {
        field: Path,
        places: Vec<(String, IndexName)>,
    },
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("{text:?} has a `{{` without a `}}`"))?;
            parts.push(match name {
                "index" => Part::Index,
                "tenant" => Part::Tenant,
                field => Part::Field(field.strip_prefix('.').unwrap_or(field).parse()?),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template(parts))
    }
}

impl Template {
    /// The fields in it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(path) => Some(path),
            _ => None,
        })
    }

    /// Whether it gives the same name for every index.
    pub(crate) fn ignores_index(&self) -> bool {
        !self.0.contains(&Part::Index)
    }

    /// Whether the text in it can be part of a name at all.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (index, tenant) = (IndexName::try_from("x"), Tenant::try_from("x"));
        match (index, tenant) {
            (Ok(index), Ok(tenant)) => self.fill(&index, &tenant, "x").map(drop),
            _ => Ok(()),
        }
    }

    /// The index for which this gives a name. `only` is the one that it is about where it does not name any.
    fn source(
        &self,
        name: &IndexName,
        tenant: &Tenant,
        value: &str,
        only: Option<&str>,
    ) -> Option<IndexName> {
        let holes = self.0.iter().filter(|part| **part == Part::Index).count();
        let fixed = |part: &Part| match part {
            Part::Text(text) => text.len(),
            Part::Index => 0,
            Part::Tenant => tenant.as_str().len(),
            Part::Field(_) => value.len(),
        };
        let text: usize = self.0.iter().map(fixed).sum();
        let before: usize = self
            .0
            .iter()
            .take_while(|part| **part != Part::Index)
            .map(fixed)
            .sum();
        let index = match holes {
            0 => only?,
            _ => {
                let length = name.as_str().len().checked_sub(text)? / holes;
                name.as_str().get(before..before + length)?
            }
        };
        let index = IndexName::try_from(index).ok()?;
        let filled = self.fill(&index, tenant, value).ok()?;
        (filled == *name).then_some(index)
    }

    fn fill(&self, index: &IndexName, tenant: &Tenant, value: &str) -> Result<IndexName, String> {
        let mut name = String::new();
        for part in &self.0 {
            name.push_str(match part {
                Part::Text(text) => text,
                Part::Index => index.as_str(),
                Part::Tenant => tenant.as_str(),
                Part::Field(_) => value,
            });
        }
        check_name(&name)?;
        IndexName::try_from(name).map_err(|error| error.to_string())
    }
}

impl Route {
    /// Where the documents of an index go.
    pub(crate) fn target(&self, index: &IndexName, tenant: &Tenant) -> Result<Target, String> {
        let Some(field) = self.template.fields().next() else {
            return self.template.fill(index, tenant, "").map(Target::One);
        };
        let place = |value: &String| Ok((value.clone(), self.template.fill(index, tenant, value)?));
        Ok(Target::ByField {
            field: field.clone(),
            places: self
                .values
                .iter()
                .map(place)
                .collect::<Result<_, String>>()?,
        })
    }

    /// The indices whose documents this would put into `place`. `only` is the index that it is about where it
    /// does not name any.
    pub(crate) fn sources(
        &self,
        place: &IndexName,
        tenant: &Tenant,
        only: Option<&str>,
    ) -> Vec<IndexName> {
        let values: Vec<&str> = match self.values.is_empty() {
            true => vec![""],
            false => self.values.iter().map(String::as_str).collect(),
        };
        let sources = values.into_iter();
        sources
            .filter_map(|value| self.template.source(place, tenant, value, only))
            .collect()
    }
}

impl Target {
    /// All places.
    pub(crate) fn places(&self) -> Vec<&IndexName> {
        match self {
            Target::One(index) => vec![index],
            Target::ByField { places, .. } => places.iter().map(|(_, index)| index).collect(),
        }
    }

    /// The place of a document.
    pub(crate) fn of(&self, document: &mut Node<'_>) -> Result<&IndexName, String> {
        let (field, places) = match self {
            Target::One(index) => return Ok(index),
            Target::ByField { field, places } => (field, places),
        };
        let mut values = Vec::new();
        document.any(field, &mut |json| {
            values.push(plain(json).into_owned());
            false
        });
        let [value] = &values[..] else {
            return Err(match values.len() {
                0 => format!("the field `{field}`, by which it is routed, is not there"),
                _ => format!("the field `{field}`, by which it is routed, has several values"),
            });
        };
        let place = places.iter().find(|(known, _)| known == value);
        place.map(|(_, index)| index).ok_or_else(|| {
            let value: String = value.chars().take(64).collect();
            format!("the field `{field}`, by which it is routed, is {value:?}, which is none of the route's values")
        })
    }
}

/// Where a change goes without a route.
pub(crate) fn unrouted(at: &At) -> Target {
    Target::One(at.index.clone())
}

/// What search engines say of the name of an index.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let refuse = |reason: &str| {
        Err(format!(
            "{name:?} is no name that an index can have: {reason}"
        ))
    };
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > 255 {
        return refuse("it has more than 255 bytes");
    }
    if name == "." || name == ".." {
        return refuse("it means a folder");
    }
    if name.starts_with(['-', '_', '+']) {
        return refuse("it begins with -, _ or +");
    }
    let illegal = |c: char| c.is_uppercase() || c.is_whitespace() || "\\/*?\"<>|,#:".contains(c);
    match name.chars().find(|c| illegal(*c)) {
        Some(c) => refuse(&format!("it contains {c:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_and_what_no_index_can_be_called_is_refused() {
        let (index, tenant) = ("logs".parse().unwrap(), "acme".parse().unwrap());
        let fill = |template: &str, value: &str| {
            template
                .parse::<Template>()
                .and_then(|template| template.fill(&index, &tenant, value))
        };
        assert_eq!(
            fill("{tenant}-{index}-v2", "").unwrap().as_str(),
            "acme-logs-v2"
        );
        assert_eq!(fill("users-{country}", "de").unwrap().as_str(), "users-de");
        for (template, value) in [
            ("Users", ""),
            ("{country}", ""),
            ("_users", ""),
            ("u-{country}", "a b"),
            ("u{index", ""),
            ("{a..b}", "x"),
        ] {
            assert!(
                fill(template, value).is_err(),
                "{template} {value:?} was taken"
            );
        }
        assert!(check_name(&"x".repeat(256)).is_err());
        assert!(check_name("..").is_err());
        assert!(check_name(".kibana_7.17").is_ok());
    }
}
