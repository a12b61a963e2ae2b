//! Tables of every kind, and what becomes of them while they are followed.

use anyhow::{Result, ensure};
use testkit::{
    Http, PostgresOptions, PostgresServer, PostgresVersion, Product, SearchNode, wait_until,
};

use crate::{
    create_database,
    support::program::{PATIENCE, Program, run},
    truth::Table,
};

/// A server with a database that is followed into a cluster.
struct Followed {
    server: PostgresServer,
    name: String,
    target: Http,
    program: Program,
}

impl Followed {
    async fn start(test: &str, schema: &str, flags: &[&str]) -> Result<Followed> {
        Followed::start_on(PostgresVersion::Installed, test, schema, flags).await
    }

    async fn start_on(
        version: PostgresVersion,
        test: &str,
        schema: &str,
        flags: &[&str],
    ) -> Result<Followed> {
        let server = PostgresServer::start(PostgresOptions {
            version,
            ..PostgresOptions::default()
        })
        .await?;
        let name = create_database(&server, test).await?;
        server.psql(&name, schema).await?;
        let node = SearchNode::shared(Product::Es8).await;
        let mut arguments = vec!["sync".to_owned(), server.url(&name), node.url()];
        if !flags.contains(&"--pg-look-every") {
            arguments.extend(["--pg-look-every", "100ms"].map(str::to_owned));
        }
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Ok(Followed {
            program: Program::follow(arguments)?,
            server,
            name,
            target: node.http(),
        })
    }

    async fn run(&self, script: &str) -> Result<String> {
        self.server.psql(&self.name, script).await
    }

    async fn equal(&self, table: &str, id: &str) -> Result<usize> {
        let table = Table {
            server: &self.server,
            database: &self.name,
            name: table,
            id,
        };
        let equal = table.until_equal(&self.target, PATIENCE).await;
        equal.map_err(|error| error.context(self.program.last_words()))
    }
}

#[tokio::test]
async fn each_replica_identity_is_followed() -> Result<()> {
    let followed = Followed::start(
        "identities",
        "CREATE TABLE d (id int PRIMARY KEY, u int NOT NULL UNIQUE, big text);
         CREATE TABLE i (id int PRIMARY KEY, u int NOT NULL UNIQUE, big text);
         CREATE TABLE f (id int PRIMARY KEY, u int NOT NULL UNIQUE, big text);
         ALTER TABLE i REPLICA IDENTITY USING INDEX i_u_key;
         ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE TABLE n (id int PRIMARY KEY, u int);
         ALTER TABLE n REPLICA IDENTITY NOTHING;
         CREATE TABLE without_key (v int);
         ALTER TABLE d ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE i ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
         INSERT INTO d SELECT n, n, repeat(md5(n::text), 200) FROM generate_series(1, 90) n;
         INSERT INTO i SELECT * FROM d;
         INSERT INTO f SELECT * FROM d;",
        &[],
    )
    .await?;
    for (table, id) in [
        ("public.d", "t.id"),
        ("public.i", "t.u"),
        ("public.f", "t.id"),
    ] {
        followed.equal(table, id).await?;
        // A large value that is not changed is not sent: it must not become null. Keys change, too.
        let changes = format!(
            "UPDATE {table} SET u = u + 1000 WHERE id % 3 = 0;
             UPDATE {table} SET id = id + 1000 WHERE id % 5 = 0;
             UPDATE {table} SET id = id + 5000, u = u + 5000 WHERE id % 7 = 0;
             UPDATE {table} SET big = 'small' WHERE id % 11 = 0;
             DELETE FROM {table} WHERE id % 13 = 0;"
        );
        followed.run(&changes).await?;
        let rows = followed.equal(table, id).await?;
        ensure!(rows > 80, "{rows} rows of {table}");
    }
    // What has no identity is left out, and its application goes on.
    followed
        .run("INSERT INTO n VALUES (1, 1); UPDATE n SET u = 2; INSERT INTO without_key VALUES (1); DELETE FROM without_key")
        .await?;
    followed.program.says(&["public.n is left out"]).await?;
    followed
        .program
        .says(&["public.without_key is left out", "primary key"])
        .await?;
    followed.program.stop().await
}

#[tokio::test]
async fn tables_that_are_created_altered_rewritten_and_dropped_stay_equal() -> Result<()> {
    let followed = Followed::start(
        "ddl",
        "CREATE TABLE a (id int PRIMARY KEY, v int);
         INSERT INTO a SELECT n, n FROM generate_series(1, 1000) n;
         CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone VALUES (1);",
        &[],
    )
    .await?;
    followed.equal("public.a", "t.id").await?;
    followed
        .run("CREATE SCHEMA s; CREATE TABLE s.b AS SELECT * FROM a; ALTER TABLE s.b ADD PRIMARY KEY (id)")
        .await?;
    ensure!(followed.equal("s.b", "t.id").await? == 1000);
    // None of these sends a row, and all of them change every document.
    for alter in [
        "ALTER TABLE a ADD COLUMN w int DEFAULT 7",
        "ALTER TABLE a ADD COLUMN r text DEFAULT md5(random()::text)",
        "ALTER TABLE a ALTER COLUMN v TYPE int USING v + 1",
        "ALTER TABLE a RENAME COLUMN w TO x",
        "ALTER TABLE a DROP COLUMN v",
        "TRUNCATE a; INSERT INTO a SELECT n, 1, 'x' FROM generate_series(1, 50) n",
    ] {
        followed.run(alter).await?;
        followed.equal("public.a", "t.id").await?;
    }
    followed.run("UPDATE a SET x = -x; ALTER TABLE a ADD COLUMN z int; UPDATE a SET z = 3 WHERE id < 20; DROP TABLE gone").await?;
    followed.equal("public.a", "t.id").await?;
    followed
        .run("CREATE TABLE gone (id int PRIMARY KEY, v text); INSERT INTO gone VALUES (2, 'other')")
        .await?;
    followed.equal("public.gone", "t.id").await?;
    // The key itself becomes another.
    followed
        .run("ALTER TABLE s.b ADD COLUMN k text; UPDATE s.b SET k = 'k' || id;
              BEGIN; ALTER TABLE s.b DROP CONSTRAINT b_pkey; ALTER TABLE s.b ADD PRIMARY KEY (k); COMMIT")
        .await?;
    ensure!(followed.equal("s.b", "t.k").await? == 1000);
    followed.program.stop().await
}

#[tokio::test]
async fn tables_and_schemas_that_are_gone_before_they_are_looked_at_end_nothing() -> Result<()> {
    let followed = Followed::start(
        "fleeting",
        "CREATE TABLE a (id int PRIMARY KEY, v int)",
        &["--pg-look-every", "1ms"],
    )
    .await?;
    followed.equal("public.a", "t.id").await?;
    let fleeting = |n: usize| {
        format!(
            "CREATE TABLE t{n} AS SELECT g AS id FROM generate_series(1, 50) g; ALTER TABLE t{n} ADD PRIMARY KEY (id);
             CREATE SCHEMA s{n}; CREATE TABLE s{n}.t (id int PRIMARY KEY); INSERT INTO s{n}.t VALUES ({n});
             INSERT INTO a VALUES ({n}, {n}); DROP TABLE t{n}; DROP SCHEMA s{n} CASCADE;"
        )
    };
    let script: String = (0..300).map(fleeting).collect();
    followed.run(&script).await?;
    followed
        .run("CREATE TABLE last (id int PRIMARY KEY); INSERT INTO last VALUES (1)")
        .await?;
    ensure!(followed.equal("public.last", "t.id").await? == 1);
    ensure!(followed.equal("public.a", "t.id").await? == 300);
    followed.program.stop().await
}

#[tokio::test]
async fn partitions_are_one_index_however_rows_and_partitions_move() -> Result<()> {
    partitions(PostgresVersion::Installed).await
}

/// It publishes the partitions one by one: it cannot publish the table that they are of.
#[tokio::test]
async fn partitions_of_the_oldest_version_are_one_index_too() -> Result<()> {
    partitions(PostgresVersion::Oldest).await
}

async fn partitions(version: PostgresVersion) -> Result<()> {
    let followed = Followed::start_on(
        version,
        "partitions",
        "CREATE TABLE p (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
         CREATE TABLE p2x PARTITION OF p2 DEFAULT;
         INSERT INTO p SELECT n, n % 20, 'v' || n FROM generate_series(1, 400) n;",
        &[],
    )
    .await?;
    let id = "t.id || '|' || t.day";
    ensure!(followed.equal("public.p", id).await? == 400);
    followed
        .run("UPDATE p SET day = day + 10 WHERE day < 5; UPDATE p SET v = 'w' WHERE day = 12; DELETE FROM p WHERE day = 9")
        .await?;
    followed.equal("public.p", id).await?;
    // Rows that come and go with their partition.
    followed
        .run(
            "CREATE TABLE more (id int NOT NULL, day int NOT NULL, v text);
              INSERT INTO more SELECT n, 25, 'more' FROM generate_series(1, 30) n;
              ALTER TABLE more ADD PRIMARY KEY (id, day);
              ALTER TABLE p ATTACH PARTITION more FOR VALUES FROM (20) TO (30);",
        )
        .await?;
    followed.equal("public.p", id).await?;
    followed.run("ALTER TABLE p DETACH PARTITION p1").await?;
    followed.equal("public.p", id).await?;
    followed.run("TRUNCATE p2x").await?;
    ensure!(followed.equal("public.p", id).await? == 30);
    followed.run("TRUNCATE p").await?;
    ensure!(followed.equal("public.p", id).await? == 0);
    followed.program.stop().await
}

/// `REPLICA IDENTITY` of the whole does not reach the partitions that there are already.
#[tokio::test]
async fn a_partition_without_an_identity_keeps_its_table_out_and_the_application_at_work()
-> Result<()> {
    let followed = Followed::start(
        "identity-of-parts",
        "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         ALTER TABLE p REPLICA IDENTITY FULL;
         INSERT INTO p VALUES (1, 'a'), (2, 'b');
         CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
        &["--pg-no-key", "full-row"],
    )
    .await?;
    followed.equal("public.t", "t.id").await?;
    followed
        .program
        .says(&["public.p", "a partition of it", "replica identity"])
        .await?;
    followed.run("UPDATE p SET v = 'c' WHERE id = 1").await?;
    // With one it is followed.
    followed.run("ALTER TABLE p1 REPLICA IDENTITY FULL").await?;
    let (index, target) = (format!("{}.public.p", followed.name), &followed.target);
    wait_until("the partition has arrived", PATIENCE, async || {
        let found = crate::support::equal::contents(target, &index).await;
        found.is_ok_and(|found| found.len() == 2)
    })
    .await?;
    followed.run("UPDATE p SET v = 'd' WHERE id = 2").await?;
    followed.program.stop().await
}

#[tokio::test]
async fn generated_columns_and_rows_without_a_key_are_followed() -> Result<()> {
    let followed = Followed::start(
        "generated",
        "CREATE TABLE g (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
         INSERT INTO g (id, a) VALUES (1, 1), (2, 2);
         CREATE TABLE w (a int, b text);
         ALTER TABLE w REPLICA IDENTITY FULL;
         INSERT INTO w VALUES (1, 'x'), (2, NULL), (3, 'z');",
        &["--pg-no-key", "full-row"],
    )
    .await?;
    followed.equal("public.g", "t.id").await?;
    followed
        .run("UPDATE g SET a = 10; INSERT INTO g (id, a) VALUES (3, 3)")
        .await?;
    ensure!(followed.equal("public.g", "t.id").await? == 3);
    followed.run("UPDATE w SET b = 'y' WHERE a = 2; DELETE FROM w WHERE a = 3; INSERT INTO w VALUES (4, 'new')").await?;
    let (index, target) = (format!("{}.public.w", followed.name), &followed.target);
    let wanted = [
        r#"{"a":1,"b":"x"}"#,
        r#"{"a":2,"b":"y"}"#,
        r#"{"a":4,"b":"new"}"#,
    ];
    wait_until("the rows without a key are equal", PATIENCE, async || {
        let Ok(found) = crate::support::equal::contents(target, &index).await else {
            return false;
        };
        let mut found: Vec<String> = found.values().map(ToString::to_string).collect();
        found.sort();
        found == wanted
    })
    .await?;
    followed.program.stop().await
}

#[tokio::test]
async fn a_transaction_larger_than_memory_should_hold_arrives_whole_or_not_at_all() -> Result<()> {
    let followed = Followed::start(
        "large",
        "CREATE TABLE l (id int PRIMARY KEY, v text, n int)",
        &[],
    )
    .await?;
    followed
        .run(
            "BEGIN; INSERT INTO l SELECT n, repeat('x', 100), 0 FROM generate_series(1, 30000) n;
             UPDATE l SET n = 1; DELETE FROM l WHERE id % 2 = 0; UPDATE l SET n = 2 WHERE id % 3 = 0; COMMIT;
             BEGIN; INSERT INTO l SELECT n, 'never', 0 FROM generate_series(50000, 60000) n; ROLLBACK;
             BEGIN; UPDATE l SET v = 'y'; SAVEPOINT s; DELETE FROM l; ROLLBACK TO s; UPDATE l SET n = 9 WHERE id = 1; COMMIT",
        )
        .await?;
    ensure!(followed.equal("public.l", "t.id").await? == 15000);
    followed.program.stop().await
}

#[tokio::test]
async fn two_databases_of_an_instance_are_followed_by_one_process() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let node = SearchNode::shared(Product::Es8).await;
    let names = [
        create_database(&server, "one").await?,
        create_database(&server, "two").await?,
    ];
    let schema =
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, current_database())";
    for name in &names {
        server.psql(name, schema).await?;
    }
    let folder = tempfile::tempdir()?;
    let program = Program::follow([
        "sync",
        &server.url(&names[0]),
        &node.url(),
        "--pg-databases",
        &names.join(","),
        "--pg-slot",
        "both",
        "--checkpoint-path",
        &crate::support::program::text(folder.path()),
    ])?;
    for name in &names {
        server.psql(name, "INSERT INTO t VALUES (2, 'two')").await?;
        let table = Table {
            server: &server,
            database: name,
            name: "public.t",
            id: "t.id",
        };
        ensure!(table.until_equal(&node.http(), PATIENCE).await? == 2);
    }
    // Nothing happens in either, and much in a third: their slots must not hold back its log.
    server
        .psql(
            "postgres",
            "CREATE TABLE noise AS SELECT n, repeat('x', 1000) FROM generate_series(1, 60000) n",
        )
        .await?;
    let held = "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::bigint < 1000000, count(*) \
                FROM pg_replication_slots WHERE NOT temporary";
    wait_until("the slots are let go", PATIENCE, async || {
        matches!(server.psql("postgres", held).await.as_deref(), Ok("t|2\n"))
    })
    .await?;
    program.stop().await
}

#[tokio::test]
async fn a_named_publication_is_taken_as_it_is() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let node = SearchNode::shared(Product::Es8).await;
    let name = create_database(&server, "named").await?;
    server
        .psql(
            &name,
            "CREATE TABLE t (id int PRIMARY KEY, v text, secret text);
             CREATE TABLE other (id int PRIMARY KEY);
             INSERT INTO t SELECT n, 'v', 'hidden' FROM generate_series(1, 20) n;
             CREATE PUBLICATION mine FOR TABLE t (id, v) WHERE (id > 10)",
        )
        .await?;
    run([
        "sync",
        &server.url(&name),
        &node.url(),
        "--pg-publication",
        "mine",
    ])
    .await?
    .success()?;
    server
        .psql(
            &name,
            "CREATE VIEW shown AS SELECT id, v FROM t WHERE id > 10",
        )
        .await?;
    let shown = Table {
        server: &server,
        database: &name,
        name: "public.shown",
        id: "t.id",
    };
    let found = crate::support::equal::contents(&node.http(), &format!("{name}.public.t")).await?;
    let difference = crate::support::equal::difference(&shown.rows().await?, &found);
    ensure!(difference.is_none() && found.len() == 10, "{difference:?}");
    Ok(())
}
