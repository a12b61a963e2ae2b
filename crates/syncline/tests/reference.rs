//! What the documentation says about settings is what the program takes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const COMMANDS_WITHOUT_SETTINGS: &[&str] = &["reference"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs the program without any variable that would count as a setting.
fn syncline(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.env_clear().args(arguments);
    command
        .output()
        .expect("the program was built for this test")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the program writes UTF-8")
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let page = fs::read_to_string(checkout().join("docs/reference.md")).expect("it is there");
    let printed = syncline(&["reference"]);
    assert!(
        page == text(&printed.stdout),
        "docs/reference.md is not current: run `make docs`"
    );
}

#[test]
fn every_command_with_settings_is_in_the_reference() {
    let page = syncline(&["reference"]);
    let page = text(&page.stdout);
    let help = syncline(&["help"]);
    let commands = text(&help.stdout)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next());
    let mut count = 0;
    for command in commands.filter(|name| !COMMANDS_WITHOUT_SETTINGS.contains(name)) {
        count += 1;
        let heading = format!("\n## {command}\n");
        assert!(
            page.contains(&heading),
            "{command} is missing: add it to src/reference.rs"
        );
    }
    assert!(count >= 4, "the help lists {count} commands");
}

#[test]
fn the_example_configuration_is_taken_by_every_service_it_has_a_section_for() {
    let file = checkout().join("config/example.yaml");
    let file = file.to_str().expect("the checkout's path is UTF-8");
    for service in ["es-watcher", "nats-gateway", "es-writer", "up"] {
        let checked = syncline(&[service, "--config", file, "--check-config"]);
        assert!(
            checked.status.success(),
            "{service}: {}",
            text(&checked.stderr)
        );
        assert!(text(&checked.stdout).starts_with(&format!("{service}:")));
    }
}

/// `up` reads all sections before it starts the first part, which is the server.
#[test]
fn the_example_configuration_is_taken_as_a_whole() {
    let example = fs::read_to_string(checkout().join("config/example.yaml")).expect("it is there");
    let nowhere = "/nonexistent/nats-server";
    let changed = example.replace("/usr/bin/nats-server", nowhere);
    assert!(changed.contains(nowhere), "the example names a binary");
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("example.yaml");
    fs::write(&file, changed).expect("the folder is new");
    let refused = syncline(&["up", file.to_str().expect("the path is UTF-8")]);
    let said = text(&refused.stderr);
    assert!(
        said.contains("nats-server cannot be run as /nonexistent"),
        "{said}"
    );
}

#[test]
fn a_setting_that_does_not_exist_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let file = folder.path().join("wrong.yaml");
    fs::write(&file, "es-writer:\n  batch_sise: 5\n").expect("the folder is new");
    let file = file.to_str().expect("the path is UTF-8");
    let refused = syncline(&["es-writer", "--config", file, "--check-config"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains(":2:") && said.contains("batch_size"),
        "{said}"
    );
}

/// The metrics of a service as it registers them. A family without a label yet is not on the metrics page,
/// so the names are taken from the source.
fn metrics() -> Vec<String> {
    let files = [
        ("crates/bus/src/publisher/metrics.rs", "syncline_watcher"),
        ("crates/es-watcher/src/metrics.rs", "syncline_watcher"),
        ("crates/nats-gateway/src/metrics.rs", "syncline_gateway"),
        ("crates/pg-watcher/src/metrics.rs", "syncline_watcher"),
        ("crates/es-writer/src/metrics.rs", "syncline_writer"),
        ("crates/syncline/src/verify/metrics.rs", "syncline_verify"),
        (
            "crates/syncline/src/metadata/metrics.rs",
            "syncline_metadata",
        ),
    ];
    files
        .map(|(file, prefix)| metrics_of(file, prefix))
        .concat()
}

fn metrics_of(file: &str, prefix: &str) -> Vec<String> {
    let source = fs::read_to_string(checkout().join(file)).expect("it is there");
    let names: Vec<String> = source
        .split("registry.register(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(|name| format!("{prefix}_{name}"))
        .collect();
    assert!(names.len() >= 3, "{file}: {names:?}");
    names
}

#[test]
fn every_metric_of_the_services_is_explained_in_the_operations_guide() {
    let guide = fs::read_to_string(checkout().join("docs/operations.md")).expect("it is there");
    for metric in metrics() {
        assert!(
            guide.contains(&format!("`{metric}")),
            "{metric} is not in docs/operations.md"
        );
    }
}

/// The scalars of a YAML document that follow a key, in order.
fn values_of(key: &str, yaml: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut is_next = false;
    for event in saphyr_parser::Parser::new_from_str(yaml) {
        let (event, _) = event.expect("the file is YAML");
        if let saphyr_parser::Event::Scalar(text, ..) = event {
            if is_next {
                values.push(text.to_string());
            }
            is_next = !is_next && text == key;
        }
    }
    values
}

#[test]
fn every_alert_is_an_expression_that_prometheus_can_evaluate() {
    const READ: &str = "
import promql_parser, sys, yaml
rules = [rule for group in yaml.safe_load(open(sys.argv[1]))['groups'] for rule in group['rules']]
for rule in rules:
    try:
        promql_parser.parse(rule['expr'])
    except ValueError as error:
        sys.exit(f\"{rule['alert']}: {error}\")
print(len(rules))";
    let python = testkit::promql_python().expect("the packages can be installed");
    let rules = checkout().join("deploy/alerts.yaml");
    let read = std::process::Command::new(python)
        .args(["-c", READ])
        .arg(rules)
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{said}");
    let count = String::from_utf8_lossy(&read.stdout);
    assert!(
        count.trim().parse().is_ok_and(|count: usize| count >= 10),
        "{count}"
    );
}

#[test]
fn every_alert_is_about_metrics_that_exist_and_is_explained_in_the_operations_guide() {
    let rules = fs::read_to_string(checkout().join("deploy/alerts.yaml")).expect("it is there");
    let guide = fs::read_to_string(checkout().join("docs/operations.md")).expect("it is there");
    let metrics = metrics();
    let (alerts, expressions) = (values_of("alert", &rules), values_of("expr", &rules));
    assert!(
        alerts.len() >= 10 && alerts.len() == expressions.len(),
        "{alerts:?}"
    );
    for (alert, expression) in alerts.iter().zip(&expressions) {
        assert!(
            guide.contains(&format!("`{alert}`")),
            "{alert} is not in docs/operations.md"
        );
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("syncline_")).collect();
        assert!(
            !named.is_empty() || expression.starts_with("up{"),
            "{expression}"
        );
        for name in named {
            let is_it = |metric: &String| {
                let suffix = name.strip_prefix(metric.as_str());
                suffix.is_some_and(|suffix| {
                    ["", "_total", "_bucket", "_sum", "_count"].contains(&suffix)
                })
            };
            assert!(
                metrics.iter().any(is_it),
                "{alert} is about {name}, which nobody counts"
            );
        }
        for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
            let count = |c| expression.matches(c).count();
            assert_eq!(count(open), count(close), "{expression}");
        }
    }
}
