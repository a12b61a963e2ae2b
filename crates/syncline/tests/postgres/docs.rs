//! What docs/postgres.md and docs/aws.md show is what happens.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testkit::{
    NatsOptions, NatsServer, PostgresOptions, PostgresServer, Product, SearchNode, wait_until,
};

use crate::{
    create_database,
    support::program::{PATIENCE, Program, run, text},
    truth::Table,
};

fn page(name: &str) -> Result<String> {
    let page = testkit::checkout().join("docs").join(name);
    Ok(std::fs::read_to_string(page)?)
}

/// The code blocks of a language, in their order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    let text = blocks.filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
    text.collect()
}

/// Words of a page between backticks, or in its blocks, that begin like this.
fn words(page: &str, beginning: &str) -> BTreeSet<String> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
    let starts = page.match_indices(beginning).map(|(at, _)| &page[at..]);
    let words = starts.filter_map(|rest| rest.split(ends).next());
    // A rule of a table is none.
    let is_name =
        |word: &&str| word[beginning.len()..].starts_with(|c: char| c.is_ascii_alphabetic());
    words.filter(is_name).map(str::to_owned).collect()
}

/// The page's database with the page's tables, and the real servers behind its names.
struct Shop {
    server: PostgresServer,
    target: &'static SearchNode,
    nats: NatsServer,
    name: String,
    folder: TempDir,
}

impl Shop {
    async fn open() -> Result<Shop> {
        let server = PostgresServer::start(PostgresOptions::default()).await?;
        let name = create_database(&server, "shop").await?;
        let tables = "CREATE TABLE customers (id int PRIMARY KEY, name text);
            CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, note text);
            INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 50) n;
            INSERT INTO orders SELECT n, n % 50 + 1, 'note' FROM generate_series(1, 500) n";
        server.psql(&name, tables).await?;
        Ok(Shop {
            server,
            target: SearchNode::shared(Product::Os2).await,
            nats: NatsServer::start(NatsOptions::default()).await?,
            name,
            folder: tempfile::tempdir()?,
        })
    }

    /// A command line of the page as arguments of the program, with the real servers in it.
    fn arguments(&self, line: &str) -> Vec<String> {
        let source = self
            .server
            .url(&self.name)
            .replace("postgres@", "syncline@");
        let line = line
            .replace("postgres://syncline@db:5432/shop", &source)
            .replace("postgres://…", &source)
            .replace("http://search:9200", &self.target.url())
            .replace("http://…", &self.target.url())
            .replace("nats://nats:4222", &self.nats.url())
            .replace("/data/syncline", &text(&self.folder.path().join("sync")));
        let command = line.split('#').next().unwrap_or_default();
        let words = command
            .split_whitespace()
            .filter(|word| *word != "syncline");
        words.map(str::to_owned).collect()
    }

    /// Starts a service as a line says; its folder is the test's.
    fn start(&self, line: &str, folder: &str) -> Result<Program> {
        let mut arguments = self.arguments(line);
        if arguments
            .first()
            .is_some_and(|service| service == "es-watcher")
        {
            let folder = text(&self.folder.path().join(folder));
            arguments.extend(["--checkpoint-path".to_owned(), folder]);
        }
        Program::start(arguments)
    }

    /// Runs a statement as soon as the server takes it: it notices a moment later that a reader has gone.
    async fn says(&self, statement: &str) -> Result<()> {
        wait_until(statement, PATIENCE, async || {
            self.server.psql(&self.name, statement).await.is_ok()
        })
        .await
    }

    /// Changes something and waits until both indices show it.
    async fn follows(&self, note: &str) -> Result<()> {
        let script = format!(
            "UPDATE orders SET note = '{note}' WHERE id % 3 = 0; DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)"
        );
        self.server.psql(&self.name, &script).await?;
        for table in ["public.customers", "public.orders"] {
            let table = Table {
                server: &self.server,
                database: &self.name,
                name: table,
                id: "t.id",
            };
            ensure!(table.until_equal(&self.target.http(), PATIENCE).await? > 0);
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_page_about_postgresql_is_true() -> Result<()> {
    let page = page("postgres.md")?;
    let shop = Shop::open().await?;
    let (sql, console) = (blocks(&page, "sql"), blocks(&page, "console"));
    ensure!(
        sql.len() == 2 && console.len() == 5,
        "the page has lost some of its blocks"
    );
    let lines = |block: usize| {
        console[block]
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };

    // The role as the page makes it, and a publication that the tables' owner has made.
    for block in &sql {
        shop.server.psql(&shop.name, block).await?;
    }
    let writer = shop.start(&lines(1)[1], "writer")?;
    let named = lines(2).concat() + " --nats-url nats://nats:4222";
    let watcher = shop.start(&named, "named")?;
    shop.follows("by the owner's publication").await?;
    let served = watcher.admin().await?.get_json("/metrics").await?;
    let served = served.as_str().unwrap_or_default();
    let metrics = words(&page, "syncline_watcher_");
    ensure!(metrics.len() >= 2, "the page names {metrics:?}");
    for metric in metrics {
        ensure!(served.contains(&metric), "there is no metric {metric}");
    }
    watcher.stop().await?;

    // The role owns the tables.
    let (name, own) = (
        &shop.name,
        "ALTER TABLE customers OWNER TO syncline; ALTER TABLE orders OWNER TO syncline",
    );
    let script = format!("{own}; GRANT CREATE ON DATABASE {name} TO syncline");
    shop.server.psql(name, &script).await?;
    shop.says("SELECT pg_drop_replication_slot('syncline_default')")
        .await?;
    let checked = page
        .lines()
        .find_map(|line| Some(line.strip_prefix("`syncline check")?.split_once('`')?.0));
    let checked = shop.arguments(&format!(
        "check{}",
        checked.context("no check on the page")?
    ));
    run(checked).await?.success()?;
    let watcher = shop.start(&lines(1)[0], "own")?;
    shop.follows("by its own publication").await?;
    for line in [lines(3), lines(4)].concat() {
        run(shop.arguments(&line)).await?.success()?;
    }
    watcher.stop().await?;
    writer.stop().await?;

    // What is left behind goes as the page says.
    let ends = page
        .match_indices("`SELECT pg_drop_replication_slot")
        .chain(page.match_indices("`DROP PUBLICATION"));
    let ends: Vec<&str> = ends
        .filter_map(|(at, _)| page[at + 1..].split('`').next())
        .collect();
    ensure!(ends.len() == 2, "{ends:?}");
    for statement in ends {
        shop.says(statement).await?;
    }

    // In one process.
    let sync = shop.arguments(&lines(0).concat());
    let program = Program::follow(sync.iter().filter(|word| *word != "--follow"))?;
    shop.follows("in one process").await?;
    program.stop().await
}

#[tokio::test]
async fn every_flag_that_the_pages_about_postgresql_and_aws_name_exists() -> Result<()> {
    let mut known = String::new();
    for command in [
        "sync",
        "es-watcher",
        "es-writer",
        "check",
        "verify",
        "query-api",
    ] {
        known += &run([command, "--help"]).await?.success()?.stdout;
    }
    let known = words(&known, "--");
    for name in ["postgres.md", "aws.md"] {
        let flags = words(&page(name)?, "--");
        ensure!(flags.len() >= 3, "{name} names {flags:?}");
        for flag in flags {
            ensure!(known.contains(&flag), "{name}: no command has {flag}");
        }
    }
    Ok(())
}
