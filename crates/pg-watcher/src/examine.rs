//! Looks at everything a capture needs before there is one, and changes nothing.

use postgres::{Catalogue, Connection, quote_literal};

use crate::{
    NoKey, SourceError, SourceOptions,
    capture::{self, slot_name},
    publication,
    source::SourceObserver,
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was looked at.
    pub what: String,
    /// What is the case.
    pub detail: String,
    /// What to do about it; empty where there is nothing.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// A capture works, though not with everything.
    Warning,
    /// A capture would fail, or harm.
    Failure,
}

/// Findings about one database.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, grade: Grade, what: &str, detail: impl Into<String>, remedy: &str) {
        self.0.push(Finding {
            grade,
            what: what.to_owned(),
            detail: detail.into(),
            remedy: remedy.to_owned(),
        });
    }

    fn good(&mut self, what: &str, detail: impl Into<String>) {
        self.add(Grade::Good, what, detail, "");
    }
}

/// Looks at each database of the options.
pub async fn examine(options: &SourceOptions) -> Vec<Finding> {
    let mut findings = Findings::default();
    for config in &options.databases {
        match Connection::open(config).await {
            Err(error) => {
                let remedy = "correct the URL, the password or pg_hba.conf";
                findings.add(
                    Grade::Failure,
                    "source connection",
                    error.to_string(),
                    remedy,
                );
            }
            Ok(mut session) => {
                let major = session.version() / 10_000;
                findings.good(
                    "source connection",
                    format!("PostgreSQL {major} at {config}"),
                );
                if let Err(error) = database(&mut findings, &mut session, options).await {
                    let detail = error.to_string();
                    findings.add(Grade::Failure, "source", detail, "see the sentence before");
                }
            }
        }
    }
    findings.0
}

async fn database(
    findings: &mut Findings,
    session: &mut Connection,
    options: &SourceOptions,
) -> Result<(), SourceError> {
    match capture::check_server(session).await {
        Ok(()) => findings.good("source wal_level", "logical"),
        Err(error @ (SourceError::Postgres(_) | SourceError::Stream(_))) => return Err(error),
        Err(error) => {
            let remedy = "as it says";
            findings.add(Grade::Failure, "source server", error.to_string(), remedy);
            return Ok(());
        }
    }
    role(findings, session).await?;
    room(findings, session, options).await?;
    budget(findings, session).await?;
    tables(findings, session, options).await
}

/// Whether we may stream.
async fn role(findings: &mut Findings, session: &mut Connection) -> Result<(), SourceError> {
    let config = session.config().clone();
    match Connection::open_for_replication(&config).await {
        Ok(_) => findings.good("source replication", format!("user {:?} may stream", config.user)),
        Err(error) => findings.add(
            Grade::Failure,
            "source replication",
            error.to_string(),
            &format!(
                "ALTER ROLE {} REPLICATION (on RDS: GRANT rds_replication TO …), and a line for it in pg_hba.conf",
                postgres::quote_ident(&config.user)
            ),
        ),
    }
    Ok(())
}

/// Whether there is room for our slots and connections: one slot stays, another lives while tables are
/// copied.
async fn room(
    findings: &mut Findings,
    session: &mut Connection,
    options: &SourceOptions,
) -> Result<(), SourceError> {
    let slot = slot_name(options, &session.config().database);
    let sql = format!(
        "SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots), \
         current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication), \
         (SELECT count(*) FROM pg_replication_slots WHERE slot_name = {0}), \
         (SELECT coalesce(active, false) FROM pg_replication_slots WHERE slot_name = {0})",
        quote_literal(&slot)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let (slots, senders): (i64, i64) = (row.number(0), row.number(1));
    let is_there = row.number::<i64>(2) > 0;
    let wanted = if is_there { 1 } else { 2 };
    for (what, setting, free, wanted) in [
        ("source slots", "max_replication_slots", slots, wanted),
        ("source senders", "max_wal_senders", senders, 2),
    ] {
        match free >= wanted {
            true => findings.good(what, format!("{free} free")),
            false => findings.add(
                Grade::Failure,
                what,
                format!("{free} free, and {wanted} are needed for each database"),
                &format!("raise {setting} and restart the server, or drop slots that nobody reads"),
            ),
        }
    }
    if row.is_true(3) {
        findings.add(
            Grade::Warning,
            "source slot",
            format!("{slot} is being read by another process"),
            "stop that one, or name another slot with --pg-slot",
        );
    }
    Ok(())
}

/// How much of its log the server keeps for us.
async fn budget(findings: &mut Findings, session: &mut Connection) -> Result<(), SourceError> {
    if session.version() < 130_000 {
        return Ok(());
    }
    let rows = session
        .query("SELECT current_setting('max_slot_wal_keep_size')")
        .await?;
    let limit = rows.first().map(|row| row.text(0)).unwrap_or_default();
    match limit {
        "-1" => findings.add(
            Grade::Warning,
            "source log budget",
            "max_slot_wal_keep_size has no limit: while nobody reads the slot the server's disk fills up",
            "set it to what the disk can spare; a slot that exceeds it is lost, and every table is copied again",
        ),
        limit => findings.good("source log budget", format!("max_slot_wal_keep_size is {limit}")),
    }
    Ok(())
}

/// Which tables would be captured, and which would not or would break the application.
async fn tables(
    findings: &mut Findings,
    session: &mut Connection,
    options: &SourceOptions,
) -> Result<(), SourceError> {
    let catalogue = Catalogue::read(session).await?;
    let left_out = LeftOut::default();
    let look = SourceOptions {
        no_key: match options.no_key {
            NoKey::FullRow => NoKey::FullRow,
            _ => NoKey::LeaveOut,
        },
        follow: false,
        ..options.clone()
    };
    let published = match publication::ensure(session, &catalogue, &look, "", &left_out).await {
        Ok(published) => published,
        Err(error) => {
            let remedy = "as it says";
            findings.add(Grade::Failure, "source tables", error.to_string(), remedy);
            return Ok(());
        }
    };
    for (table, reason) in left_out.take() {
        let grade = match options.no_key {
            NoKey::Refuse => Grade::Failure,
            _ => Grade::Warning,
        };
        findings.add(
            grade,
            "source table",
            format!("{table} is left out"),
            &reason,
        );
    }
    if published.tables.is_empty() {
        findings.add(
            Grade::Failure,
            "source tables",
            format!("none gives an index that matches {}", options.indices),
            "correct the patterns or --index-template",
        );
    }
    let tables = published.tables.keys();
    let tables: Vec<_> = tables.filter_map(|oid| catalogue.tables.get(oid)).collect();
    may_read(findings, session, &tables).await?;
    match &options.publication {
        Some(name) => harm(findings, session, &catalogue, name).await?,
        None => may_publish(findings, session, &tables).await?,
    }
    findings.good(
        "source tables",
        format!("{} would be captured", tables.len()),
    );
    Ok(())
}

/// Whether each table may be read, and all of its rows.
async fn may_read(
    findings: &mut Findings,
    session: &mut Connection,
    tables: &[&postgres::Table],
) -> Result<(), SourceError> {
    for table in tables {
        let sql = format!(
            "SELECT has_schema_privilege({0}, 'USAGE') AND has_table_privilege({1}, 'SELECT'), row_security_active({1})",
            quote_literal(&table.schema),
            table.oid
        );
        let rows = session.query(&sql).await?;
        let Some(row) = rows.first() else {
            continue;
        };
        if !row.is_true(0) {
            findings.add(
                Grade::Failure,
                "source table",
                format!("{} may not be read", table.display()),
                &format!(
                    "GRANT USAGE ON SCHEMA {} TO …; GRANT SELECT ON {} TO …",
                    postgres::quote_ident(&table.schema),
                    table.qualified()
                ),
            );
        } else if row.is_true(1) {
            findings.add(
                Grade::Failure,
                "source table",
                format!("row-level security hides rows of {}", table.display()),
                "ALTER ROLE … BYPASSRLS",
            );
        }
    }
    Ok(())
}

/// Whether a publication of ours can be made: that takes the owner of each table.
async fn may_publish(
    findings: &mut Findings,
    session: &mut Connection,
    tables: &[&postgres::Table],
) -> Result<(), SourceError> {
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let sql = format!(
        "SELECT has_database_privilege(current_database(), 'CREATE'), \
         (SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class WHERE oid IN ({}) \
          AND NOT pg_has_role(relowner, 'USAGE'))",
        match oids.is_empty() {
            true => "0".to_owned(),
            false => oids.join(","),
        }
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let remedy = "have a superuser or the tables' owner CREATE PUBLICATION … FOR TABLE …, and name it with --pg-publication";
    if let Some(others) = row.get(1) {
        findings.add(
            Grade::Failure,
            "source publication",
            format!("these tables have another owner: {others}"),
            remedy,
        );
    } else if !row.is_true(0) {
        findings.add(
            Grade::Failure,
            "source publication",
            "the user may not create one in this database",
            remedy,
        );
    } else {
        findings.good("source publication", "one may be created");
    }
    Ok(())
}

/// Tables without an identity under a publication that includes updates or deletes: those of the
/// application fail.
async fn harm(
    findings: &mut Findings,
    session: &mut Connection,
    catalogue: &Catalogue,
    name: &str,
) -> Result<(), SourceError> {
    let sql = format!(
        "SELECT pubupdate OR pubdelete, pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication \
         WHERE pubname = {}",
        quote_literal(name)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    if !row.is_true(1) {
        findings.add(
            Grade::Failure,
            "source publication",
            format!("{name} leaves out inserts, updates, deletes or truncates: the index would not be equal"),
            &format!(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
                postgres::quote_ident(name)
            ),
        );
    }
    let sql = format!(
        "SELECT c.oid FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = {}",
        quote_literal(name)
    );
    let includes_updates = row.is_true(0);
    for row in session.query(&sql).await? {
        let table = catalogue.tables.get(&row.number::<u32>(0));
        if let Some(table) = table.filter(|table| includes_updates && !table.has_identity()) {
            findings.add(
                Grade::Failure,
                "source publication",
                format!(
                    "{} has no replica identity: under {name} the application's updates and deletes of it fail",
                    table.display()
                ),
                "add a primary key, set REPLICA IDENTITY, or take the table out of the publication",
            );
        }
    }
    Ok(())
}

/// Gathers what is left out.
#[derive(Debug, Default)]
struct LeftOut(std::sync::Mutex<Vec<(String, String)>>);

impl LeftOut {
    fn take(&self) -> Vec<(String, String)> {
        let mut found = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        std::mem::take(&mut *found)
    }
}

impl SourceObserver for LeftOut {
    fn left_out(&self, table: &str, reason: &str) {
        let mut found = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        found.push((table.to_owned(), reason.to_owned()));
    }
}
