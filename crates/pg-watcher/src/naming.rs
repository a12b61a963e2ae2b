//! What a table's index is called.

use std::str::FromStr;

use model::IndexName;

/// How index names are made: a text with `{database}`, `{schema}` and `{table}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Default for Template {
    fn default() -> Template {
        Template("{database}.{schema}.{table}".to_owned())
    }
}

/// A template that gives two tables one index.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the template {0:?} has no {{table}}, so all tables would share an index; write it like \
     {{database}}.{{schema}}.{{table}}"
)]
pub struct NoTable(String);

impl FromStr for Template {
    type Err = NoTable;

    fn from_str(text: &str) -> Result<Template, NoTable> {
        match text.contains("{table}") {
            true => Ok(Template(text.to_owned())),
            false => Err(NoTable(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Template {
    /// The index of a table. What search engines do not take in a name becomes `_`, and letters become
    /// small, so two tables can come to the same name: that is for the caller to notice.
    pub fn index(&self, database: &str, schema: &str, table: &str) -> IndexName {
        let name = self
            .0
            .replace("{database}", database)
            .replace("{schema}", schema)
            .replace("{table}", table);
        let allowed = |c: char| match c {
            '\\' | '/' | '*' | '?' | '"' | '<' | '>' | '|' | ' ' | ',' | '#' | ':' => '_',
            c if c.is_control() || c.is_whitespace() => '_',
            c => c,
        };
        let mut name: String = name.to_lowercase().chars().map(allowed).collect();
        if name.starts_with(['-', '_', '+', '.']) {
            name.insert(0, 'x');
        }
        name.truncate(name.floor_char_boundary(255));
        IndexName::try_from(name).unwrap_or_else(|_| {
            IndexName::try_from("x").expect("a text that is not empty is a name")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_a_name_that_search_engines_take() {
        let template = Template::default();
        let name = |database: &str, schema, table| {
            template.index(database, schema, table).as_str().to_owned()
        };
        assert_eq!(name("shop", "public", "Orders"), "shop.public.orders");
        assert_eq!(name("_a", "b c", "d/e"), "x_a.b_c.d_e");
        assert!(name("d", "s", &"é".repeat(300)).len() <= 255);
        assert_eq!(
            "{schema}".parse::<Template>(),
            Err(NoTable("{schema}".to_owned()))
        );
    }
}
