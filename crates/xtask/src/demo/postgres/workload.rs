//! What happens in the database meanwhile: pgbench with scripts of ours, and what it does not do.

use std::time::Duration;

use anyhow::{Context, Result};
use testkit::PostgresServer;
use tokio::sync::mpsc;

use crate::changes::{Sample, sample_commits};
use crate::nycflights::DATABASE;
use crate::process::Process;
use crate::program::Program;

/// Transactions of pgbench a second.
pub(super) const PER_SECOND: u32 = 200;
/// Transactions a second whose arrival is waited for.
pub(super) const SAMPLED_PER_SECOND: u32 = 50;

/// pgbench's scripts, each with how often it runs.
const SCRIPTS: [(&str, u32, &str); 6] = [
    (
        "update",
        9,
        "UPDATE flights SET arr_delay = arr_delay + :n, dep_delay = dep_delay + :n WHERE id = :id;",
    ),
    (
        "insert",
        6,
        "INSERT INTO flights (year, month, day, dep_delay, arr_delay, carrier, flight, tailnum, origin, dest, distance, time_hour)
         SELECT year + 1, month, day, dep_delay + :n, arr_delay + :n, carrier, flight, tailnum, origin, dest, distance,
                time_hour + interval '1 year' FROM flights WHERE id = :id;",
    ),
    ("delete", 2, "DELETE FROM flights WHERE id = :id;"),
    (
        "key",
        1,
        "UPDATE flights SET id = nextval(pg_get_serial_sequence('flights', 'id')) WHERE id = :id;",
    ),
    (
        "several",
        1,
        "BEGIN;
         UPDATE weather SET temp = temp + 0.1
         WHERE origin = 'JFK' AND time_hour = timestamptz '2013-01-01 06:00Z' + (:id % 8000) * interval '1 hour';
         UPDATE flights SET arr_delay = arr_delay + 1 WHERE id = :id;
         UPDATE flights SET arr_delay = arr_delay + 1 WHERE id = :id;
         COMMIT;",
    ),
    (
        "taken_back",
        1,
        "BEGIN; UPDATE airports SET name = 'never to be seen' WHERE faa = 'JFK'; ROLLBACK;",
    ),
];

/// What else is done to the tables, in this order.
pub(super) const TROUBLE: [(&str, &str); 4] = [
    (
        "UPDATE of the primary keys of 1,000 planes",
        "UPDATE planes SET tailnum = tailnum || '-X' WHERE tailnum IN (SELECT tailnum FROM planes ORDER BY tailnum LIMIT 1000)",
    ),
    (
        "CREATE TABLE routes, with a row a route",
        "CREATE TABLE routes (origin text, dest text, flights integer, mean_delay numeric, PRIMARY KEY (origin, dest));
         INSERT INTO routes SELECT origin, dest, count(*), round(avg(arr_delay), 2) FROM flights GROUP BY 1, 2",
    ),
    (
        "TRUNCATE weather, and half of it back in one transaction",
        "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM weather WHERE month > 6; TRUNCATE weather;
         INSERT INTO weather SELECT * FROM kept; DROP TABLE kept; COMMIT",
    ),
    (
        "ALTER TABLE planes, twice",
        "ALTER TABLE planes ADD COLUMN built date;
         UPDATE planes SET built = make_date(year, 1, 1) WHERE year > 0;
         ALTER TABLE planes DROP COLUMN speed",
    ),
];
pub(super) const KILL_WATCHER_AFTER: &str = TROUBLE[1].0;
pub(super) const KILL_WRITER_AFTER: &str = TROUBLE[2].0;

/// A pgbench that runs.
pub(super) struct Bench(Process);

impl Bench {
    /// Starts one that ends by itself after so long.
    pub(super) fn start(
        program: &Program,
        server: &PostgresServer,
        time: Duration,
    ) -> Result<Bench> {
        let mut arguments = vec![
            "--no-vacuum".to_owned(),
            "--client=4".to_owned(),
            format!("--rate={PER_SECOND}"),
            format!("--time={}", time.as_secs()),
        ];
        for (name, often, script) in SCRIPTS {
            let file = program.file(&format!("{name}.sql"));
            // Every script has a flight of the year as it was loaded, and a few minutes.
            let variables = "\\set id random(1, 336776)\n\\set n random(-3, 5)\n";
            let one_line =
                |statement: &str| statement.split_whitespace().collect::<Vec<_>>().join(" ");
            std::fs::write(&file, format!("{variables}{}\n", one_line(script)))?;
            arguments.push(format!("--file={}@{often}", file.display()));
        }
        arguments.push(server.url(DATABASE));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = program.file("pgbench.log");
        let pgbench = PostgresServer::program("pgbench")?;
        Process::start("pgbench", &pgbench, &arguments, log).map(Bench)
    }

    /// Ends it now.
    pub(super) fn stop(mut self) -> Result<()> {
        self.0.expect_alive()?;
        self.0.kill()
    }

    /// Waits for its end; returns how many transactions there were.
    pub(super) async fn finish(&mut self) -> Result<u64> {
        self.0.succeed().await?;
        let said = self.0.output();
        let count = said.lines().find_map(|line| {
            let rest = line.strip_prefix("number of transactions actually processed: ")?;
            rest.split('/').next()?.trim().parse().ok()
        });
        count.with_context(|| format!("pgbench says nothing of its transactions: {said}"))
    }
}

/// Inserts flights for so long, and hands each on when the server has committed it.
pub(super) async fn sample(
    server: &PostgresServer,
    time: Duration,
    samples: mpsc::Sender<Sample>,
) -> Result<()> {
    let session = server.session(DATABASE)?;
    let insert = |number| {
        format!(
            "INSERT INTO flights (year, month, day, carrier, flight, origin, dest, time_hour, changed)
             VALUES (2014, 1, 1, 'UA', {number}, 'EWR', 'SFO', '2014-01-01 12:00Z', {number}) RETURNING id"
        )
    };
    sample_commits(
        session,
        "flights",
        SAMPLED_PER_SECOND,
        time,
        samples,
        1,
        insert,
    )
    .await
}
