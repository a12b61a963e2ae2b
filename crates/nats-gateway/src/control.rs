//! What an operator can change while the gateway runs: its rules, and whether it moves at all.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use ::config::{Issue, Secret};
use bus::Letters;
use model::now_ms;
use tokio::sync::watch;
use transform::{KeySource, RuleSet, Selection};

use crate::{Args, GatewayMetrics, metrics::Counts};

/// How often the rule file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why rules are not taken: everything that is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file cannot be read.
    #[error("the rule file {path} cannot be read: {source}; check --rules")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// They are wrong.
    #[error("{}", .0.iter().map(Issue::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Issue>),
    /// A flag is wrong.
    #[error("--include-operations: {0}")]
    Operations(#[from] model::UnknownOperation),
    /// The admin token cannot be read.
    #[error(transparent)]
    Token(#[from] ::config::SecretFileError),
}

/// The rules in force.
#[derive(Debug)]
pub struct InForce {
    /// They themselves.
    pub rules: RuleSet,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Where they come from: a file's path, or the admin API.
    pub from: String,
}

/// The rules, and the wish to pause. Cheap to clone, all clones are one.
#[derive(Debug, Clone)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    selection: Selection,
    file: Option<PathBuf>,
    token: Option<Secret>,
    rules: watch::Sender<Arc<InForce>>,
    paused: watch::Sender<bool>,
    /// What was wrong with the newest rules that were refused.
    refused: watch::Sender<Option<String>>,
    metrics: OnceLock<Arc<GatewayMetrics>>,
    letters: OnceLock<Letters>,
}

impl Control {
    /// Reads the rules that the flags name.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(args: &Args) -> Result<Control, RulesError> {
        let selection = args.selection()?;
        let rules = match &args.rules {
            None => InForce::new(
                RuleSet::read(&selection, None, &key).map_err(RulesError::Invalid)?,
                "flags",
            ),
            Some(file) => read_rules(&selection, file)?,
        };
        Ok(Control(Arc::new(Inner {
            selection,
            file: args.rules.clone(),
            token: args.admin_token()?,
            rules: watch::Sender::new(Arc::new(rules)),
            paused: watch::Sender::new(false),
            refused: watch::Sender::new(None),
            metrics: OnceLock::new(),
            letters: OnceLock::new(),
        })))
    }

    /// The rules in force, and those that follow.
    pub fn rules(&self) -> watch::Receiver<Arc<InForce>> {
        self.0.rules.subscribe()
    }

    /// What the flags select.
    pub fn selection(&self) -> &Selection {
        &self.0.selection
    }

    /// Whether the gateway is to stand still.
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.0.paused.subscribe()
    }

    /// Shows what these count.
    pub(crate) fn observe(&self, metrics: Arc<GatewayMetrics>) {
        // There is one gateway for each control; a second one would only count as well.
        self.0.metrics.set(metrics).ok();
    }

    /// Shows these dead letters.
    pub(crate) fn keep(&self, letters: Letters) {
        self.0.letters.set(letters).ok();
    }

    /// The dead letters; `None` before there is a connection.
    pub(crate) fn letters(&self) -> Option<&Letters> {
        self.0.letters.get()
    }

    /// What was counted; `None` before the start.
    pub(crate) fn counts(&self) -> Option<Counts> {
        self.0.metrics.get().map(|metrics| metrics.counts())
    }

    /// The subjects that are read, all when empty; `None` before the start.
    pub(crate) fn subjects(&self) -> Option<Vec<String>> {
        self.0.metrics.get().map(|metrics| metrics.subjects())
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.0.paused.send_replace(paused);
    }

    pub(crate) fn token(&self) -> Option<&Secret> {
        self.0.token.as_ref()
    }

    /// What was wrong with the newest rules, if they were refused.
    pub(crate) fn refused(&self) -> Option<String> {
        self.0.refused.borrow().clone()
    }

    /// Reads rules without putting them in force.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn validate(&self, text: &str) -> Result<RuleSet, RulesError> {
        RuleSet::read(&self.0.selection, Some(("rules", text)), &key).map_err(RulesError::Invalid)
    }

    /// Puts rules in force: from the next message on.
    ///
    /// # Errors
    /// Everything that is wrong with them; those in force stay then.
    pub(crate) fn replace(&self, text: &str) -> Result<Arc<InForce>, RulesError> {
        let rules = InForce::new(self.validate(text)?, "admin API");
        Ok(self.put(rules))
    }

    fn put(&self, rules: InForce) -> Arc<InForce> {
        let rules = Arc::new(rules);
        let before = self.0.rules.send_replace(Arc::clone(&rules));
        self.0.refused.send_replace(None);
        tracing::info!(
            hash = rules.rules.hash(),
            before = before.rules.hash(),
            from = rules.from,
            "the rules were replaced; what is at the target already stays as it is until it changes"
        );
        rules
    }

    /// Reads the file again; a bad one is refused and the old rules stay.
    fn reload(&self, file: &Path) {
        match read_rules(&self.0.selection, file) {
            Ok(rules) if rules.rules.hash() == self.0.rules.borrow().rules.hash() => {
                self.0.refused.send_replace(None);
            }
            Ok(rules) => drop(self.put(rules)),
            Err(error) => {
                let error = error.to_string();
                tracing::error!(%error, "the new rules are refused; those in force stay");
                self.0.refused.send_replace(Some(error));
            }
        }
    }

    /// Reads the file again whenever it changes or SIGHUP comes. Never ends.
    ///
    /// # Errors
    /// When the signal's handler cannot be installed.
    pub(crate) async fn watch_file(&self) -> std::io::Result<()> {
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        let Some(file) = &self.0.file else {
            loop {
                hangup.recv().await;
                tracing::info!("SIGHUP: there is no rule file to read");
            }
        };
        let mut known = stamp(file);
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    known = stamp(file);
                    self.reload(file);
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = stamp(file);
                    // A file that is just being replaced may not be there for a moment.
                    if now.is_some() && now != known {
                        known = now;
                        self.reload(file);
                    }
                }
            }
        }
    }
}

impl InForce {
    fn new(rules: RuleSet, from: &str) -> InForce {
        InForce {
            rules,
            since_ms: now_ms(),
            from: from.to_owned(),
        }
    }
}

/// Reads a rule file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_rules(selection: &Selection, file: &Path) -> Result<InForce, RulesError> {
    let path = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|source| RulesError::Read {
        path: path.clone(),
        source,
    })?;
    let rules = RuleSet::read(selection, Some((&path, &text)), &key);
    Ok(InForce::new(rules.map_err(RulesError::Invalid)?, &path))
}

/// What tells a file from the one that was read: a new one in its place has another inode.
fn stamp(file: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The key of a hash.
pub(crate) fn key(source: &KeySource) -> Result<Vec<u8>, String> {
    match source {
        KeySource::File(file) => Secret::read(file)
            .map(|secret| secret.expose().as_bytes().to_vec())
            .map_err(|error| error.to_string()),
        KeySource::Variable(name) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| format!("the variable {name} is not set")),
    }
}
