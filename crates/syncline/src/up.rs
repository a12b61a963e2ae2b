//! `syncline up`: the whole pipeline as one program, from one file.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use bus::embedded::{EmbeddedOptions, NatsServer};
use clap::Command;
use config::{ByteSize, Origin, Resolved, Sections};
use runtime::{
    exit::{self, Exit},
    shutdown::Shutdown,
    supervise::Tasks,
    telemetry,
};

use crate::{
    cli,
    program::{self, Common, Shared},
};

/// Runs what the configuration file has sections for: es-watcher, es-writer, nats-server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Configuration file with a section for each part, such as config/example.yaml.
    #[arg(value_name = "FILE", default_value = "syncline.yaml")]
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// The section `nats-server`: a real nats-server as a child of this process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NatsServerArgs {
    /// Path to the nats-server binary.
    #[arg(long, default_value = "/usr/bin/nats-server", value_name = "PATH")]
    binary: PathBuf,
    /// Address it listens on.
    #[arg(long, default_value = "127.0.0.1:4222", value_name = "ADDR")]
    listen: SocketAddr,
    /// JetStream storage directory.
    #[arg(long, default_value = "/data/jetstream", value_name = "PATH")]
    store_dir: PathBuf,
    /// JetStream's most memory.
    #[arg(long, default_value = "64MB", value_name = "SIZE")]
    js_max_memory: ByteSize,
    /// JetStream's most file storage.
    #[arg(long, default_value = "1GB", value_name = "SIZE")]
    js_max_file: ByteSize,
    /// Write each message to the disk before it is acknowledged: nothing is lost with the power,
    /// at a tenth of the speed.
    #[arg(long)]
    sync_always: bool,
}

impl NatsServerArgs {
    fn options(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            max_memory: self.js_max_memory.bytes(),
            max_file: self.js_max_file.bytes(),
            sync_always: self.sync_always,
            ..EmbeddedOptions::new(self.binary.clone(), self.listen, self.store_dir.clone())
        }
    }
}

struct Parts {
    nats: Option<NatsServerArgs>,
    watcher: Option<es_watcher::Args>,
    writer: Option<es_writer::Args>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let parts = match read(&args.file) {
        Ok(parts) => parts,
        Err(error) => return ExitCode::from(error.report()),
    };
    if parts.watcher.is_none() && parts.writer.is_none() {
        eprintln!(
            "error: {:?} has neither a section es-watcher nor es-writer: there is nothing to run",
            args.file
        );
        return Exit::Usage.into();
    }
    if let Err(error) = telemetry::init(&args.common.log_level, args.common.log_format) {
        return program::usage(&error);
    }
    program::on_runtime(start(args.common, parts))
}

/// Reads all sections; everything that is wrong in any of them is reported together.
fn read(file: &std::path::Path) -> Result<Parts, config::Error> {
    let mut sections = Sections::read(file)?;
    let nats = section::<NatsServerArgs>(&mut sections, "nats-server");
    let mut watcher = section::<es_watcher::Args>(&mut sections, "es-watcher");
    let mut writer = section::<es_writer::Args>(&mut sections, "es-writer");
    sections.finish(cli::SECTIONS)?;
    if let Some(nats) = &nats {
        let url = format!("nats://{}", nats.args.listen);
        if let Some(watcher) = watcher
            .as_mut()
            .filter(|parts| is_default(parts, "nats_url"))
        {
            watcher.args.nats.nats_url = url.clone();
        }
        if let Some(writer) = writer
            .as_mut()
            .filter(|parts| is_default(parts, "nats_url"))
        {
            writer.args.nats.nats_url = url;
        }
    }
    Ok(Parts {
        nats: nats.map(|resolved| resolved.args),
        watcher: watcher.map(|resolved| resolved.args),
        writer: writer.map(|resolved| resolved.args),
    })
}

/// A part's settings; none where the file has no section for it.
fn section<A: clap::Args>(sections: &mut Sections, name: &'static str) -> Option<Resolved<A>> {
    if !sections.contains(name) {
        return None;
    }
    sections.resolve(name, A::augment_args(Command::new(name)))
}

fn is_default<A>(resolved: &Resolved<A>, key: &str) -> bool {
    let mut settings = resolved.settings.iter();
    settings.any(|setting| setting.key == key && matches!(setting.origin, Origin::Default))
}

/// Starts the server first and stops it last.
async fn start(common: Common, parts: Parts) -> Exit {
    let drain: Duration = common.drain_timeout.into();
    let shutdown = match Shutdown::on_signals(drain) {
        Ok(shutdown) => shutdown,
        Err(error) => return exit::report(&error),
    };
    let server = match &parts.nats {
        None => None,
        Some(args) => match NatsServer::start(args.options()).await {
            Ok(server) => Some(server),
            Err(error) => return exit::report(&error),
        },
    };
    let mut tasks = Tasks::new(shutdown.token());
    let shared = Shared::default();
    let ended = match program::spawn_admin(&mut tasks, &common, &shared).await {
        Err(error) => exit::report(&error),
        Ok(()) => {
            if let Some(args) = parts.watcher {
                program::spawn_watcher(&mut tasks, shared.clone(), args);
            }
            if let Some(args) = parts.writer {
                program::spawn_writer(&mut tasks, shared, args);
            }
            match tasks.join(drain).await {
                Ok(()) => Exit::Success,
                Err(error) => exit::report(&error),
            }
        }
    };
    if let Some(server) = server {
        server.stop(drain).await;
    }
    ended
}
