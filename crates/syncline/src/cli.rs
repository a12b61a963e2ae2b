//! The commands there are, and how their flags become a run.

use std::{ffi::OsString, fmt::Write, process::ExitCode};

use clap::{Args, Command, FromArgMatches};
use config::{Resolved, Resolver};

use crate::{
    check, dlq, explain, gateway_test, metadata, postgres_source::WatcherArgs, program, query_key,
    readers, reference, resync, sync, up, verify,
};

/// The sections a configuration file may have: one for each command that runs for long.
pub(crate) const SECTIONS: &[&str] = &[
    "es-watcher",
    "es-writer",
    "nats-gateway",
    "query-api",
    "nats-server",
    "up",
    "sync",
    "verify",
    "metadata",
];

/// A command of the program.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    about: &'static str,
    run: fn(&'static str, Vec<OsString>) -> ExitCode,
}

const COMMANDS: &[Entry] = &[
    Entry {
        name: "sync",
        about: "Copies indices from one cluster to another; --follow keeps them equal",
        run: |name, argv| start::<sync::Args>(name, argv, |args| program::command(sync::run(args))),
    },
    Entry {
        name: "up",
        about: "Runs watcher, embedded nats-server and writer as one program",
        run: |name, argv| resolve::<up::Args>(name, argv, up::run),
    },
    Entry {
        name: "verify",
        about: "Compares two clusters completely, and repairs the target if asked to",
        run: |name, argv| start::<verify::Args>(name, argv, verify::start),
    },
    Entry {
        name: "check",
        about: "Checks connections, privileges and storage before a run; changes nothing",
        run: |name, argv| {
            start::<check::Args>(name, argv, |args| program::command(check::run(args)))
        },
    },
    Entry {
        name: "metadata",
        about: "Carries templates from one cluster to another, and says what differs",
        run: |name, argv| start::<metadata::Args>(name, argv, metadata::start),
    },
    Entry {
        name: "readers",
        about: "Lists who reads the stream and how far, or forgets a reader that is gone",
        run: |name, argv| {
            start::<readers::Args>(name, argv, |args| program::command(readers::run(args)))
        },
    },
    Entry {
        name: "dlq",
        about: "Lists what the target has refused, shows it, sends it again or removes it",
        run: |name, argv| start::<dlq::Args>(name, argv, |args| program::command(dlq::run(args))),
    },
    Entry {
        name: "explain",
        about: "Says where one document is between source and target, and why",
        run: |name, argv| {
            start::<explain::Args>(name, argv, |args| program::command(explain::run(args)))
        },
    },
    Entry {
        name: "resync",
        about: "Publishes an index, or some of its documents, once more",
        run: |name, argv| {
            start::<resync::Args>(name, argv, |args| program::command(resync::run(args)))
        },
    },
    Entry {
        name: "es-watcher",
        about: "Watches a source cluster and publishes its changes to NATS",
        run: |name, argv| start::<program::Service<WatcherArgs>>(name, argv, program::watcher),
    },
    Entry {
        name: "es-writer",
        about: "Reads changes from NATS and writes them into a target cluster",
        run: |name, argv| start::<program::Service<es_writer::Args>>(name, argv, program::writer),
    },
    Entry {
        name: "query-api",
        about: "Answers searches over REST, each API key within its scope",
        run: |name, argv| {
            start::<program::Service<query_api::Args>>(name, argv, program::query_api)
        },
    },
    Entry {
        name: "query-key",
        about: "Makes an API key for query-api",
        run: |name, argv| start::<query_api::NewKeyArgs>(name, argv, query_key::run),
    },
    Entry {
        name: "nats-gateway",
        about: "Filters and transforms between two streams; can run nats-server itself",
        run: |name, argv| match gateway_test::is_meant(&argv) {
            true => gateway_test::run(argv),
            false => start::<program::Service<nats_gateway::Args>>(name, argv, program::gateway),
        },
    },
    Entry {
        name: "reference",
        about: "Prints the reference of all settings as Markdown",
        run: |_, _| reference::run(),
    },
];

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}

/// Runs a command; `argv` starts with its name.
pub(crate) fn run(entry: &'static Entry, argv: Vec<OsString>) -> ExitCode {
    (entry.run)(entry.name, argv)
}

/// What `syncline help` prints.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "Keeps search clusters exactly equal to their sources.\n\n\
         Usage: syncline <COMMAND> [OPTIONS]\n\nCommands:\n",
    );
    for entry in COMMANDS {
        writeln!(text, "  {:<14}{}", entry.name, entry.about)
            .expect("writing to a String cannot fail");
    }
    text.push_str("\n`syncline COMMAND --help` lists a command's options.\n");
    text
}

/// Resolves the flags of a command and starts it, unless they were only to be shown.
fn start<A: Args + FromArgMatches>(
    name: &'static str,
    argv: Vec<OsString>,
    run: impl FnOnce(A) -> ExitCode,
) -> ExitCode {
    resolve(name, argv, |resolved: Resolved<A>| {
        if resolved.check_config {
            print!("{}", resolved.to_yaml());
            return ExitCode::SUCCESS;
        }
        run(resolved.args)
    })
}

fn resolve<A: Args + FromArgMatches>(
    name: &'static str,
    argv: Vec<OsString>,
    run: impl FnOnce(Resolved<A>) -> ExitCode,
) -> ExitCode {
    let command = A::augment_args(Command::new(name)).version(env!("CARGO_PKG_VERSION"));
    let resolver = Resolver::new(name, with_ports(name, command)).sections(SECTIONS);
    match resolver.resolve(argv) {
        Ok(resolved) => run(resolved),
        Err(error) => ExitCode::from(error.report()),
    }
}

/// Gives each service an admin port of its own, so that all can run on one machine.
pub(crate) fn with_ports(name: &str, command: Command) -> Command {
    let port = match name {
        // What the seeds promise: probes come from outside.
        "nats-gateway" => "0.0.0.0:8080",
        "es-watcher" => "127.0.0.1:8081",
        "es-writer" => "127.0.0.1:8082",
        "up" => "127.0.0.1:8083",
        "verify" => "127.0.0.1:8084",
        "metadata" => "127.0.0.1:8085",
        "query-api" => "127.0.0.1:8086",
        _ => return command,
    };
    command.mut_arg("admin_listen", |arg| arg.default_value(port))
}
