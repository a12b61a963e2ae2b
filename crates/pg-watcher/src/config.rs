//! The flags of a PostgreSQL source.

use std::{path::PathBuf, str::FromStr};

use ::config::{CommaList, Millis, Secret, SecretFileError};
use postgres::{Config, Override};

use crate::Template;

/// How a PostgreSQL source is reached and captured.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "PostgreSQL source")]
pub struct PgArgs {
    /// The user's password (or in the URL); prefer the environment or a file to a flag, which others can see.
    #[arg(long, env = "PGPASSWORD", value_name = "PASSWORD")]
    pg_password: Option<Secret>,
    /// File with the user's password.
    #[arg(long, env = "PGPASSWORD_FILE", value_name = "PATH")]
    pg_password_file: Option<PathBuf>,
    /// Databases of the instance to capture (comma-separated), each by a slot of its own; if not given,
    /// that of the URL.
    #[arg(long, env = "PG_DATABASES", value_name = "NAME,...")]
    pg_databases: Option<CommaList>,
    /// Replication slot; created when missing, and never dropped. Of several databases, the beginning of
    /// the slots' names.
    #[arg(long, env = "PG_SLOT", value_name = "NAME")]
    pub pg_slot: Option<String>,
    /// Publication to use as it is; if not given, one is created that holds the tables that are captured.
    #[arg(long, env = "PG_PUBLICATION", value_name = "NAME")]
    pub pg_publication: Option<String>,
    /// What a table's index is called.
    #[arg(
        long,
        env = "INDEX_TEMPLATE",
        default_value = "{database}.{schema}.{table}",
        value_name = "TEMPLATE"
    )]
    pub index_template: Template,
    /// Tables without a primary key or another replica identity: leave-out, refuse to start, or
    /// full-row, by which equal rows are one document (needs REPLICA IDENTITY FULL).
    #[arg(
        long,
        env = "PG_NO_KEY",
        value_enum,
        default_value = "leave-out",
        value_name = "HOW"
    )]
    pub pg_no_key: NoKey,
    /// What columns become instead of what their type says (comma-separated): schema.table.column=HOW with
    /// skip, text, keyword, base64, object or opaque; * stands for any schema, table or column.
    #[arg(
        long,
        env = "PG_COLUMNS",
        default_value = "",
        hide_default_value = true,
        value_name = "COLUMN=HOW,..."
    )]
    pub pg_columns: Columns,
    /// Most connections that copy tables side by side.
    #[arg(long, env = "PG_COPIES", default_value = "4", value_name = "N")]
    pub pg_copies: usize,
    /// How often is looked for tables that were created, altered or dropped.
    #[arg(
        long,
        env = "PG_LOOK_EVERY",
        default_value = "2s",
        value_name = "DURATION"
    )]
    pub pg_look_every: Millis,
    /// When the slot is let go: target when every reader has written it, stream when the stream has it,
    /// auto for stream where that is replicated and target where not.
    #[arg(
        long,
        env = "PG_SLOT_CONFIRM",
        value_enum,
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub pg_slot_confirm: SlotConfirm,
}

/// What becomes of tables whose rows cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NoKey {
    /// They are left out, and that is said.
    LeaveOut,
    /// There is no start with one.
    Refuse,
    /// All of a row is its id.
    FullRow,
}

/// When the server may forget what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SlotConfirm {
    /// When the stream has it, if that is replicated; else when the target has it.
    Auto,
    /// When the stream has it: right where the stream cannot lose its end.
    Stream,
    /// When every reader of the stream has settled it.
    Target,
}

/// What columns become instead of what their type says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(Vec<([String; 3], Override)>);

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Columns, String> {
        let rules = text.split(',').map(str::trim).filter(|r| !r.is_empty());
        let rules = rules.map(|rule| {
            let (column, how) = rule
                .split_once('=')
                .ok_or_else(|| format!("{rule:?} is not of the form schema.table.column=HOW"))?;
            let parts: Vec<String> = column.split('.').map(str::to_owned).collect();
            let parts = <[String; 3]>::try_from(parts)
                .map_err(|_| format!("{column:?} is not of the form schema.table.column"))?;
            Ok((parts, how.parse()?))
        });
        rules.collect::<Result<_, String>>().map(Columns)
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules = self.0.iter().map(|(column, how)| {
            format!("{}={}", column.join("."), format!("{how:?}").to_lowercase())
        });
        f.write_str(&rules.collect::<Vec<_>>().join(","))
    }
}

impl Columns {
    /// What a column becomes; the last rule that names it counts.
    pub(crate) fn of(&self, schema: &str, table: &str, column: &str) -> Option<Override> {
        let names = [schema, table, column];
        let fits = |rule: &&([String; 3], Override)| {
            let mut parts = rule.0.iter().zip(names);
            parts.all(|(part, name)| part == "*" || part == name)
        };
        self.0.iter().rev().find(fits).map(|(_, how)| *how)
    }
}

/// Why flags do not say how to reach a server.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error it carries")]
pub enum ArgsError {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Config(#[from] postgres::Error),
}

impl PgArgs {
    /// How to reach each of the databases.
    ///
    /// # Errors
    /// When the URL makes no sense or the password cannot be read.
    pub fn configs(&self, url: &str) -> Result<Vec<Config>, ArgsError> {
        let mut config = Config::parse(url)?;
        let file = self.pg_password_file.as_deref();
        if let Some(password) = Secret::given(self.pg_password.as_ref(), file)? {
            config.password = Some(password.expose().to_owned());
        }
        Ok(match &self.pg_databases {
            None => vec![config],
            Some(databases) => databases
                .iter()
                .map(|database| config.with_database(database))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_for_a_column_counts() {
        let rules: Columns = "*.*.*=keyword, public.t.a=skip".parse().unwrap();
        assert_eq!(rules.of("public", "t", "a"), Some(Override::Skip));
        assert_eq!(rules.of("public", "t", "b"), Some(Override::Keyword));
        assert_eq!(rules.to_string().parse(), Ok(rules));
        assert!("t.a=skip".parse::<Columns>().is_err());
        assert!("s.t.a=what".parse::<Columns>().is_err());
    }
}
