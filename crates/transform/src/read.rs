//! A rule file, read with everything that is wrong in it.

mod condition;

use config::tree::{Issues, Node, Place, Table};
use jiff::tz::TimeZone;

use crate::{
    KeySource,
    filter::{Filter, Mode},
    jq,
    json::Path,
    route::{MOST_VALUES, Route, Template, check_name},
    rules::Step,
    scope::Scope,
    step::{Action, Date, DateForm, Key, Mask},
};
use condition::{condition, predicate, scope};

/// What a file says.
pub(crate) struct File {
    pub(crate) mode: Mode,
    pub(crate) filters: Vec<Filter>,
    pub(crate) steps: Vec<Step>,
    pub(crate) routes: Vec<(Scope, Route)>,
    pub(crate) programs: Vec<String>,
}

type Keys<'a> = &'a dyn Fn(&KeySource) -> Result<Vec<u8>, String>;

struct Reader<'a> {
    keys: Keys<'a>,
    file: File,
}

/// Reads the document; what is wrong is added to `issues`.
pub(crate) fn read(root: &Node, issues: &Issues, keys: Keys<'_>) -> File {
    let mut reader = Reader {
        keys,
        file: File {
            mode: Mode::All,
            filters: Vec::new(),
            steps: Vec::new(),
            routes: Vec::new(),
            programs: Vec::new(),
        },
    };
    Place::new(root, "", issues).table(|table| {
        table.get("filters", |place| reader.filters(place));
        table.get("transforms", |place| {
            place.each(|item| reader.transform(item));
            Some(())
        });
    });
    reader.file
}

impl Reader<'_> {
    fn filters(&mut self, place: Place<'_>) -> Option<()> {
        if !place.node.is_table() {
            place.each(|item| self.filter(item));
            return Some(());
        }
        place.table(|table| {
            let first = table.get("mode", |place| match place.text()? {
                "all" => Some(false),
                "first" => Some(true),
                _ => wrong(place, "write `all` (every filter has to let a change through) or `first` (the first that it meets decides)"),
            });
            let keep = table.get("default", |place| match place.text()? {
                "keep" => Some(true),
                "drop" => Some(false),
                _ => wrong(place, "write `keep` or `drop`"),
            });
            match first {
                Some(true) => self.file.mode = Mode::First { keep: keep.unwrap_or(true) },
                _ if keep.is_some() => table
                    .place()
                    .wrong("`default` is for `mode: first`: with `all`, what no filter drops is kept"),
                _ => {}
            }
            table.need("rules", |place| {
                place.each(|item| self.filter(item));
                Some(())
            });
        })
    }

    fn filter(&mut self, place: Place<'_>) {
        let number = self.file.filters.len();
        let filter = place.table(|table| {
            let name = table.get("name", |place| place.text().map(str::to_owned));
            let on = table.get("on", scope).unwrap_or_default();
            let keep = table.get("keep", condition);
            let drop = table.get("drop", condition);
            if table.has("keep") == table.has("drop") {
                place.wrong("a filter has either `keep` or `drop`");
            }
            let (keeps, condition) = match (keep, drop) {
                (Some(condition), _) => (true, condition),
                (None, Some(condition)) => (false, condition),
                (None, None) => return None,
            };
            let name = name.unwrap_or_else(|| format!("filter-{}", number + 1));
            Some(Filter {
                name,
                on,
                keeps,
                condition,
            })
        });
        if let Some(filter) = filter.flatten() {
            if self
                .file
                .filters
                .iter()
                .any(|other| other.name == filter.name)
            {
                place.wrong(format!("another filter is called {:?} too", filter.name));
            }
            self.file.filters.push(filter);
        }
    }

    fn transform(&mut self, place: Place<'_>) {
        const KINDS: [&str; 12] = [
            "rename", "remove", "set", "copy", "move", "mask", "hash", "flatten", "date", "route",
            "jq", "drop",
        ];
        let number = self.file.steps.len() + self.file.routes.len();
        place.table(|table| {
            let name = table.get("name", |place| place.text().map(str::to_owned));
            let name = name.unwrap_or_else(|| format!("transform-{}", number + 1));
            let on = table.get("on", condition).unwrap_or_default();
            let kinds = KINDS.iter().filter(|kind| table.has(kind)).count();
            if kinds != 1 {
                place.wrong(format!("a transform is one of {}", KINDS.join(", ")));
            }
            if let Some(route) = table.get("route", |place| self.route(place, &on.scope)) {
                if on.document.is_some() {
                    place.wrong("the place of a document may not depend on what it holds, except by a field in the template with all its `values`");
                }
                if on.scope.operations.is_some() || on.scope.subjects.is_some() {
                    place.wrong("a route is about all changes of an index, because a delete has to go where the document went: leave out `operation` and `subject`");
                }
                self.file.routes.push((on.scope, route));
                return;
            }
            if let Some(action) = self.action(table) {
                self.file.steps.push(Step { name, on, action });
            }
        });
    }

    fn action(&mut self, table: &Table<'_>) -> Option<Action> {
        let from_to = |place: Place<'_>| {
            place.table(|table| {
                let from = table.need("from", |place| place.parse::<Path>());
                let to = table.need("to", |place| place.parse::<Path>());
                Some((from?, to?))
            })?
        };
        // Each is asked for, so that a key that is none of them is found.
        let actions = [
            table.get("rename", |place| {
                let (from, to) = from_to(place)?;
                match from.is_beside(&to) {
                    true => Some(Action::Rename { from, to }),
                    false => wrong(place, "a field is renamed within its object; to another place it is moved with `move`"),
                }
            }),
            table.get("remove", |place| paths(place).map(Action::Remove)),
            table.get("set", |place| {
                place.table(|table| {
                    let field = table.need("field", |place| place.parse::<Path>());
                    let json = table.need("value", |place| Some(place.node.to_json().to_string()));
                    Some(Action::Set { field: field?, json: json? })
                })?
            }),
            table.get("copy", |place| from_to(place).map(|(from, to)| Action::Copy { from, to })),
            table.get("move", |place| from_to(place).map(|(from, to)| Action::Move { from, to })),
            table.get("mask", mask),
            table.get("hash", |place| self.hash(place)),
            table.get("flatten", |place| {
                place.table(|table| Action::Flatten {
                    field: table.get("field", |place| place.parse()),
                    separator: table
                        .get("separator", |place| place.text().map(str::to_owned))
                        .unwrap_or_else(|| "_".to_owned()),
                })
            }),
            table.get("date", date),
            table.get("jq", |place| {
                let program = place.text()?;
                if let Err(error) = jq::compile(program) {
                    return wrong(place, format!("the jq program is wrong: {error}"));
                }
                self.file.programs.push(program.to_owned());
                Some(Action::Jq(self.file.programs.len() - 1))
            }),
            table.get("drop", |place| match place.text_or_table() {
                Some("always") => Some(Action::Drop(None)),
                _ => predicate(place, 0).map(|predicate| Action::Drop(Some(predicate))),
            }),
        ];
        actions.into_iter().flatten().next()
    }

    fn route(&self, place: Place<'_>, on: &Scope) -> Option<Route> {
        place.table(|table| {
            let template = table.need("index", |place| place.parse::<Template>());
            let values = table.get("values", |place| place.texts().map(owned));
            let template = template?;
            let fields = template.fields().count();
            let named = on.indices.as_ref().is_some_and(|patterns| {
                patterns.included().count() == 1 && patterns.names().count() == 1
            });
            if template.ignores_index() && !named {
                place.wrong("it would put several indices into one, where equal ids replace each other: write {index} into the template, or name one index in `on`");
            }
            if let Err(error) = template.check() {
                place.wrong(error);
            }
            match (fields, &values) {
                (0, None) => {}
                (0, Some(_)) => place.wrong("`values` are those of a field in the template, and there is none in it"),
                (1, None) => place.wrong("a field can change, and a delete does not know it: give all `values` that it can have, so that what goes to one place is deleted in the others"),
                (1, Some(values)) if values.is_empty() || values.len() > MOST_VALUES => {
                    place.wrong(format!("give 1 to {MOST_VALUES} `values`: each costs a delete for every document"));
                }
                (1, Some(values)) => {
                    for value in values {
                        if let Err(error) = check_name(&format!("x{value}")) {
                            place.wrong(error);
                        }
                    }
                }
                _ => place.wrong("one field at most can be in the template"),
            }
            Some(Route { template, values: values.unwrap_or_default() })
        })?
    }

    fn hash(&self, place: Place<'_>) -> Option<Action> {
        place.table(|table| {
            let fields = table.need("field", paths);
            let source = match (
                table.get("key_file", |place| place.text().map(str::to_owned)),
                table.get("key_env", |place| place.text().map(str::to_owned)),
            ) {
                (Some(file), None) => KeySource::File(file.into()),
                (None, Some(variable)) => KeySource::Variable(variable),
                _ => return wrong(place, "give the key by `key_file` or by `key_env`, the name of a variable: hashes without one can be guessed"),
            };
            match (self.keys)(&source) {
                Ok(key) if key.len() < 16 => wrong(place, "the key has less than 16 bytes, too few to keep anything secret"),
                Ok(key) => Some(Action::Hash { fields: fields?, key: Key(key) }),
                Err(error) => wrong(place, error),
            }
        })?
    }
}

trait TextOrTable<'a> {
    fn text_or_table(&self) -> Option<&'a str>;
}

impl<'a> TextOrTable<'a> for Place<'a> {
    fn text_or_table(&self) -> Option<&'a str> {
        self.node.text()
    }
}

fn wrong<T>(place: Place<'_>, reason: impl Into<String>) -> Option<T> {
    place.wrong(reason);
    None
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

fn paths(place: Place<'_>) -> Option<Vec<Path>> {
    let mut paths = Vec::new();
    for text in place.texts()? {
        match text.parse() {
            Ok(path) => paths.push(path),
            Err(error) => place.wrong(error),
        }
    }
    Some(paths)
}

/// A number within bounds.
fn count(place: Place<'_>) -> Option<usize> {
    let number: usize = place.parse()?;
    match number <= 1000 {
        true => Some(number),
        false => wrong(place, "1000 at most"),
    }
}

fn mask(place: Place<'_>) -> Option<Action> {
    if !place.node.is_table() {
        let mask = Mask {
            with: "***".to_owned(),
            keep_first: 0,
            keep_last: 0,
        };
        return Some(Action::Mask {
            fields: paths(place)?,
            mask,
        });
    }
    place.table(|table| {
        let fields = table.need("field", paths);
        let with = table.get("with", |place| place.text().map(str::to_owned));
        let (first, last) = (
            table.get("keep_first", count),
            table.get("keep_last", count),
        );
        let (keep_first, keep_last) = (first.unwrap_or(0), last.unwrap_or(0));
        let all = if keep_first + keep_last == 0 {
            "***"
        } else {
            "*"
        };
        let with = with.unwrap_or_else(|| all.to_owned());
        Some(Action::Mask {
            fields: fields?,
            mask: Mask {
                with,
                keep_first,
                keep_last,
            },
        })
    })?
}

fn date(place: Place<'_>) -> Option<Action> {
    place.table(|table| {
        let fields = table.need("field", paths);
        let form = |place: Place<'_>| {
            let form = DateForm::parse(place.text()?);
            if let DateForm::Pattern(pattern) = &form
                && !pattern.contains('%')
            {
                return wrong(
                    place,
                    "write rfc3339, epoch_seconds, epoch_millis, or a pattern such as %d.%m.%Y",
                );
            }
            Some(form)
        };
        let from = table.need("from", form);
        let to = table.get("to", form).unwrap_or(DateForm::Rfc3339);
        let zone = table.get("zone", |place| match TimeZone::get(place.text()?) {
            Ok(zone) => Some(zone),
            Err(error) => wrong(place, error.to_string()),
        });
        let zone = zone.unwrap_or(TimeZone::UTC);
        Some(Action::Date {
            fields: fields?,
            date: Date {
                from: from?,
                to,
                zone,
            },
        })
    })?
}
