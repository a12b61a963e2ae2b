//! A resolved setting, where it comes from, and how the whole is printed.

use std::{fmt, path::PathBuf};

/// Where a setting's value comes from, strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The named environment variable.
    Environment(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// The program.
    Default,
    /// Another setting, as the text says.
    Derived(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Derived(from) => f.write_str(from),
        }
    }
}

/// One row of the resolved configuration.
///
/// `values` may be shown: a secret is already `***` here, and so is a password in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file.
    pub key: String,
    /// Empty: not set. More than one: a list.
    pub values: Vec<String>,
    /// Where the values come from.
    pub origin: Origin,
    /// Whether the setting is a list even if it has a single value.
    pub is_list: bool,
}

impl Setting {
    fn line(&self) -> String {
        match self.values.as_slice() {
            [] => format!("  # {}:", self.key),
            [value] if !self.is_list => format!("  {}: {}", self.key, scalar(value, false)),
            values => {
                let items: Vec<String> = values.iter().map(|value| scalar(value, true)).collect();
                format!("  {}: [{}]", self.key, items.join(", "))
            }
        }
    }
}

/// The configuration as a section of a file, each line with its origin behind it.
///
/// But for what is masked, the text read again resolves to the same settings.
pub(crate) fn to_yaml(section: &str, settings: &[Setting]) -> String {
    let lines: Vec<String> = settings.iter().map(Setting::line).collect();
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .filter(|n| *n <= 72)
        .max();
    let width = width.unwrap_or(0);
    let mut yaml = format!("{section}:\n");
    if settings.iter().all(|setting| setting.values.is_empty()) {
        yaml = format!("{section}: {{}}\n");
    }
    for (line, setting) in lines.iter().zip(settings) {
        match setting.values.is_empty() {
            true => yaml.push_str(&format!("{line:width$}  not set\n")),
            false => yaml.push_str(&format!("{line:width$}  # {}\n", setting.origin)),
        }
    }
    yaml
}

/// Writes a scalar plainly where YAML cannot take it for anything else, else in double quotes.
fn scalar(text: &str, in_list: bool) -> String {
    let safe =
        |c: char| c.is_ascii_alphanumeric() || "_./:@+=%-".contains(c) || c == ',' && !in_list;
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(safe)
        && !text.ends_with(':')
        && !text.eq_ignore_ascii_case("null");
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
