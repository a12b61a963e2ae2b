//! PostgreSQL as a source: its stream and its snapshot into nothing, beside what the server's own clients take; the
//! snapshot into a real node, beside a bare loader; `verify` of 1,000,000 rows; how soon a commit is there; and pgsync.

mod commits;
mod equal;
mod node;
mod null;
mod pgsync;

use std::sync::Arc;

use anyhow::Result;
use model::Change;
use pg_watcher::{
    Columns, Memory, NoKey, Owner, PgSource, Position, Settled, SlotLife, SourceOptions,
};
use pipeline::ChangeSource;
use serde_json::{Value, json};
use testkit::{NodeOptions, PostgresOptions, PostgresServer, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::{Run, median};
use crate::nycflights::{DATABASE, TABLES};

/// The table that is copied, with 336,776 rows.
const FLIGHTS: &str = "nycflights.public.flights";

pub(super) async fn run(context: &Context) -> Result<()> {
    eprintln!("postgres: starting PostgreSQL and {}…", Product::Os2);
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    let (server, node) = tokio::try_join!(
        PostgresServer::start(PostgresOptions {
            // As a server is run: no checkpoint amid a measurement.
            config: "max_wal_size = 4GB\nlogical_decoding_work_mem = 256MB".to_owned(),
            ..PostgresOptions::default()
        }),
        SearchNode::start_with(Product::Os2, options),
    )?;
    server
        .psql("postgres", &format!("CREATE DATABASE {DATABASE}"))
        .await?;
    for table in TABLES {
        table.load(&server).await?;
    }
    if context.quick {
        server
            .psql(
                DATABASE,
                "DELETE FROM flights WHERE id > 20000; VACUUM FULL flights",
            )
            .await?;
    }
    let stream = null::stream(context, &server).await?;
    let (snapshot, changes) = null::snapshot(context, &server).await?;
    let node_runs = node::run(context, &server, &node, &changes).await?;
    drop(changes);
    let equal = equal::run(context, &server, &node).await?;
    let commits = commits::run(context, &server, &node).await?;
    let pgsync = match pgsync::run(context, &server, &node).await {
        Ok(figures) => figures,
        Err(error) => {
            eprintln!("without pgsync, which does not run here: {error:#}");
            json!({ "failed": format!("{error:#}") })
        }
    };
    let figures = json!({
        "server": server.psql(DATABASE, "SHOW server_version").await?.trim(),
        "stream_into_nothing": figures(&stream),
        "snapshot_into_nothing": figures(&snapshot),
        "snapshot_into_a_node": figures(&node_runs),
        "verify": figures(&equal),
        "commit_to_get": commits,
        "beside_pgsync": pgsync,
    });
    report::write(context, "postgres", figures)
}

/// The runs of one way, in turns with the others.
struct Way {
    name: &'static str,
    runs: Vec<Run>,
}

impl Way {
    fn new(name: &'static str) -> Way {
        Way {
            name,
            runs: Vec::new(),
        }
    }

    fn per_second(&self) -> Option<f64> {
        median(self.runs.iter().map(Run::per_second))
    }
}

/// Prints ways beside each other; the first is compared with each of the others.
fn print(title: &str, ways: &[Way]) {
    let mut table = report::table([
        "",
        "runs",
        "rows/s",
        "ours is × as fast",
        "µs CPU/row",
        "most memory, MB",
    ]);
    for way in ways {
        let ratio = ways[0].per_second().zip(way.per_second());
        let peak = median(way.runs.iter().filter_map(Run::peak)).filter(|peak| *peak > 0.0);
        table.add_row([
            way.name.to_owned(),
            way.runs.len().to_string(),
            figure(way.per_second(), 0),
            figure(ratio.map(|(ours, other)| ours / other), 2),
            figure(median(way.runs.iter().filter_map(Run::cpu)), 2),
            figure(peak, 0),
        ]);
    }
    report::print(title, table, 1);
}

fn figures(ways: &[Way]) -> Value {
    let ways = ways.iter().map(|way| {
        json!({
            "way": way.name,
            "rows_per_second": way.per_second(),
            "cpu_microseconds_per_row": median(way.runs.iter().filter_map(Run::cpu)),
            "runs": way.runs.iter().map(Run::figures).collect::<Vec<_>>(),
        })
    });
    json!(ways.collect::<Vec<_>>())
}

/// The real source, in this process, of one table.
struct Source {
    server: postgres::Config,
    table: &'static str,
    memory: Memory,
    life: SlotLife,
}

impl Source {
    fn of(server: &PostgresServer, table: &'static str, life: SlotLife) -> Result<Source> {
        let owner = Owner {
            tenant: "bench".to_owned(),
            stream: None,
        };
        Ok(Source {
            server: postgres::Config::parse(&server.url(DATABASE))?,
            table,
            memory: Memory::in_process(owner),
            life,
        })
    }

    fn open(&self) -> Result<PgSource> {
        let options = SourceOptions {
            databases: vec![self.server.clone()],
            indices: self.table.parse()?,
            template: "{database}.{schema}.{table}"
                .parse()
                .map_err(anyhow::Error::msg)?,
            slot: null::SLOT.to_owned(),
            slot_lives: self.life,
            publication: None,
            no_key: NoKey::LeaveOut,
            columns: Columns::default(),
            copies: 4,
            look_every: std::time::Duration::from_secs(2),
            follow: self.life == SlotLife::Stays,
        };
        let settled = Settled::AtOnce;
        Ok(PgSource::start(
            options,
            self.memory.clone(),
            Arc::new(()),
            settled,
            Arc::new(()),
        ))
    }

    /// Reads until the source ends or has given so many changes; returns how many, and them if they are wanted.
    ///
    /// Nothing is confirmed: the slot stays where it is, for the next round.
    async fn drain(&self, enough: u64, mut keep: Option<&mut Vec<Change>>) -> Result<u64> {
        let mut source = self.open()?;
        let mut count = 0;
        while count < enough
            && let Some(captured) = source.next().await?
        {
            let changes = captured.batch.changes();
            count += changes.len() as u64;
            if let Some(keep) = &mut keep {
                keep.extend_from_slice(changes);
            }
        }
        source.close().await;
        Ok(count)
    }

    /// Copies the table, and stays where the slot begins.
    async fn prime(&self) -> Result<()> {
        let mut source = self.open()?;
        while let Some(captured) = source.next().await? {
            let position = captured.position.clone();
            source.confirm(captured.position).await?;
            if matches!(position, Position::Copied { .. }) {
                break;
            }
        }
        source.close().await;
        Ok(())
    }
}
