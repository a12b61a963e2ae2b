//! The one program: `syncline <command>`, and the services by the names they are called with
//! (`es-watcher` as a link to `syncline`).

mod check;
mod cli;
mod dlq;
mod explain;
mod gateway_test;
mod metadata;
mod plan;
mod postgres_source;
mod program;
mod progress;
mod query_key;
mod readers;
mod reference;
mod resync;
mod sync;
mod up;
mod verify;

use std::{ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    // The gateway's child, which is nobody's command.
    if argv.get(1).is_some_and(|word| word == nats_gateway::WORKER) {
        let memory = argv
            .get(2)
            .and_then(|word| word.to_str())
            .unwrap_or_default();
        return match nats_gateway::work(memory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let called = argv.first().map(Path::new).and_then(Path::file_name);
    let called = called.and_then(|name| name.to_str()).unwrap_or_default();
    // A link's name is the command; for the program itself the first argument is.
    if let Some(command) = cli::find(called) {
        return cli::run(command, argv);
    }
    match argv
        .get(1)
        .and_then(|word| word.to_str())
        .map(str::to_owned)
    {
        None => {
            eprint!("{}", cli::overview());
            runtime::exit::Exit::Usage.into()
        }
        Some(word) if matches!(word.as_str(), "help" | "--help" | "-h") => {
            print!("{}", cli::overview());
            ExitCode::SUCCESS
        }
        Some(word) if matches!(word.as_str(), "version" | "--version" | "-V") => {
            println!("syncline {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(word) => match cli::find(&word) {
            Some(command) => {
                argv.remove(0);
                cli::run(command, argv)
            }
            None => {
                eprintln!("error: there is no command {word:?}; `syncline help` lists them");
                runtime::exit::Exit::Usage.into()
            }
        },
    }
}
