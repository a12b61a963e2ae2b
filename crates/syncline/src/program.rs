//! What every run has around it: logs, signals, the admin listener, an exit code.

use std::{process::ExitCode, time::Duration};

use ::config::Millis;
use axum::Router;
use nats_gateway::Control;
use runtime::{
    admin,
    exit::{self, Exit},
    health::Health,
    metrics::Metrics,
    shutdown::Shutdown,
    supervise::Tasks,
    telemetry::{self, LogFormat},
};
use tokio_util::sync::CancellationToken;

use crate::postgres_source::WatcherArgs;

/// The flags that every service has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct Common {
    /// Log level: error, warn, info, debug or trace; or a filter such as info,bus=debug.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: String,
    #[command(flatten)]
    pub(crate) operation: Operation,
}

/// The same for a command that is a service only if that is asked for.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct Operation {
    /// Log format: text, json, or auto (text on a terminal).
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "auto",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    /// Address of health and metrics.
    #[arg(
        long,
        env = "ADMIN_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDR"
    )]
    pub(crate) admin_listen: String,
    /// No health and metrics listener.
    #[arg(long, env = "ADMIN_DISABLED")]
    pub(crate) admin_disabled: bool,
    /// How long a stop may take before it is cut off.
    #[arg(
        long,
        env = "DRAIN_TIMEOUT",
        default_value = "20s",
        value_name = "DURATION"
    )]
    pub(crate) drain_timeout: Millis,
}

/// A service's flags together with those all have.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Service<A: clap::Args> {
    #[command(flatten)]
    pub(crate) own: A,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What the parts of a running service share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

pub(crate) fn watcher(args: Service<WatcherArgs>) -> ExitCode {
    service(
        &args.common.log_level,
        args.common.operation,
        |tasks, shared| {
            spawn_watcher(tasks, shared, args.own);
        },
    )
}

pub(crate) fn writer(args: Service<es_writer::Args>) -> ExitCode {
    service(
        &args.common.log_level,
        args.common.operation,
        |tasks, shared| {
            spawn_writer(tasks, shared, args.own);
        },
    )
}

pub(crate) fn query_api(args: Service<query_api::Args>) -> ExitCode {
    service(
        &args.common.log_level,
        args.common.operation,
        |tasks, shared| {
            let token = tasks.token().clone();
            tasks.spawn("query-api", async move {
                query_api::run(args.own, &shared.metrics, &shared.health, &token).await
            });
        },
    )
}

pub(crate) fn gateway(args: Service<nats_gateway::Args>) -> ExitCode {
    let control = match Control::new(&args.own) {
        Ok(control) => control,
        Err(error) => return usage(&error),
    };
    let routes = nats_gateway::routes(control.clone());
    service_with(
        &args.common.log_level,
        args.common.operation,
        routes,
        |tasks, shared| spawn_gateway(tasks, shared, args.own, control),
    )
}

pub(crate) fn spawn_gateway(
    tasks: &mut Tasks,
    shared: Shared,
    args: nats_gateway::Args,
    control: Control,
) {
    let token = tasks.token().clone();
    tasks.spawn("nats-gateway", async move {
        nats_gateway::run(args, control, &shared.metrics, &shared.health, &token).await
    });
}

pub(crate) fn spawn_watcher(tasks: &mut Tasks, shared: Shared, args: WatcherArgs) {
    let token = tasks.token().clone();
    match args.postgres_url() {
        Some(url) => tasks.spawn("es-watcher", async move {
            let options = args.postgres_options(&url)?;
            pg_watcher::run(options, &shared.metrics, &shared.health, &token).await
        }),
        None => tasks.spawn("es-watcher", async move {
            es_watcher::run(args.search, &shared.metrics, &shared.health, &token).await
        }),
    }
}

pub(crate) fn spawn_writer(tasks: &mut Tasks, shared: Shared, args: es_writer::Args) {
    let token = tasks.token().clone();
    tasks.spawn("es-writer", async move {
        es_writer::run(args, &shared.metrics, &shared.health, &token).await
    });
}

/// Runs a service with its admin listener until a signal comes or a task fails.
pub(crate) fn service(
    log_level: &str,
    operation: Operation,
    start: impl FnOnce(&mut Tasks, Shared),
) -> ExitCode {
    service_with(log_level, operation, Router::new(), start)
}

/// The same with routes of its own on the admin listener.
fn service_with(
    log_level: &str,
    operation: Operation,
    routes: Router,
    start: impl FnOnce(&mut Tasks, Shared),
) -> ExitCode {
    if let Err(error) = telemetry::init(log_level, operation.log_format) {
        return usage(&error);
    }
    on_runtime(async move {
        let drain: Duration = operation.drain_timeout.into();
        let shutdown = match Shutdown::on_signals(drain) {
            Ok(shutdown) => shutdown,
            Err(error) => return exit::report(&error),
        };
        let mut tasks = Tasks::new(shutdown.token());
        let shared = Shared::default();
        if let Err(error) = spawn_admin(&mut tasks, &operation, &shared, routes).await {
            return exit::report(&error);
        }
        start(&mut tasks, shared);
        match tasks.join(drain).await {
            Ok(()) => Exit::Success,
            Err(error) => exit::report(&error),
        }
    })
}

/// Binds the admin listener, unless it is switched off.
pub(crate) async fn spawn_admin(
    tasks: &mut Tasks,
    operation: &Operation,
    shared: &Shared,
    routes: Router,
) -> Result<(), admin::AdminError> {
    if operation.admin_disabled {
        return Ok(());
    }
    let server = admin::Server::new(
        operation.admin_listen.as_str(),
        shared.health.clone(),
        shared.metrics.clone(),
    )
    .route(routes);
    let bound = server.bind().await?;
    let token = tasks.token().clone();
    tasks.spawn("admin listener", bound.serve(token));
    Ok(())
}

/// Runs a command that ends by itself.
pub(crate) fn command(work: impl Future<Output = Exit>) -> ExitCode {
    on_runtime(work)
}

/// Reports flags that make no sense.
pub(crate) fn usage(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    exit::report(error);
    Exit::Usage.into()
}

/// Runs on as many threads as there are cores, four at most: more would only wait for the servers.
pub(crate) fn on_runtime(work: impl Future<Output = Exit>) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(work);
            runtime.shutdown_timeout(Duration::from_secs(1));
            exit.into()
        }
        Err(error) => exit::report(&error).into(),
    }
}

/// A token that a signal cancels, for a command that stops early but in order.
pub(crate) fn on_signals(drain: Duration) -> std::io::Result<(Shutdown, CancellationToken)> {
    let shutdown = Shutdown::on_signals(drain)?;
    let token = shutdown.token().clone();
    Ok((shutdown, token))
}
