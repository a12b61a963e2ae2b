//! Random transactions of every kind in two databases, while every process is killed at random moments and the
//! stream loses its end. The seed is printed; `SEED=… STEPS=…` repeats a run.

use anyhow::{Context, Result};
use testkit::{PostgresOptions, PostgresServer, PostgresVersion, Product, SearchNode};

use crate::{
    create_database,
    support::{
        lost_end::{copy_folder, lose_everything, lose_the_end},
        pipeline::Pipeline,
        program::{PATIENCE, Program, run as command},
    },
    truth::Table,
};

const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v int, big text, twice int GENERATED ALWAYS AS (v * 2) STORED);
    ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE b (x int, y text, v int, big text, PRIMARY KEY (x, y));
    ALTER TABLE b ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE b REPLICA IDENTITY FULL;
    CREATE TABLE p (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE p0 PARTITION OF p FOR VALUES IN (0);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    INSERT INTO a SELECT n, n, repeat(md5(n::text), 100) FROM generate_series(1, 200) n;
    INSERT INTO b SELECT n % 20, 'y' || n, n, repeat(md5(n::text), 100) FROM generate_series(1, 200) n;
    INSERT INTO p SELECT n, n % 2, 'p' || n FROM generate_series(1, 200) n;
";

/// A statement on rows near `at`.
fn statement(dice: &mut fastrand::Rng) -> String {
    let at = dice.u32(1..260);
    let (to, n) = (at + dice.u32(0..20), dice.u32(0..1_000_000));
    match dice.u32(0..17) {
        0 | 1 => format!(
            "INSERT INTO a (id, v, big) SELECT n, {n}, repeat(md5(n::text || {n}), 100) FROM generate_series({at}, {to}) n \
             ON CONFLICT (id) DO UPDATE SET v = excluded.v"
        ),
        2 | 3 => format!("UPDATE a SET v = v + {n} WHERE id BETWEEN {at} AND {to}"),
        4 => format!("DELETE FROM a WHERE id BETWEEN {at} AND {to}"),
        5 => format!(
            "UPDATE a SET id = id + 5000 WHERE id BETWEEN {at} AND {to} AND id + 5000 NOT IN (SELECT id FROM a)"
        ),
        6 => format!(
            "UPDATE a SET id = id - 5000 WHERE id > 5000 AND id - 5000 NOT IN (SELECT id FROM a) AND id % 7 = {}",
            n % 7
        ),
        7 => format!(
            "UPDATE a SET big = CASE WHEN id % 2 = 0 THEN NULL ELSE repeat('{n}', 800) END WHERE id BETWEEN {at} AND {to}"
        ),
        8 => format!("UPDATE b SET v = {n} WHERE x = {}", at % 20),
        9 => format!("DELETE FROM b WHERE x = {} AND v % 3 = {}", at % 20, n % 3),
        10 => format!(
            "INSERT INTO b VALUES ({}, 'z{n}', {n}, repeat('{n}', 900)) ON CONFLICT DO NOTHING",
            at % 20
        ),
        11 => format!(
            "UPDATE b SET y = y || '_{n}' WHERE x = {} AND length(y) < 20",
            at % 20
        ),
        12 => format!(
            "UPDATE p SET part = 1 - part, v = '{n}' WHERE id BETWEEN {at} AND {to} AND (id, 1 - part) NOT IN (SELECT id, part FROM p)"
        ),
        13 => format!("DELETE FROM p WHERE id BETWEEN {at} AND {to}"),
        14 => format!(
            "INSERT INTO p SELECT n, {}, 'i{n}' FROM generate_series({at}, {to}) n ON CONFLICT DO NOTHING",
            n % 2
        ),
        15 => format!(
            "SAVEPOINT s; DELETE FROM a WHERE id % 3 = {}; ROLLBACK TO s",
            n % 3
        ),
        _ => match dice.u32(0..4) {
            0 => "TRUNCATE a".to_owned(),
            1 => "TRUNCATE b, p".to_owned(),
            2 => format!("ALTER TABLE a ADD COLUMN c{n} int DEFAULT {n}"),
            _ => format!("ALTER TABLE b ALTER COLUMN v TYPE int USING v + {n}"),
        },
    }
}

fn transaction(dice: &mut fastrand::Rng) -> String {
    let statements: Vec<String> = (0..dice.u32(1..8)).map(|_| statement(dice)).collect();
    let end = if dice.u32(0..8) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {}; {end};", statements.join("; "))
}

#[tokio::test]
async fn random_transactions_survive_the_kill_of_every_process() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let steps = number("STEPS").unwrap_or(60);
    eprintln!("SEED={seed} STEPS={steps}");
    run(PostgresVersion::Installed, seed, steps)
        .await
        .with_context(|| format!("SEED={seed} STEPS={steps}"))
}

/// A run against a version of the server.
pub(crate) async fn run(version: PostgresVersion, seed: u64, steps: u64) -> Result<()> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let options = PostgresOptions {
        version,
        ..PostgresOptions::default()
    };
    let mut server = PostgresServer::start(options).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let name = create_database(&server, "soak").await?;
        server.psql(&name, SCHEMA).await?;
        names.push(name);
    }
    let (url, databases) = (server.url(&names[0]), names.join(","));
    let folder = tempfile::tempdir()?;
    let mut pipeline = Pipeline::new(&url, &target.url(), "*").await?;
    let store = pipeline.store();
    let source = ["--source", &url, "--pg-databases", &databases];
    pipeline.of_watcher = [&source[..], &["--pg-look-every", "200ms"]]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    pipeline.common = vec!["--lease".to_owned(), "2s".to_owned()];
    let (mut watcher, mut writer) = (pipeline.watcher()?, pipeline.writer()?);
    let stream = store.join("jetstream/$G/streams/ES_CHANGES");
    let saved = folder.path().join("saved");
    for step in 0..steps {
        let name = &names[dice.usize(..names.len())];
        server
            .psql(name, &transaction(&mut dice))
            .await
            .with_context(|| format!("step {step}"))?;
        match dice.u32(0..30) {
            0 | 1 => {
                watcher.kill().await?;
                watcher = pipeline.watcher()?;
            }
            2 => {
                writer.kill().await?;
                writer = pipeline.writer()?;
            }
            3 => server.restart().await?,
            4 => {
                pipeline.nats.kill();
                pipeline.nats.restart().await?;
            }
            // What the stream acknowledges from here on is lost at some later step.
            5 if !saved.exists() && stream.exists() => {
                pipeline.nats.kill();
                copy_folder(&stream, &saved)?;
                pipeline.nats.restart().await?;
            }
            6 | 7 if saved.exists() && stream.exists() => {
                lose_the_end(&mut pipeline.nats, &stream, &saved).await?;
                std::fs::remove_dir_all(&saved)?;
            }
            8 if stream.exists() => lose_everything(&mut pipeline.nats, &store).await?,
            _ => {}
        }
        // Now and then everything is let settle, so that a run covers the live stream too.
        if dice.u32(0..15) == 0 {
            for name in &names {
                let settled = equal(&server, name, target).await;
                settled.with_context(|| said(step, &watcher, &writer))?;
            }
        }
    }
    for name in &names {
        let settled = equal(&server, name, target).await;
        settled.with_context(|| said(steps, &watcher, &writer))?;
    }
    let compare = ["verify", "--target", &target.url(), "--lag", "2s"];
    command([&compare[..], &source[..]].concat())
        .await?
        .success()?;
    watcher.stop().await?;
    writer.stop().await
}

/// What both processes said last.
fn said(step: u64, watcher: &Program, writer: &Program) -> String {
    let last = |program: &Program| {
        let log = program.log();
        log[log.len().saturating_sub(12)..].join("\n")
    };
    format!(
        "step {step}; watcher:\n{}\nwriter:\n{}",
        last(watcher),
        last(writer)
    )
}

async fn equal(server: &PostgresServer, name: &str, target: &SearchNode) -> Result<()> {
    let tables = [
        ("public.a", "t.id"),
        ("public.b", "t.x || '|' || t.y"),
        ("public.p", "t.id || '|' || t.part"),
    ];
    for (table, id) in tables {
        let table = Table {
            server,
            database: name,
            name: table,
            id,
        };
        table.until_equal(&target.http(), PATIENCE * 2).await?;
    }
    Ok(())
}
