//! A PostgreSQL instance as the source of `es-watcher`, `sync` and `up`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use config::CommaList;
use es_writer::{FileDeadLetters, SearchWriter};
use pg_watcher::{
    Memory, Owner, PgArgs, PgSource, Settled, SlotLife, SourceError, SourceObserver, SourceOptions,
};
use pipeline::{ApplyOptions, Fault, PublishOptions, Registry, apply, channel, publish};
use search::{Client, IndexPatterns};
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;

/// The flags of `es-watcher`, whatever it watches.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WatcherArgs {
    #[command(flatten)]
    pub(crate) search: es_watcher::Args,
    #[command(flatten)]
    pub(crate) postgres: PgArgs,
}

impl WatcherArgs {
    /// The URL of the PostgreSQL server, if that is what is watched.
    pub(crate) fn postgres_url(&self) -> Option<String> {
        url_of(self.search.source.as_ref()?)
    }

    pub(crate) fn postgres_options(
        &self,
        url: &str,
    ) -> Result<pg_watcher::Options, pg_watcher::ServiceError> {
        let args = &self.search;
        Ok(pg_watcher::Options {
            source: source_options(
                &self.postgres,
                url,
                &args.index_patterns,
                &slot_text(&format!("syncline_{}", args.tenant)),
            )?,
            slot_confirm: self.postgres.pg_slot_confirm,
            stream: args.stream_spec(),
            publisher: args.publisher(),
            folder: args.checkpoint_path.join("postgres"),
            nats: args.nats.options(&args.name())?,
        })
    }
}

/// The URL of a PostgreSQL server, if that is what a list of hosts is.
pub(crate) fn url_of(hosts: &CommaList) -> Option<String> {
    let first = hosts.iter().next()?;
    postgres::Config::is_url(first).then(|| {
        hosts
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(",")
    })
}

fn source_options(
    args: &PgArgs,
    url: &str,
    indices: &IndexPatterns,
    slot: &str,
) -> Result<SourceOptions, pg_watcher::ArgsError> {
    Ok(SourceOptions {
        databases: args.configs(url)?,
        indices: indices.clone(),
        template: args.index_template.clone(),
        slot: args.pg_slot.clone().unwrap_or_else(|| slot.to_owned()),
        slot_lives: SlotLife::Stays,
        publication: args.pg_publication.clone(),
        no_key: args.pg_no_key,
        columns: args.pg_columns.clone(),
        copies: args.pg_copies,
        look_every: args.pg_look_every.into(),
        follow: true,
    })
}

/// What `check` looks at.
pub(crate) fn to_examine(
    args: &PgArgs,
    url: &str,
    indices: &IndexPatterns,
) -> Result<SourceOptions, pg_watcher::ArgsError> {
    source_options(args, url, indices, "syncline_default")
}

/// A copy from a PostgreSQL server in one process.
pub(crate) struct Copy<'a> {
    pub(crate) postgres: &'a PgArgs,
    pub(crate) url: String,
    pub(crate) indices: &'a IndexPatterns,
    pub(crate) follow: bool,
    pub(crate) checkpoint_path: Option<PathBuf>,
    pub(crate) dead_letters: PathBuf,
    pub(crate) apply: ApplyOptions,
}

/// Why a copy fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("source: {0}")]
    Args(#[from] pg_watcher::ArgsError),
    #[error("source: {0}")]
    Source(#[from] SourceError),
    #[error(transparent)]
    Pipeline(#[from] Fault),
}

impl Copy<'_> {
    /// Joins source and writer until the source ends or a signal comes.
    pub(crate) async fn join(
        &self,
        target: Client,
        registry: Arc<dyn Registry>,
        progress: &Arc<Progress>,
        shutdown: &CancellationToken,
    ) -> Result<(), CopyError> {
        let cluster = target.server().cluster_uuid.clone();
        let slot = slot_text(&format!("syncline_sync_{cluster}"));
        let mut options = source_options(self.postgres, &self.url, self.indices, &slot)?;
        options.follow = self.follow;
        pg_watcher::preflight(&options).await?;
        let owner = Owner {
            tenant: format!("sync into {cluster}"),
            stream: None,
        };
        let memory = match &self.checkpoint_path {
            Some(path) => Memory::open(&path.join("postgres"), owner)?,
            None => {
                options.slot_lives = SlotLife::Connection;
                Memory::in_process(owner)
            }
        };
        let observer = Arc::clone(progress) as Arc<dyn SourceObserver>;
        let mut source = PgSource::start(options, memory, registry, Settled::AtOnce, observer);
        let (mut sink, mut reader) = channel(crate::sync::CHANNEL);
        let window = PublishOptions::default();
        let publishing = async {
            let observer = progress.as_ref();
            let published = publish(&mut source, &mut sink, &window, observer, shutdown).await;
            drop(sink); // the reader comes to its end
            published
        };
        let letters = Arc::new(FileDeadLetters::new(&self.dead_letters));
        let writer = Arc::new(SearchWriter::new(target));
        let applying = apply(
            &mut reader,
            writer,
            letters,
            Arc::clone(progress),
            self.apply.clone(),
            shutdown,
        );
        let both = async { tokio::try_join!(publishing, applying).map(|_| ()) };
        let ended = tokio::select! {
            ended = both => ended,
            never = crate::sync::say_lag(progress, self.follow) => never,
        };
        source.close().await;
        // Stopped in the middle, one half sees the other end first: that is no failure.
        match shutdown.is_cancelled() {
            true => Ok(()),
            false => Ok(ended?),
        }
    }
}

/// A text as the name of a slot: small letters, digits and `_`, 63 of them at most.
pub(crate) fn slot_text(text: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_') => c,
        _ => '_',
    };
    text.chars().map(plain).take(63).collect()
}

impl SourceObserver for Progress {
    fn left_out(&self, table: &str, reason: &str) {
        self.say_once(&format!("{table} is left out: {reason}"));
    }

    fn column_left_out(&self, column: &str, remedy: &str) {
        self.say_once(&format!(
            "{column} is left out of the documents, as bytes are; {remedy} takes it along"
        ));
    }

    fn behind(&self, database: &str, bytes: u64) {
        self.log_behind(database, bytes);
    }

    fn trouble(&self, what: &str, reason: &dyn std::fmt::Display, pause: Duration) {
        self.say(&format!("{what}: {reason}; trying again in {pause:.1?}"));
    }
}
