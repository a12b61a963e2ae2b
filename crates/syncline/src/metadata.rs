//! `syncline metadata SOURCE TARGET`: the templates of a cluster, carried to another.

mod metrics;

use std::{process::ExitCode, time::Duration};

use config::{CommaList, Millis};
use runtime::{
    exit::{self, Exit},
    telemetry,
};
use search::{
    Client, ClientConfig, Error, IndexPatterns, SourceArgs, TargetArgs, TemplatePlan,
    TemplateState, plan_templates, retry,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::metrics::TemplateMetrics;
use crate::program::{self, Operation, Shared};

/// A pass that has not come to an end for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// Carries index templates, component templates and legacy templates from one cluster to another.
///
/// What indices look like travels with their documents and needs no template; templates are for the
/// indices that somebody else creates at the target. One that is there and differs is told, and changed
/// only with --overwrite; those of the products themselves, and those that only the target has, are
/// never touched.
///
/// Exit code 0: the target has them all; 3: something differs, is left, or would have to be done; 1: it
/// could not be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Source hosts (comma-separated URLs).
    #[arg(value_name = "SOURCE_URL")]
    source: CommaList,
    /// Target hosts (comma-separated URLs).
    #[arg(value_name = "TARGET_URL")]
    target: CommaList,
    /// Names of templates (comma-separated patterns); -NAME excludes.
    #[arg(
        long,
        default_value = "*",
        value_name = "PATTERN,...",
        allow_hyphen_values = true
    )]
    templates: IndexPatterns,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Replace templates of the target that differ from the source's.
    #[arg(long)]
    overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Do it again and again until a signal comes, and serve what is found as metrics.
    #[arg(long, conflicts_with = "json")]
    continuous: bool,
    /// Pause between two passes with --continuous.
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    interval: Millis,
    /// Log level for details: error, warn, info, debug or trace. If not given: error, and info with
    /// --continuous.
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(flatten)]
    source_access: SourceArgs,
    #[command(flatten)]
    target_access: TargetArgs,
    #[command(flatten)]
    operation: Operation,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
enum MetadataError {
    #[error("source: {0}")]
    SourceArgs(search::ArgsError),
    #[error("target: {0}")]
    TargetArgs(search::ArgsError),
    #[error("source: {0}")]
    Source(Error),
    #[error("target: {0}")]
    Target(Error),
    #[error("source and target are the same cluster {0}: correct one of the addresses")]
    Same(String),
}

/// What became of a template.
struct Carried {
    plan: TemplatePlan,
    done: Done,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    /// Nothing, for it is as it should be.
    Nothing,
    /// It was written; or would be, in a dry run.
    Written,
    /// It was left as it is, although it differs.
    Left,
    /// The target cannot have it.
    Refused(String),
}

impl Args {
    fn clusters(&self) -> Result<(ClientConfig, ClientConfig), MetadataError> {
        let source = self.source_access.client_config(&self.source);
        let target = self.target_access.client_config(&self.target);
        Ok((
            source.map_err(MetadataError::SourceArgs)?,
            target.map_err(MetadataError::TargetArgs)?,
        ))
    }
}

/// Carries once, or as a service.
pub(crate) fn start(args: Args) -> ExitCode {
    let log_level = args.log_level.clone();
    if args.continuous {
        let log_level = log_level.as_deref().unwrap_or("info");
        return program::service(log_level, args.operation.clone(), |tasks, shared| {
            let token = tasks.token().clone();
            tasks.spawn("metadata", follow(args, shared, token));
        });
    }
    let log_level = log_level.as_deref().unwrap_or("error");
    if let Err(error) = telemetry::init(log_level, args.operation.log_format) {
        return program::usage(&error);
    }
    program::command(run(args))
}

async fn run(args: Args) -> Exit {
    match once(&args).await {
        Ok(carried) => {
            print(&args, &carried);
            let complete = |carried: &Carried| match carried.done {
                Done::Nothing => true,
                Done::Written => !args.dry_run,
                Done::Left | Done::Refused(_) => false,
            };
            match carried.iter().all(complete) {
                true => Exit::Success,
                false => Exit::Different,
            }
        }
        Err(error) => exit::report(&error),
    }
}

async fn once(args: &Args) -> Result<Vec<Carried>, MetadataError> {
    let (source, target) = args.clusters()?;
    let source = search::connect(&source).await;
    let source = source.map_err(MetadataError::Source)?;
    let target = search::connect(&target).await;
    let target = target.map_err(MetadataError::Target)?;
    carry(args, &source, &target).await
}

/// One pass: plans everything, tries what is to be written, and only then writes.
async fn carry(
    args: &Args,
    source: &Client,
    target: &Client,
) -> Result<Vec<Carried>, MetadataError> {
    let cluster = &source.server().cluster_uuid;
    if *cluster == target.server().cluster_uuid && !cluster.is_empty() {
        return Err(MetadataError::Same(cluster.clone()));
    }
    let wanted = source.templates().await.map_err(MetadataError::Source)?;
    let there = target.templates().await.map_err(MetadataError::Target)?;
    let mut carried = Vec::new();
    for plan in plan_templates(&wanted, &there, &args.templates, target.dialect()) {
        let mut done = match &plan.state {
            TemplateState::Same => Done::Nothing,
            TemplateState::Impossible(why) => Done::Refused(why.clone()),
            TemplateState::Differs(_) if !args.overwrite => Done::Left,
            TemplateState::Missing | TemplateState::Differs(_) => Done::Written,
        };
        if done == Done::Written {
            let tried = target.try_template(&plan.trial).await;
            if let Some(why) = tried.map_err(MetadataError::Target)? {
                done = Done::Refused(why);
            }
        }
        carried.push(Carried { plan, done });
    }
    if !args.dry_run {
        for carried in carried.iter_mut().filter(|c| c.done == Done::Written) {
            let plan = &carried.plan;
            match target.put_template(&plan.template, &plan.body).await {
                Ok(()) => tracing::info!(template = %plan.template, "written"),
                // Of this one only: the next may be taken.
                Err(Error::Rejected { reason, .. }) => carried.done = Done::Refused(reason),
                Err(error) => return Err(MetadataError::Target(error)),
            }
        }
    }
    Ok(carried)
}

/// Carries until the token is cancelled. What does not work now is tried in the next pass.
async fn follow(args: Args, shared: Shared, token: CancellationToken) -> Result<(), MetadataError> {
    let health = &shared.health;
    for condition in ["source", "target", "templates"] {
        health.readiness.expect(condition);
    }
    let (source, target) = args.clusters()?;
    let source = search::connect_with_retry(&source, "source", health, &token).await;
    let Some(source) = source.map_err(MetadataError::Source)? else {
        return Ok(());
    };
    let target = search::connect_with_retry(&target, "target", health, &token).await;
    let Some(target) = target.map_err(MetadataError::Target)? else {
        return Ok(());
    };
    let metrics = TemplateMetrics::new(&shared.metrics);
    let heart = health.liveness.heart("metadata", STUCK_AFTER);
    let mut known = Vec::new();
    loop {
        let passed = tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            passed = carry(&args, &source, &target) => passed,
        };
        heart.beat();
        match passed {
            Ok(carried) => {
                health.readiness.set("templates", Ok(()));
                metrics.passed(&carried);
                let told: Vec<String> = carried.iter().flat_map(lines).collect();
                // Said once, and again when it changes.
                for line in told.iter().filter(|line| !known.contains(*line)) {
                    tracing::warn!("{line}");
                }
                known = told;
            }
            Err(MetadataError::Source(error) | MetadataError::Target(error))
                if retry::classify(&error) == retry::Decision::Retry =>
            {
                tracing::warn!(%error, "the templates could not be carried");
                health.readiness.set("templates", Err(error.to_string()));
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(args.interval.into()) => {}
        }
    }
}

fn print(args: &Args, carried: &[Carried]) {
    if args.json {
        for Carried { plan, done } in carried {
            let (done, why) = match done {
                Done::Nothing => ("nothing", None),
                Done::Written => ("written", None),
                Done::Left => ("left", None),
                Done::Refused(why) => ("refused", Some(why)),
            };
            println!(
                "{}",
                json!({ "plan": plan, "done": done, "why": why, "dry_run": args.dry_run })
            );
        }
        return;
    }
    for carried in carried {
        if carried.done == Done::Nothing {
            println!("{}: is there, and is the same", carried.plan.template);
        }
        if carried.done == Done::Written {
            let before = match carried.plan.state {
                TemplateState::Missing => "created",
                _ => "replaced",
            };
            let verb = if args.dry_run { "is to be" } else { "was" };
            println!("{}: {verb} {before}", carried.plan.template);
        }
        lines(carried).iter().for_each(|line| println!("{line}"));
    }
    let of = |wanted: fn(&Done) -> bool| carried.iter().filter(|c| wanted(&c.done)).count();
    println!(
        "{} templates: {} the same, {} {}, {} different, {} cannot be there",
        carried.len(),
        of(|done| *done == Done::Nothing),
        of(|done| *done == Done::Written),
        if args.dry_run {
            "to be written"
        } else {
            "written"
        },
        of(|done| *done == Done::Left),
        of(|done| matches!(done, Done::Refused(_))),
    );
    if args.dry_run {
        println!("nothing was changed");
    }
}

/// What is not as in the source, in words.
fn lines(Carried { plan, done }: &Carried) -> Vec<String> {
    let template = &plan.template;
    let mut lines = Vec::new();
    match (done, &plan.state) {
        (Done::Left, TemplateState::Differs(parts)) => lines.push(format!(
            "{template}: differs in {}; it stays as it is without --overwrite",
            parts.join(", ")
        )),
        (Done::Refused(why), _) => {
            lines.push(format!("{template}: the target cannot have it: {why}"))
        }
        _ => {}
    }
    for left in &plan.left_out {
        lines.push(format!(
            "{template}: {} is left out, {}",
            left.what, left.why
        ));
    }
    for translation in &plan.translated {
        lines.push(format!(
            "{template}: field {}: {} is called {} there",
            translation.field, translation.from, translation.to
        ));
    }
    lines
}
