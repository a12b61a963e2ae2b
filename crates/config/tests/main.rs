//! The resolution as a service sees it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

use std::{collections::HashMap, ffi::OsString, path::PathBuf};

use clap::{CommandFactory, Parser};
use config::{
    ByteSize, CommaList, Error, Millis, Origin, Resolved, Resolver, Secret, Sections, reference,
};
use tempfile::TempDir;

/// Watches a source.
#[derive(Parser, Debug, PartialEq)]
#[command(name = "es-watcher", version)]
struct Watcher {
    /// Elasticsearch hosts (comma-separated)
    #[arg(
        long,
        env = "ES_HOSTS",
        value_name = "HOST,...",
        default_value = "http://localhost:9200"
    )]
    es_hosts: CommaList,
    /// Tenant identifier
    #[arg(long, env = "TENANT", default_value = "default")]
    tenant: String,
    /// Poll interval
    #[arg(long, env = "POLL_INTERVAL", value_name = "MS", default_value = "100")]
    poll_interval: Millis,
    /// Filter subjects
    #[arg(
        long,
        env = "FILTER_SUBJECTS",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    filter_subjects: Vec<String>,
    /// Password
    #[arg(long, env = "ES_PASSWORD", conflicts_with = "anonymous")]
    password: Option<Secret>,
    /// Connect without a name
    #[arg(long, env = "ANONYMOUS")]
    anonymous: bool,
    /// How the source is refreshed
    #[arg(long, default_value = "force", value_parser = ["force", "natural"])]
    source_refresh: String,
}

#[derive(Parser, Debug)]
struct Server {
    /// Where it stores
    #[arg(long, env = "STORE_DIR", help_heading = "EMBEDDED MODE")]
    store_dir: PathBuf,
    /// Memory | most
    #[arg(long, value_name = "SIZE", default_value = "64MB")]
    js_max_memory: ByteSize,
}

struct Case {
    folder: TempDir,
    environment: HashMap<String, String>,
    argv: Vec<String>,
}

impl Case {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            environment: HashMap::new(),
            argv: vec!["es-watcher".to_owned()],
        }
    }

    fn file(mut self, yaml: &str) -> Self {
        std::fs::write(self.path(), yaml).unwrap();
        self.argv
            .extend(["--config".to_owned(), self.path().display().to_string()]);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.argv
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pipeline.yaml")
    }

    fn resolve(&self) -> Result<Resolved<Watcher>, Error> {
        Resolver::new("es-watcher", Watcher::command())
            .sections(&["es-watcher", "es-writer"])
            .environment(|name| self.environment.get(name).map(OsString::from))
            .resolve(&self.argv)
    }

    fn args(&self) -> Watcher {
        self.resolve().unwrap().args
    }

    /// The error, with the file's folder taken out.
    fn error(&self) -> String {
        let text = self.resolve().unwrap_err().to_string();
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn origin(resolved: &Resolved<Watcher>, key: &str) -> Origin {
    resolved
        .settings
        .iter()
        .find(|setting| setting.key == key)
        .unwrap()
        .origin
        .clone()
}

#[test]
fn commands_are_sound() {
    Watcher::command().debug_assert();
    Server::command().debug_assert();
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    for mask in 0..8 {
        let mut case = Case::new();
        let (mut tenant, mut from) = ("default", Origin::Default);
        if mask & 1 != 0 {
            case = case.file("es-watcher:\n  tenant: file\n");
            (tenant, from) = ("file", Origin::File(case.path(), 2));
        }
        if mask & 2 != 0 {
            case = case.env("TENANT", "env");
            (tenant, from) = ("env", Origin::Environment("TENANT".to_owned()));
        }
        if mask & 4 != 0 {
            case = case.flags(&["--tenant", "flag"]);
            (tenant, from) = ("flag", Origin::Flag);
        }
        let resolved = case.resolve().unwrap();
        assert_eq!(resolved.args.tenant, tenant, "combination {mask:03b}");
        assert_eq!(origin(&resolved, "tenant"), from, "combination {mask:03b}");
    }
}

#[test]
fn a_switch_obeys_the_same_order_and_can_be_switched_off() {
    for (file, env, flag, on) in [
        (None, None, None, false),
        (Some("true"), None, None, true),
        (Some("yes"), None, None, true),
        (Some("true"), Some("false"), None, false),
        (Some("false"), Some("1"), None, true),
        (Some("true"), Some("1"), Some("--anonymous=false"), false),
        (Some("false"), Some("0"), Some("--anonymous"), true),
    ] {
        let mut case = Case::new();
        if let Some(file) = file {
            case = case.file(&format!("es-watcher:\n  anonymous: {file}\n"));
        }
        if let Some(env) = env {
            case = case.env("ANONYMOUS", env);
        }
        case = case.flags(flag.as_slice());
        assert_eq!(case.args().anonymous, on, "{file:?} {env:?} {flag:?}");
    }
}

#[test]
fn the_file_names_itself_by_variable_too_and_an_empty_variable_is_unset() {
    let case = Case::new();
    std::fs::write(case.path(), "es-watcher: {tenant: file}").unwrap();
    let path = case.path().display().to_string();
    let case = case.env("SYNCLINE_CONFIG", &path).env("TENANT", "");
    assert_eq!(case.args().tenant, "file");
    assert_eq!(
        Case::new().env("SYNCLINE_CONFIG", "").args().tenant,
        "default"
    );
}

#[test]
fn lists_are_written_as_lists_or_with_commas() {
    let written = [
        "es-watcher:\n  es_hosts: [\"http://a:1\", http://b:2]\n  filter_subjects: [x, y]\n",
        "es-watcher:\n  es_hosts: http://a:1, http://b:2\n  filter_subjects: x,y\n",
        "es-watcher:\n  es_hosts:\n  - http://a:1\n  - http://b:2\n  filter_subjects:\n  - x\n  - y\n",
    ];
    for yaml in written {
        let args = Case::new().file(yaml).args();
        assert_eq!(&*args.es_hosts, ["http://a:1", "http://b:2"]);
        assert_eq!(args.filter_subjects, ["x", "y"]);
    }
}

#[test]
fn every_error_is_reported_at_once_with_its_line() {
    let case = Case::new().env("POLL_INTERVAL", "soon").file(
        "es-watcher:\n  \
           tennant: a\n  \
           poll_interval: [1, 2]\n  \
           poll_interval: 5 weeks\n  \
           anonymous: maybe\n  \
           source_refresh: forced\n  \
           tenant:\n  \
           es_hosts: {a: 1}\n  \
           unheard_of: 1\n  \
           config: x\n\
         es-writter:\n  batch_size: 1\n\
         kitchen: 1\n\
         es-watcher: {}\n",
    );
    let lines = [
        "environment variable POLL_INTERVAL: `soon` is not accepted: it does not start with a whole number; write a time such as 250ms or 10s; the default is 100",
        "pipeline.yaml:2: key `es-watcher.tennant`: no such setting; did you mean `tenant`?",
        "pipeline.yaml:3: key `es-watcher.poll_interval`: it wants a single value, not a list; remove the brackets or dashes",
        "pipeline.yaml:4: key `es-watcher.poll_interval`: given before, on line 3; keep one",
        "pipeline.yaml:5: key `es-watcher.anonymous`: `maybe` is not accepted: value was not a boolean; write true or false",
        "pipeline.yaml:6: key `es-watcher.source_refresh`: `forced` is not accepted; use one of force, natural",
        "pipeline.yaml:7: key `es-watcher.tenant`: it has no value; give it one or remove the key",
        "pipeline.yaml:8: key `es-watcher.es_hosts`: it wants a value, not a mapping; write it on one line",
        "pipeline.yaml:9: key `es-watcher.unheard_of`: no such setting; --help lists them, in a file with `_` for `-`",
        "pipeline.yaml:10: key `es-watcher.config`: can only be given on the command line; remove it and use --config",
        "pipeline.yaml:11: section `es-writter`: no such section; did you mean `es-writer`?",
        "pipeline.yaml:13: section `kitchen`: no such section; there are es-watcher, es-writer",
        "pipeline.yaml:14: section `es-watcher`: given before, on line 1; keep one",
    ];
    for (found, wanted) in case.error().lines().zip(lines) {
        assert_eq!(found, wanted);
    }
    assert_eq!(case.error().lines().count(), lines.len());
}

#[test]
fn malformed_yaml_names_line_and_column() {
    let error = Case::new().file("es-watcher:\n  tenant: \"open\n").error();
    assert!(error.starts_with("pipeline.yaml:"), "{error}");
    assert!(error.contains("not valid YAML"), "{error}");
    let list = Case::new().file("- a\n").error();
    assert!(
        list.starts_with("pipeline.yaml:1: the file is not a mapping"),
        "{list}"
    );
    let missing = Case::new().flags(&["--config", "/nowhere/x.yaml"]).error();
    assert!(
        missing.starts_with("configuration file /nowhere/x.yaml cannot be read"),
        "{missing}"
    );
}

#[test]
fn a_conflict_across_origins_says_where_the_other_side_stands() {
    let case = Case::new()
        .file("es-watcher:\n  password: geheim\n")
        .flags(&["--anonymous"]);
    let error = case.error();
    assert!(error.contains("cannot be used with"), "{error}");
    assert!(
        error.contains("note: --password comes from pipeline.yaml:2"),
        "{error}"
    );
    assert!(!error.contains("geheim"), "{error}");
    let off = Case::new().file("es-watcher:\n  password: x\n  anonymous: false\n");
    assert_eq!(off.args().password, Some(Secret::new("x")));
}

#[test]
fn nothing_secret_is_ever_shown() {
    let case = Case::new()
        .env("ES_PASSWORD", "geheim")
        .file("es-watcher:\n  es_hosts: [\"http://elastic:geheim@a:1\", http://b:2]\n");
    let resolved = case.resolve().unwrap();
    assert_eq!(resolved.args.password.as_ref().unwrap().expose(), "geheim");
    let shown = format!("{}{:?}", resolved.to_yaml(), resolved.settings);
    assert!(!shown.contains("geheim"), "{shown}");
    assert!(shown.contains("elastic:***@a:1"), "{shown}");
    for wrong in ["http://u:geheim@h", "://u:geheim@h"] {
        let error = Case::new().flags(&["--poll-interval", wrong]).error();
        assert!(!error.contains("geheim"), "{error}");
        let error = Case::new().env("POLL_INTERVAL", wrong).error();
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let case = Case::new()
        .env("TENANT", "#odd \"tenant\": [*] \\ \n")
        .flags(&["--filter-subjects", "es.a.>,es.b.*", "--anonymous"])
        .file("es-watcher:\n  poll_interval: 5s\n");
    let first = case.resolve().unwrap();
    let again = Case::new().file(&first.to_yaml());
    assert_eq!(again.args(), first.args);
}

#[test]
fn the_printed_configuration_names_every_origin() {
    let case = Case::new()
        .env("TENANT", "acme")
        .flags(&["--anonymous"])
        .file("es-watcher:\n  poll_interval: 5s\n");
    let yaml = case.resolve().unwrap().to_yaml();
    let path = case.path().display().to_string();
    assert_eq!(
        yaml.replace(&path, "FILE"),
        "es-watcher:\n  \
           es_hosts: http://localhost:9200  # default\n  \
           tenant: acme                     # environment TENANT\n  \
           poll_interval: 5s                # FILE:2\n  \
           # filter_subjects:               not set\n  \
           # password:                      not set\n  \
           anonymous: true                  # flag\n  \
           source_refresh: force            # default\n"
    );
}

#[test]
fn help_is_help_and_a_wrong_flag_is_usage() {
    let help = Case::new().flags(&["--help"]).resolve().unwrap_err();
    assert!(help.is_help());
    let text = help.to_string();
    for part in [
        "--config <FILE>",
        "[env: ES_HOSTS]",
        "--check-config",
        "[default: 100]",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let wrong = Case::new()
        .flags(&["--tennant", "x"])
        .resolve()
        .unwrap_err();
    assert!(!wrong.is_help());
    assert!(wrong.to_string().contains("--tenant"), "{wrong}");
    assert!(
        Case::new()
            .flags(&["--check-config"])
            .resolve()
            .unwrap()
            .check_config
    );
}

#[test]
fn a_required_flag_may_stand_in_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.yaml");
    std::fs::write(&path, "nats-server:\n  store_dir: /data\n").unwrap();
    let nothing = |_: &str| None;
    let argv = ["nats-server", "--config", path.to_str().unwrap()];
    let server: Resolved<Server> = Resolver::new("nats-server", Server::command())
        .environment(nothing)
        .resolve(argv)
        .unwrap();
    assert_eq!(server.args.store_dir, PathBuf::from("/data"));
    assert_eq!(server.args.js_max_memory, ByteSize::mib(64));
    let missing = Resolver::new("nats-server", Server::command())
        .environment(nothing)
        .resolve::<Server>(["nats-server"]);
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("--store-dir <STORE_DIR>")
    );
}

#[test]
fn several_sections_report_their_errors_together() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.yaml");
    let yaml = "nats-server:\n  js_max_memory: 64XB\nes-watcher:\n  password: x\n  anonymous: true\nwhat: {}\nes-writer: {}\n";
    std::fs::write(&path, yaml).unwrap();
    let mut sections = Sections::read(&path).unwrap();
    assert!(sections.contains("es-watcher") && !sections.contains("nats-gateway"));
    assert!(
        sections
            .resolve::<Watcher>("es-watcher", Watcher::command())
            .is_none()
    );
    assert!(
        sections
            .resolve::<Server>("nats-server", Server::command())
            .is_none()
    );
    let error = sections.finish(&["es-writer"]).unwrap_err().to_string();
    let error = error.replace(&format!("{}/", folder.path().display()), "");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(
        lines[0].starts_with("x.yaml: section `es-watcher`: the argument '--password"),
        "{error}"
    );
    assert!(
        lines[1].starts_with("x.yaml:2: key `nats-server.js_max_memory`"),
        "{error}"
    );
    assert!(
        lines[2].starts_with("x.yaml:6: section `what`: no such section"),
        "{error}"
    );
}

#[test]
fn several_sections_resolve_from_one_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.yaml");
    std::fs::write(
        &path,
        "nats-server: {store_dir: /s}\nes-watcher:\n  tenant: t\n",
    )
    .unwrap();
    let mut sections = Sections::read(&path).unwrap();
    let watcher = sections
        .resolve::<Watcher>("es-watcher", Watcher::command())
        .unwrap();
    let server = sections
        .resolve::<Server>("nats-server", Server::command())
        .unwrap();
    sections.finish(&[]).unwrap();
    assert_eq!(watcher.args.tenant, "t");
    assert_eq!(server.args.store_dir, PathBuf::from("/s"));
}

#[test]
fn the_reference_is_a_table_of_the_command() {
    assert_eq!(
        reference("nats-server", &Server::command()),
        "## nats-server\n\
         \n\
         | Flag | Variable | YAML key | Default | Meaning |\n\
         |---|---|---|---|---|\n\
         | `--js-max-memory <SIZE>` |  | `js_max_memory` | `64MB` | Memory \\| most |\n\
         \n\
         ### EMBEDDED MODE\n\
         \n\
         | Flag | Variable | YAML key | Default | Meaning |\n\
         |---|---|---|---|---|\n\
         | `--store-dir <STORE_DIR>` | `STORE_DIR` | `store_dir` | required | Where it stores |\n"
    );
    let watcher = reference("es-watcher", &Watcher::command());
    for row in [
        "| `--anonymous` | `ANONYMOUS` | `anonymous` | `false` | Connect without a name |",
        "| `--source-refresh <SOURCE_REFRESH>` |  | `source_refresh` | `force` | How the source is refreshed (one of `force`, `natural`) |",
    ] {
        assert!(watcher.contains(row), "{row} is missing in\n{watcher}");
    }
}
