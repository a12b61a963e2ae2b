//! The resolution itself: flag, then environment, then file, then default.
//!
//! What the environment and the file say is checked value by value and then handed to clap as if
//! it had been typed, for those arguments that were not typed. So clap alone decides what is
//! required, what conflicts and what is parsed how; its own reading of the environment is switched
//! off, because it would neither name the variable in an error nor rank above a file.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Command, FromArgMatches, Id, error::ErrorKind, parser::ValueSource};

use crate::{
    error::{Error, Issue},
    file::{File, Given},
    flags,
    secret::{MASK, mask_urls},
    setting::{Origin, Setting, to_yaml},
};

type Environment<'a> = Box<dyn Fn(&str) -> Option<OsString> + 'a>;

/// Resolves one service's configuration from command line, environment, file and defaults.
///
/// # Errors
/// See [`Error`]; everything that is wrong in the file and the environment is reported at once.
pub fn resolve<A: FromArgMatches>(
    section: &str,
    command: Command,
    argv: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Resolved<A>, Error> {
    Resolver::new(section, command).resolve(argv)
}

/// A resolution with more to say than [`resolve`] needs.
pub struct Resolver<'a> {
    section: &'a str,
    command: Command,
    known: Option<&'a [&'a str]>,
    environment: Environment<'a>,
}

impl<'a> Resolver<'a> {
    /// Resolves `command`, whose settings stand under `section` in the file.
    pub fn new(section: &'a str, command: Command) -> Self {
        let environment = Box::new(|name: &str| std::env::var_os(name));
        Self {
            section,
            command: flags::prepared(command),
            known: None,
            environment,
        }
    }

    /// Names all sections there are, so that any other in the file is an error.
    pub fn sections(mut self, known: &'a [&'a str]) -> Self {
        self.known = Some(known);
        self
    }

    /// Replaces the process's environment.
    pub fn environment(mut self, lookup: impl Fn(&str) -> Option<OsString> + 'a) -> Self {
        self.environment = Box::new(lookup);
        self
    }

    /// Resolves; `argv` starts with the program's name.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn resolve<A: FromArgMatches>(
        self,
        argv: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Resolved<A>, Error> {
        let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
        let command = self
            .command
            .clone()
            .mut_args(|arg| arg.env(None::<&'static str>));
        let typed = self.typed(&command, &argv)?;
        let path = self.config_path(&typed);
        let (mut given, mut issues) = self.given_by_environment(&typed);
        if let Some(path) = &path {
            let (from_file, mut wrong) = self.given_by_file(path)?;
            issues.append(&mut wrong);
            given.extend(from_file);
        }
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let given = strongest(given, &typed);
        // A command line with a wrong value may lack even the defaults here.
        let check_config = typed.get_one(flags::CHECK_CONFIG).is_some_and(|on| *on);
        finish(self.section, command, &argv, given)
            .map(|(args, settings)| Resolved {
                args,
                settings,
                check_config,
                config_path: path,
                section: self.section.to_owned(),
            })
            .map_err(|(error, notes)| Error::Usage { error, notes })
    }

    /// What stands on the command line; what is wrong there is left for the last parse to say.
    fn typed(&self, command: &Command, argv: &[OsString]) -> Result<ArgMatches, Error> {
        let lenient = command.clone().ignore_errors(true);
        lenient.try_get_matches_from(argv).map_err(|_| {
            // The help of the full command names the environment variables.
            let full = self.command.clone().try_get_matches_from(argv);
            let error = full
                .err()
                .unwrap_or_else(|| clap::Error::new(ErrorKind::DisplayHelp));
            Error::Usage {
                error: Box::new(error),
                notes: Vec::new(),
            }
        })
    }

    fn config_path(&self, typed: &ArgMatches) -> Option<PathBuf> {
        let flag = typed.get_one::<PathBuf>(flags::CONFIG).cloned();
        flag.or_else(|| self.variable(flags::CONFIG_VARIABLE).map(PathBuf::from))
    }

    /// A variable that is set to nothing counts as not set: that is all a compose file or a unit
    /// file can do to unset one.
    fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn given_by_environment(&self, typed: &ArgMatches) -> (Vec<Given>, Vec<Issue>) {
        let (mut given, mut issues) = (Vec::new(), Vec::new());
        for (_, arg) in flags::settings(&self.command) {
            let id = arg.get_id();
            let Some(variable) = arg.get_env().and_then(OsStr::to_str) else {
                continue;
            };
            let Some(value) = self.variable(variable) else {
                continue;
            };
            if is_typed(typed, id) {
                continue;
            }
            let checked = match value.into_string() {
                Ok(text) => flags::check(arg, std::slice::from_ref(&text)).map(|()| text),
                Err(_) => Err("it is not valid UTF-8; set it to text".to_owned()),
            };
            match checked {
                Ok(text) => given.push(Given {
                    id: id.clone(),
                    values: vec![text],
                    origin: Origin::Environment(variable.to_owned()),
                }),
                Err(reason) => {
                    let place = format!("environment variable {variable}");
                    issues.push(Issue {
                        line: 0,
                        place,
                        reason,
                    });
                }
            }
        }
        (given, issues)
    }

    fn given_by_file(&self, path: &Path) -> Result<(Vec<Given>, Vec<Issue>), Error> {
        let file = File::read(path)?;
        let (given, mut issues) = file.section(self.section, &self.command);
        if let Some(known) = self.known {
            issues.extend(file.check_sections(known));
        }
        issues.sort_by_key(|issue| issue.line);
        Ok((given, issues))
    }
}

/// Several sections of one file, for a program that runs several services (`syncline up`).
///
/// There are no flags here, and the environment is not asked: `ES_HOSTS` cannot mean the source
/// and the target at once. All sections' errors are reported together, by [`Sections::finish`].
pub struct Sections {
    file: File,
    path: PathBuf,
    asked: Vec<String>,
    issues: Vec<Issue>,
}

impl Sections {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is not YAML.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = File::read(path)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            asked: Vec::new(),
            issues: Vec::new(),
        })
    }

    /// Whether the file has the section.
    pub fn contains(&self, section: &str) -> bool {
        self.file.contains(section)
    }

    /// Resolves a section; `None` when something is wrong, which [`Sections::finish`] reports.
    pub fn resolve<A: FromArgMatches>(
        &mut self,
        section: &str,
        command: Command,
    ) -> Option<Resolved<A>> {
        self.asked.push(section.to_owned());
        let command = flags::prepared(command).mut_args(|arg| arg.env(None::<&'static str>));
        let (given, mut issues) = self.file.section(section, &command);
        if !issues.is_empty() {
            self.issues.append(&mut issues);
            return None;
        }
        let program = [OsString::from(section)];
        let given = given.into_iter().map(|one| (one.id.clone(), one)).collect();
        match finish(section, command, &program, given) {
            Ok((args, settings)) => Some(Resolved {
                args,
                settings,
                check_config: false,
                config_path: Some(self.path.clone()),
                section: section.to_owned(),
            }),
            Err((error, notes)) => {
                self.issues.push(self.unfit(section, &error, &notes));
                None
            }
        }
    }

    /// Reports everything that is wrong; `known` are the sections of services not asked for here.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all issues of all sections, in the order of their lines.
    pub fn finish(mut self, known: &[&str]) -> Result<(), Error> {
        let known: Vec<&str> = self
            .asked
            .iter()
            .map(String::as_str)
            .chain(known.iter().copied())
            .collect();
        self.issues.extend(self.file.check_sections(&known));
        self.issues.sort_by_key(|issue| issue.line);
        if self.issues.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(self.issues))
        }
    }

    /// What clap refuses of a section as a whole: something missing, or two keys in conflict.
    fn unfit(&self, section: &str, error: &clap::Error, notes: &[String]) -> Issue {
        let text = error.render().to_string();
        let said = text
            .split("\n\n")
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        let said: Vec<&str> = said.split_whitespace().collect();
        let mut reason = said.join(" ");
        if !notes.is_empty() {
            reason.push_str(&format!(" ({})", notes.join(", ")));
        }
        reason.push_str("; in a file a flag is a key with `_` for `-`");
        let place = format!("{}: section `{section}`", self.path.display());
        Issue {
            line: 0,
            place,
            reason,
        }
    }
}

/// A configuration that is complete and checked.
#[derive(Debug)]
pub struct Resolved<A> {
    /// The service's own arguments.
    pub args: A,
    /// Every setting with its origin, in the order of the help; what is secret is masked.
    pub settings: Vec<Setting>,
    /// Whether `--check-config` was given: print [`Resolved::to_yaml`] and exit.
    pub check_config: bool,
    /// The file that was read.
    pub config_path: Option<PathBuf>,
    section: String,
}

impl<A> Resolved<A> {
    /// The configuration as the service's section of a file, each line with its origin, secrets
    /// and passwords in URLs masked.
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.section, &self.settings)
    }
}

fn is_typed(typed: &ArgMatches, id: &Id) -> bool {
    typed.value_source(id.as_str()) == Some(ValueSource::CommandLine)
}

/// Keeps of each argument's values the first given, and none where the command line has one.
fn strongest(given: Vec<Given>, typed: &ArgMatches) -> HashMap<Id, Given> {
    let mut kept = HashMap::new();
    for one in given.into_iter().filter(|one| !is_typed(typed, &one.id)) {
        kept.entry(one.id.clone()).or_insert(one);
    }
    kept
}

type Refused = (Box<clap::Error>, Vec<String>);

/// Lets clap parse everything together, and says of each setting where it came from.
fn finish<A: FromArgMatches>(
    section: &str,
    command: Command,
    argv: &[OsString],
    given: HashMap<Id, Given>,
) -> Result<(A, Vec<Setting>), Refused> {
    let mut line = vec![argv.first().cloned().unwrap_or_else(|| section.into())];
    for (_, arg) in flags::settings(&command) {
        if let Some(one) = given.get(arg.get_id())
            && !flags::is_off(arg, &one.values)
        {
            line.extend(
                flags::as_flags(arg, &one.values)
                    .into_iter()
                    .map(OsString::from),
            );
        }
    }
    line.extend(argv.iter().skip(1).cloned());
    let parsed = command
        .clone()
        .try_get_matches_from(line)
        .and_then(|matches| {
            let settings = table(&command, &matches, &given);
            A::from_arg_matches(&matches).map(|args| (args, settings))
        });
    parsed.map_err(|error| {
        let notes = notes(&command, &error, &given);
        (Box::new(error), notes)
    })
}

fn table(command: &Command, matches: &ArgMatches, given: &HashMap<Id, Given>) -> Vec<Setting> {
    let row = |(key, arg): (String, &clap::Arg)| {
        let id = arg.get_id();
        let (values, origin) = match given.get(id) {
            Some(one) => (one.values.clone(), one.origin.clone()),
            None => {
                let raw = matches.get_raw(id.as_str()).into_iter().flatten();
                let origin = if is_typed(matches, id) {
                    Origin::Flag
                } else {
                    Origin::Default
                };
                (
                    raw.map(|value| value.to_string_lossy().into_owned())
                        .collect(),
                    origin,
                )
            }
        };
        let show = |value: &String| match flags::is_secret(arg) {
            true => MASK.to_owned(),
            false => mask_urls(value),
        };
        let is_list = flags::takes_list(arg) && values.len() > 1;
        Setting {
            key,
            values: values.iter().map(show).collect(),
            origin,
            is_list,
        }
    };
    flags::settings(command).map(row).collect()
}

/// For each flag in clap's complaint that nobody typed: where it really stands.
fn notes(command: &Command, error: &clap::Error, given: &HashMap<Id, Given>) -> Vec<String> {
    let text = error.render().to_string();
    let complaint = text.split("\n\n").next().unwrap_or_default();
    let named = |long: &str| {
        let flag = format!("--{long}");
        complaint.match_indices(&flag).any(|(at, _)| {
            let next = complaint[at + flag.len()..].chars().next();
            next.is_none_or(|c| !c.is_alphanumeric() && c != '-')
        })
    };
    flags::settings(command)
        .filter_map(|(_, arg)| Some((arg.get_long()?, given.get(arg.get_id())?)))
        .filter(|(long, _)| named(long))
        .map(|(long, one)| format!("--{long} comes from {}", one.origin))
        .collect()
}
