//! `nats-gateway test`: what rules make of documents, without a cluster.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args as _, CommandFactory, FromArgMatches, Parser};
use config::{Resolver, tree::Issues};
use model::{IndexName, Tenant};
use nats_gateway::{Control, Trial};
use runtime::exit::Exit;

use crate::cli;

/// Shows documents before and after the rules, and what is dropped, deleted or refused.
#[derive(Debug, Parser)]
#[command(name = "nats-gateway test")]
struct Args {
    /// Rule file; or a configuration file whose section nats-gateway names one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Documents, one a line: alone, or as searches and dumps show them, with _index, _id and _source; - reads
    /// standard input.
    #[arg(long, default_value = "-", value_name = "FILE")]
    input: PathBuf,
    /// Index of the documents that do not say theirs.
    #[arg(long, default_value = "documents", value_name = "NAME")]
    index: IndexName,
    /// Tenant of all of them.
    #[arg(long, default_value = "default", value_name = "TENANT")]
    tenant: Tenant,
}

/// Whether the arguments ask for this.
pub(crate) fn is_meant(argv: &[OsString]) -> bool {
    argv.get(1).is_some_and(|word| word == "test")
}

pub(crate) fn run(argv: Vec<OsString>) -> ExitCode {
    let matches = Args::command().try_get_matches_from(argv.into_iter().skip(1));
    let args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let service = match service(&args.config) {
        Ok(service) => service,
        Err(code) => return code,
    };
    let control = match Control::new(&service) {
        Ok(control) => control,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("error: {line}");
            }
            return Exit::Usage.into();
        }
    };
    match show(&args, &service, &control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failure.into()
        }
    }
}

/// The gateway's settings: those of a configuration file, or none but the rules.
fn service(file: &Path) -> Result<nats_gateway::Args, ExitCode> {
    let command = nats_gateway::Args::augment_args(clap::Command::new("nats-gateway"));
    let resolver = Resolver::new("nats-gateway", command).sections(cli::SECTIONS);
    let path = file.as_os_str().to_owned();
    let flag = if is_rule_file(file) {
        "--rules"
    } else {
        "--config"
    };
    let argv = ["nats-gateway".into(), flag.into(), path];
    match resolver.resolve::<nats_gateway::Args>(argv) {
        Ok(resolved) => Ok(resolved.args),
        Err(error) => Err(ExitCode::from(error.report())),
    }
}

/// A file that cannot be read is one, too: then that is said of it.
fn is_rule_file(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else {
        return true;
    };
    let issues = Issues::of("");
    let root = issues.parse(&text);
    root.is_none_or(|root| root.keys().all(|key| !cli::SECTIONS.contains(&key)))
}

fn show(args: &Args, service: &nats_gateway::Args, control: &Control) -> Result<()> {
    let limits = (service.jq_timeout.into(), service.jq_memory.bytes());
    let rules = control.rules().borrow().clone();
    let mut trial = Trial::new(rules, limits, args.index.clone(), args.tenant.clone());
    let input: Box<dyn BufRead> = match args.input.as_os_str() == "-" {
        true => {
            if std::io::stdin().is_terminal() {
                eprintln!("reading documents, one a line; Ctrl-D ends");
            }
            Box::new(std::io::stdin().lock())
        }
        false => {
            let file = std::fs::File::open(&args.input);
            Box::new(BufReader::new(
                file.with_context(|| args.input.display().to_string())?,
            ))
        }
    };
    let mut output = std::io::stdout().lock();
    for (number, line) in input.lines().enumerate() {
        let line = line.context("the input cannot be read")?;
        if line.trim().is_empty() {
            continue;
        }
        let said = trial.run(number + 1, &line)?;
        if output.write_all(said.as_bytes()).is_err() {
            return Ok(()); // whoever reads it has seen enough
        }
    }
    Ok(())
}
