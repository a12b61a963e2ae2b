//! What this crate reads out of a clap `Command`, the single source of truth about settings.

use std::any::TypeId;

use clap::{
    Arg, ArgAction, Command,
    builder::{BoolishValueParser, ValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::Secret;

/// The option that names the file.
pub(crate) const CONFIG: &str = "config";
/// The switch that only prints what was resolved.
pub(crate) const CHECK_CONFIG: &str = "check-config";
/// The variable that names the file.
pub(crate) const CONFIG_VARIABLE: &str = "SYNCLINE_CONFIG";

/// Adds the options every service has, and makes every switch a value.
///
/// `--embedded` becomes `--embedded[=<true|false>]`, so that a flag can also switch off what the
/// file switches on, and flag, variable and file are read by one parser. The help shows a
/// variable's name but never what it holds.
pub(crate) fn prepared(command: Command) -> Command {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .value_parser(clap::value_parser!(std::path::PathBuf))
        .env(CONFIG_VARIABLE)
        .help("YAML file with a section per service");
    let check = Arg::new(CHECK_CONFIG)
        .long(CHECK_CONFIG)
        .action(ArgAction::SetTrue)
        .help("Print the resolved configuration, secrets hidden, and exit");
    command
        .mut_args(switch_to_value)
        .args([config, check])
        .mut_args(|arg| arg.hide_env_values(true))
}

fn switch_to_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    let arg = if arg.get_default_values().is_empty() {
        arg.default_value("false")
    } else {
        arg
    };
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(BoolishValueParser::new())
        .value_name("true|false")
        .hide_default_value(true)
}

/// Whether the value switches off what is off anyway: that is not passed on, for clap would take
/// it for use of the flag where the flag conflicts with another.
pub(crate) fn is_off(arg: &Arg, values: &[String]) -> bool {
    let is_off = |text: &str| {
        matches!(
            text.to_lowercase().as_str(),
            "n" | "no" | "f" | "false" | "off" | "0"
        )
    };
    arg.is_require_equals_set()
        && arg
            .get_default_values()
            .iter()
            .all(|value| value == "false")
        && values.iter().all(|value| is_off(value))
}

/// A setting: an argument with a long flag that takes a value.
pub(crate) fn settings(command: &Command) -> impl Iterator<Item = (String, &Arg)> {
    command.get_arguments().filter_map(|arg| {
        let long = arg.get_long()?;
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let own = long == CONFIG || long == CHECK_CONFIG;
        (takes_value && !own).then(|| (long.replace('-', "_"), arg))
    })
}

/// Whether what the argument holds must not be shown.
pub(crate) fn is_secret(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<Secret>()
}

/// Whether a YAML list may stand for the argument's value: it may be given several times, or says by its
/// value's name that it takes several (`HOST,...`).
pub(crate) fn takes_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
        || arg.get_value_delimiter().is_some()
        || value_name(arg).is_some_and(|name| name.ends_with(",...>"))
}

/// How values are handed to clap: one `--flag=value` for each, or one for all where the argument
/// takes a single text.
pub(crate) fn as_flags(arg: &Arg, values: &[String]) -> Vec<String> {
    let long = arg.get_long().unwrap_or_default();
    match arg.get_action() {
        ArgAction::Append => values
            .iter()
            .map(|value| format!("--{long}={value}"))
            .collect(),
        _ => vec![format!("--{long}={}", values.join(","))],
    }
}

/// Judges values by the argument's own parser, away from all other arguments.
///
/// # Errors
/// The reason and, where one is known, the remedy.
pub(crate) fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    let parser: ValueParser = arg.get_value_parser().clone();
    let probe = Arg::new("value")
        .long(arg.get_long().unwrap_or_default().to_owned())
        .action(arg.get_action().clone())
        .value_parser(parser)
        .value_delimiter(arg.get_value_delimiter());
    let verdict = Command::new("check")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(probe)
        .try_get_matches_from(as_flags(arg, values));
    verdict
        .map(drop)
        .map_err(|error| reason(arg, &error, values))
}

fn reason(arg: &Arg, error: &clap::Error, values: &[String]) -> String {
    let shown = match error.get(ContextKind::InvalidValue) {
        _ if is_secret(arg) => "the value".to_owned(),
        Some(ContextValue::String(value)) => format!("`{value}`"),
        _ => format!("`{}`", values.join(",")),
    };
    let why = match error.kind() {
        ErrorKind::ValueValidation => std::error::Error::source(error).map(ToString::to_string),
        _ => None,
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    format!("{shown} is not accepted{why}{}", remedy(arg, error))
}

fn remedy(arg: &Arg, error: &clap::Error) -> String {
    if arg.is_require_equals_set() {
        return "; write true or false".to_owned();
    }
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("; use one of {}", valid.join(", "));
    }
    let default = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy());
    match default.collect::<Vec<_>>().join(",") {
        none if none.is_empty() => match value_name(arg) {
            Some(name) => format!("; it wants {name}"),
            None => String::new(),
        },
        default => format!("; the default is {default}"),
    }
}

/// The `<NAME>` that the help shows for the value.
pub(crate) fn value_name(arg: &Arg) -> Option<String> {
    arg.get_value_names()
        .and_then(|names| names.first())
        .map(|name| format!("<{name}>"))
}
