//! The generated reference: a Markdown table of a service's settings, from its clap command.

use clap::{Arg, Command};

use crate::flags;

/// One row per flag: flag, variable, key in the file, default, meaning.
///
/// Headings of the help (`EMBEDDED MODE`) become headings of the page.
pub fn reference(section: &str, command: &Command) -> String {
    let command = flags::prepared(command.clone());
    let rows: Vec<(String, &Arg)> = flags::settings(&command)
        .filter(|(_, arg)| !arg.is_hide_set())
        .collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for (_, arg) in &rows {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    headings.sort_by_key(Option::is_some);
    let mut page = format!("## {section}\n");
    for heading in headings {
        if let Some(heading) = heading {
            page.push_str(&format!("\n### {heading}\n"));
        }
        page.push_str("\n| Flag | Variable | YAML key | Default | Meaning |\n");
        page.push_str("|---|---|---|---|---|\n");
        for (key, arg) in rows
            .iter()
            .filter(|(_, arg)| arg.get_help_heading() == heading)
        {
            page.push_str(&row(key, arg));
        }
    }
    page
}

fn row(key: &str, arg: &Arg) -> String {
    let code = |text: &str| match text {
        "" => String::new(),
        text => format!("`{}`", text.replace('|', "\\|")),
    };
    let long = arg.get_long().unwrap_or_default();
    let flag = match flags::value_name(arg) {
        _ if arg.is_require_equals_set() => format!("--{long}"),
        Some(name) => format!("--{long} {name}"),
        None => format!("--{long} <{}>", key.to_uppercase()),
    };
    let variable = arg
        .get_env()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let default = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy());
    let default = match default.collect::<Vec<_>>().join(",") {
        none if none.is_empty() && arg.is_required_set() => "required".to_owned(),
        default => code(&default),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut meaning = help
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|");
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set() && !arg.is_require_equals_set())
        .map(|value| code(value.get_name()))
        .collect();
    if !choices.is_empty() {
        meaning.push_str(&format!(" (one of {})", choices.join(", ")));
    }
    format!(
        "| {} | {} | {} | {default} | {meaning} |\n",
        code(&flag),
        code(&variable),
        code(key)
    )
}
