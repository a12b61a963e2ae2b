//! A configuration file: one section per service, its keys the long flags in snake_case.

use std::path::{Path, PathBuf};

use clap::Command;

use crate::{
    error::{Error, Issue},
    flags,
    setting::Origin,
    suggest::nearest,
    yaml::{self, Node, Value},
};

/// A value that flag, variable or file gave for an argument.
pub(crate) struct Given {
    pub(crate) id: clap::Id,
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

/// A file that was read and is well-formed YAML.
pub(crate) struct File {
    path: PathBuf,
    sections: Vec<(Node, Node)>,
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let path = path.to_owned();
        let root = match yaml::parse(text) {
            Ok(root) => root,
            Err(yaml::SyntaxError {
                line,
                column,
                reason,
            }) => {
                return Err(Error::Syntax {
                    path,
                    line,
                    column,
                    reason,
                });
            }
        };
        let sections = match root {
            None => Vec::new(),
            Some(node) if node.is_null() => Vec::new(),
            Some(Node {
                value: Value::Mapping(sections),
                ..
            }) => sections,
            Some(Node { line, .. }) => {
                return Err(Error::Invalid(vec![Issue {
                    line,
                    place: format!("{}:{line}", path.display()),
                    reason: "the file is not a mapping; write a section per service, such as `es-watcher:`".to_owned(),
                }]));
            }
        };
        Ok(Self { path, sections })
    }

    pub(crate) fn contains(&self, section: &str) -> bool {
        self.sections
            .iter()
            .any(|(key, _)| text_of(key) == Some(section))
    }

    /// Finds sections that none of the known services reads, and those that appear twice.
    pub(crate) fn check_sections(&self, known: &[&str]) -> Vec<Issue> {
        let mut issues = Vec::new();
        for (n, (key, _)) in self.sections.iter().enumerate() {
            let name = text_of(key).unwrap_or("?");
            let first = self.sections[..n]
                .iter()
                .find(|(other, _)| text_of(other) == Some(name));
            let reason = if let Some((first, _)) = first {
                format!("given before, on line {}; keep one", first.line)
            } else if known.contains(&name) {
                continue;
            } else if let Some(near) = nearest(name, known.iter().copied()) {
                format!("no such section; did you mean `{near}`?")
            } else {
                format!("no such section; there are {}", known.join(", "))
            };
            let place = format!("{}:{}: section `{name}`", self.path.display(), key.line);
            issues.push(Issue {
                line: key.line,
                place,
                reason,
            });
        }
        issues
    }

    /// Reads a section's values by the arguments of `command`; what is wrong is an issue each.
    pub(crate) fn section(&self, name: &str, command: &Command) -> (Vec<Given>, Vec<Issue>) {
        let (mut given, mut issues) = (Vec::new(), Vec::new());
        let Some((_, body)) = self
            .sections
            .iter()
            .find(|(key, _)| text_of(key) == Some(name))
        else {
            return (given, issues);
        };
        let pairs = match &body.value {
            Value::Mapping(pairs) => pairs.as_slice(),
            _ if body.is_null() => &[],
            _ => {
                let place = format!("{}:{}: section `{name}`", self.path.display(), body.line);
                let reason = "it is not a mapping; write `key: value` lines below it".to_owned();
                issues.push(Issue {
                    line: body.line,
                    place,
                    reason,
                });
                &[]
            }
        };
        for (n, (key, node)) in pairs.iter().enumerate() {
            match self.setting(command, &pairs[..n], key, node) {
                Ok(one) => given.push(one),
                Err(reason) => {
                    let shown = text_of(key).unwrap_or("?");
                    let (line, path) = (key.line, self.path.display());
                    let place = format!("{path}:{line}: key `{name}.{shown}`");
                    issues.push(Issue {
                        line,
                        place,
                        reason,
                    });
                }
            }
        }
        (given, issues)
    }

    fn setting(
        &self,
        command: &Command,
        before: &[(Node, Node)],
        key: &Node,
        node: &Node,
    ) -> Result<Given, String> {
        let name = text_of(key).ok_or("a key is a plain word; remove the brackets")?;
        let Some((_, arg)) = flags::settings(command).find(|(key, _)| key == name) else {
            return Err(unknown(command, name));
        };
        if let Some((first, _)) = before
            .iter()
            .find(|(other, _)| text_of(other) == Some(name))
        {
            return Err(format!("given before, on line {}; keep one", first.line));
        }
        let values = values(node, flags::takes_list(arg))?;
        flags::check(arg, &values)?;
        let origin = Origin::File(self.path.clone(), key.line);
        Ok(Given {
            id: arg.get_id().clone(),
            values,
            origin,
        })
    }
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

fn unknown(command: &Command, name: &str) -> String {
    let dashed = name.replace('_', "-");
    if dashed == flags::CONFIG
        || command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(&dashed))
    {
        return format!("can only be given on the command line; remove it and use --{dashed}");
    }
    let known: Vec<String> = flags::settings(command)
        .filter(|(_, arg)| !arg.is_hide_set())
        .map(|(key, _)| key)
        .collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("no such setting; did you mean `{near}`?"),
        None => "no such setting; --help lists them, in a file with `_` for `-`".to_owned(),
    }
}

/// The texts of a scalar or of a list of scalars.
fn values(node: &Node, takes_list: bool) -> Result<Vec<String>, String> {
    if node.is_null() {
        return Err("it has no value; give it one or remove the key".to_owned());
    }
    match &node.value {
        Value::Scalar { text, .. } => Ok(vec![text.clone()]),
        Value::Mapping(_) => {
            Err("it wants a value, not a mapping; write it on one line".to_owned())
        }
        Value::Sequence(_) if !takes_list => {
            Err("it wants a single value, not a list; remove the brackets or dashes".to_owned())
        }
        Value::Sequence(items) if items.is_empty() => {
            Err("its list is empty; give it values or remove the key".to_owned())
        }
        Value::Sequence(items) => items
            .iter()
            .map(|item| match text_of(item) {
                Some(text) if !item.is_null() => Ok(text.to_owned()),
                _ => Err(format!(
                    "line {} of its list is not a single value",
                    item.line
                )),
            })
            .collect(),
    }
}
