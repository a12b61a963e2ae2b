//! `syncline up`: the whole pipeline as one program, from one file.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use bus::embedded::{EmbeddedOptions, NatsServer};
use clap::Command;
use config::{ByteSize, Origin, Resolved, Sections, Setting};
use nats_gateway::Control;
use runtime::{
    exit::{self, Exit},
    shutdown::Shutdown,
    supervise::Tasks,
    telemetry,
};

use crate::{
    cli,
    postgres_source::WatcherArgs,
    program::{self, Common, Operation, Shared},
};

/// Runs what the configuration file has sections for: es-watcher, nats-gateway, es-writer, nats-server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Configuration file with a section for each part, such as config/example.yaml; if not given, that of
    /// --config, or syncline.yaml.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
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
    nats: Option<Resolved<NatsServerArgs>>,
    gateway: Option<Resolved<nats_gateway::Args>>,
    watcher: Option<Resolved<WatcherArgs>>,
    writer: Option<Resolved<es_writer::Args>>,
}

impl Parts {
    fn to_yaml(&self) -> String {
        let parts = [
            self.nats.as_ref().map(Resolved::to_yaml),
            self.gateway.as_ref().map(Resolved::to_yaml),
            self.watcher.as_ref().map(Resolved::to_yaml),
            self.writer.as_ref().map(Resolved::to_yaml),
        ];
        parts.into_iter().flatten().collect()
    }
}

pub(crate) fn run(resolved: Resolved<Args>) -> ExitCode {
    let given = resolved
        .args
        .file
        .as_ref()
        .or(resolved.config_path.as_ref());
    let file = given
        .cloned()
        .unwrap_or_else(|| PathBuf::from("syncline.yaml"));
    let parts = match read(&file) {
        Ok(parts) => parts,
        Err(error) => return ExitCode::from(error.report()),
    };
    if resolved.check_config {
        print!("{}{}", resolved.to_yaml(), parts.to_yaml());
        return ExitCode::SUCCESS;
    }
    let args = resolved.args;
    if parts.watcher.is_none() && parts.gateway.is_none() && parts.writer.is_none() {
        eprintln!(
            "error: {file:?} has no section es-watcher, nats-gateway or es-writer: there is nothing to run"
        );
        return Exit::Usage.into();
    }
    let control = parts
        .gateway
        .as_ref()
        .map(|gateway| Control::new(&gateway.args));
    let control = match control.transpose() {
        Ok(control) => control,
        Err(error) => return program::usage(&error),
    };
    if let Err(error) = telemetry::init(&args.common.log_level, args.common.operation.log_format) {
        return program::usage(&error);
    }
    program::on_runtime(start(args.common.operation, parts, control))
}

/// Reads all sections; everything that is wrong in any of them is reported together.
fn read(file: &std::path::Path) -> Result<Parts, config::Error> {
    let mut sections = Sections::read(file)?;
    let nats = section::<NatsServerArgs>(&mut sections, "nats-server");
    let mut gateway = section::<nats_gateway::Args>(&mut sections, "nats-gateway");
    let mut watcher = section::<WatcherArgs>(&mut sections, "es-watcher");
    let mut writer = section::<es_writer::Args>(&mut sections, "es-writer");
    sections.finish(cli::SECTIONS)?;
    let embedding = gateway
        .as_ref()
        .filter(|gateway| gateway.args.embedded.embedded);
    let server = match (&nats, embedding) {
        (Some(nats), _) => Some((
            format!("nats://{}", nats.args.listen),
            "section nats-server",
        )),
        (None, Some(gateway)) => Some((gateway.args.embedded.url(), "section nats-gateway")),
        (None, None) => None,
    };
    if let Some(server) = &server {
        if let Some(part) = &mut gateway {
            point_to(
                server,
                "upstream_url",
                &mut part.settings,
                &mut part.args.upstream_url,
            );
        }
        if let Some(part) = &mut watcher {
            point_to(
                server,
                "nats_url",
                &mut part.settings,
                &mut part.args.search.nats.nats_url,
            );
        }
        if let Some(part) = &mut writer {
            point_to(
                server,
                "nats_url",
                &mut part.settings,
                &mut part.args.nats.nats_url,
            );
        }
    }
    if let Some(part) = &mut writer {
        // All begin at once: what the gateway leaves out must not be written before it is there.
        part.args.expect_gateway |= gateway.is_some();
    }
    Ok(Parts {
        nats,
        gateway,
        watcher,
        writer,
    })
}

/// A part that does not say where NATS is means the server next to it.
fn point_to(
    (url, section): &(String, &str),
    key: &str,
    settings: &mut [Setting],
    nats_url: &mut String,
) {
    let mut settings = settings.iter_mut();
    let setting = settings.find(|setting| setting.key == key);
    if let Some(setting) = setting.filter(|setting| setting.origin == Origin::Default) {
        setting.values = vec![url.clone()];
        setting.origin = Origin::Derived((*section).to_owned());
        nats_url.clone_from(url);
    }
}

/// A part's settings; none where the file has no section for it.
fn section<A: clap::Args>(sections: &mut Sections, name: &'static str) -> Option<Resolved<A>> {
    if !sections.contains(name) {
        return None;
    }
    sections.resolve(name, A::augment_args(Command::new(name)))
}

/// Starts the server first and stops it last.
async fn start(operation: Operation, parts: Parts, control: Option<Control>) -> Exit {
    let drain: Duration = operation.drain_timeout.into();
    let shutdown = match Shutdown::on_signals(drain) {
        Ok(shutdown) => shutdown,
        Err(error) => return exit::report(&error),
    };
    let server = match &parts.nats {
        None => None,
        Some(nats) => match NatsServer::start(nats.args.options()).await {
            Ok(server) => Some(server),
            Err(error) => return exit::report(&error),
        },
    };
    let mut tasks = Tasks::new(shutdown.token());
    let shared = Shared::default();
    let routes = control
        .clone()
        .map(nats_gateway::routes)
        .unwrap_or_default();
    let ended = match program::spawn_admin(&mut tasks, &operation, &shared, routes).await {
        Err(error) => exit::report(&error),
        Ok(()) => {
            if let Some((gateway, control)) = parts.gateway.zip(control) {
                program::spawn_gateway(&mut tasks, shared.clone(), gateway.args, control);
            }
            if let Some(watcher) = parts.watcher {
                program::spawn_watcher(&mut tasks, shared.clone(), watcher.args);
            }
            if let Some(writer) = parts.writer {
                program::spawn_writer(&mut tasks, shared, writer.args);
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
