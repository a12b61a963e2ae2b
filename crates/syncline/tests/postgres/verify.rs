//! `syncline verify` of a PostgreSQL server: what differs is found and made equal, and nobody is accused who
//! is not different. The server's own client says what is true.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, PostgresOptions, PostgresServer, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::program::{Ended, PATIENCE, Program, run, text},
    truth::Table,
};

/// A table of each kind of identity: a number, two columns with what an id has to escape, a text that is too
/// long for an id, partitions, and none at all with rows that occur twice.
const SCHEMA: &str = r"
    CREATE TABLE films (id int PRIMARY KEY, title text, note text, price numeric, info jsonb);
    CREATE TABLE casts (film int, actor text, role text, PRIMARY KEY (film, actor));
    CREATE TABLE long (name text PRIMARY KEY, n int);
    CREATE TABLE parts (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE part0 PARTITION OF parts FOR VALUES IN (0);
    CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE twice (t text, twice int);
    ALTER TABLE twice REPLICA IDENTITY FULL;
    INSERT INTO films SELECT n, 'film ' || n, NULL, n + 0.50, jsonb_build_object('n', n)
        FROM generate_series(1, 20000) n;
    INSERT INTO casts SELECT n % 50, 'actor|\' || n, NULL FROM generate_series(1, 300) n;
    INSERT INTO long SELECT n || repeat('x', 600), n FROM generate_series(1, 50) n;
    INSERT INTO long VALUES ('', -1);
    INSERT INTO parts SELECT n, n % 2, 'v' || n FROM generate_series(1, 300) n;
    INSERT INTO twice SELECT 'row ' || n % 40, n % 40 FROM generate_series(1, 80) n;
    INSERT INTO twice VALUES (NULL, NULL), ('', NULL);
";

struct Setting<'a> {
    server: &'a PostgresServer,
    name: String,
    target: &'a SearchNode,
}

impl Setting<'_> {
    fn index(&self, table: &str) -> String {
        format!("{}.public.{table}", self.name)
    }

    /// Compares, with more arguments.
    async fn verify(&self, more: &[&str]) -> Result<Ended> {
        let (source, target) = (self.server.url(&self.name), self.target.url());
        let mut arguments = vec!["verify", "--source", &source, "--target", &target, "--json"];
        arguments.extend(["--pg-no-key", "full-row"]);
        arguments.extend(more);
        run(arguments).await
    }

    /// What a comparison says of a table.
    async fn report(&self, table: &str, more: &[&str]) -> Result<Value> {
        let ended = self.verify(more).await?;
        let report: Value = serde_json::from_str(&ended.stdout).context(format!("{ended:#?}"))?;
        of_table(&report, &self.index(table))
    }

    /// Checks by the server's own word that the tables with a key that it can say are in their indices.
    async fn equal(&self) -> Result<()> {
        let escaped = r"t.film || '|' || replace(replace(t.actor, '\', '\\'), '|', '\|')";
        for (name, id) in [
            ("public.films", "t.id"),
            ("public.casts", escaped),
            ("public.parts", "t.id || '|' || t.part"),
        ] {
            let table = Table {
                server: self.server,
                database: &self.name,
                name,
                id,
            };
            table.until_equal(&self.target.http(), PATIENCE).await?;
        }
        Ok(())
    }
}

fn of_table(report: &Value, index: &str) -> Result<Value> {
    let indices = report["indices"].as_array().context("no indices")?;
    let found = indices.iter().find(|found| found["index"] == index);
    found
        .cloned()
        .context(format!("{index} is not in {report:#}"))
}

/// The ids of a kind of difference, in order.
fn ids(report: &Value, kind: &str) -> Vec<String> {
    let listed = report[kind]["listed"].as_array().into_iter().flatten();
    let mut ids: Vec<String> = listed
        .filter_map(|one| Some(one["id"].as_str()?.to_owned()))
        .collect();
    ids.sort();
    ids
}

async fn put(http: &Http, index: &str, id: &str, document: Value) -> Result<()> {
    let path = format!("/{index}/_doc/{id}");
    let (status, answer) = http
        .request("PUT".parse()?, &path, document.to_string())
        .await?;
    ensure!(matches!(status, 200 | 201), "{answer}");
    Ok(())
}

async fn remove(http: &Http, index: &str, id: &str) -> Result<()> {
    let path = format!("/{index}/_doc/{id}");
    let (status, answer) = http
        .request("DELETE".parse()?, &path, String::new())
        .await?;
    ensure!(status == 200, "{answer}");
    Ok(())
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_made_equal() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    for product in [Product::Os2, Product::Es8] {
        let target = SearchNode::shared(product).await;
        let name = create_database(&server, "verify").await?;
        server.psql(&name, SCHEMA).await?;
        let here = Setting {
            server: &server,
            name,
            target,
        };
        let folder = tempfile::tempdir()?;
        let follow = [
            "sync".to_owned(),
            server.url(&here.name),
            target.url(),
            "--checkpoint-path".to_owned(),
            text(folder.path()),
            "--pg-no-key".to_owned(),
            "full-row".to_owned(),
        ];
        let program = Program::follow(&follow)?;
        here.equal().await?;
        here.verify(&["--lag", "5s"]).await?.success()?;
        break_and_mend(&here).await?;
        // What comes after a repair still arrives.
        server
            .psql(
                &here.name,
                "UPDATE films SET note = 'after' WHERE id BETWEEN 90 AND 110; DELETE FROM films WHERE id = 105;
                 UPDATE casts SET role = 'after' WHERE film < 3; TRUNCATE parts; INSERT INTO parts VALUES (1, 0, 'x')",
            )
            .await?;
        here.equal().await?;
        here.verify(&["--lag", "5s"]).await?.success()?;
        program.kill().await?;
    }
    Ok(())
}

/// Edits the target by hand in every way, and has it found and repaired.
async fn break_and_mend(here: &Setting<'_>) -> Result<()> {
    let http = here.target.http();
    let (films, casts) = (here.index("films"), here.index("casts"));
    let film = |n: u32| json!({ "id": n, "title": format!("film {n}"), "note": null, "price": f64::from(n) + 0.5, "info": { "n": n } });
    let but = |n: u32, member: &str, value: Value| {
        let mut film = film(n);
        film[member] = value;
        film
    };
    // The same document, written otherwise (105.50 is 105.5), is not different.
    put(&http, &films, "105", film(105)).await?;
    remove(&http, &films, "100").await?;
    remove(&http, &films, "20000").await?;
    put(&http, &films, "101", but(101, "title", json!("film 10l"))).await?;
    put(&http, &films, "102", but(102, "price", json!("102.50"))).await?;
    put(
        &http,
        &films,
        "103",
        but(103, "price", json!(103.500_000_000_1)),
    )
    .await?;
    let mut absent = film(104);
    absent.as_object_mut().context("an object")?.remove("note");
    put(&http, &films, "104", absent).await?;
    // Keys that no row has, and ids that no row can have.
    for id in ["0", "010", "word", "99999999999999999999", "a%7Cb", "%5CN"] {
        put(&http, &films, id, film(1)).await?;
    }
    remove(&http, &casts, "7%7Cactor%5C%7C%5C%5C57").await?;
    put(&http, &casts, "7%7Cactor%5C%7C%5C%5C58", json!({})).await?;
    put(&http, &casts, "7", json!({})).await?;
    for (table, kind) in [("long", "xxh3"), ("twice", "row")] {
        let index = here.index(table);
        let digest = format!("{kind}:{:032x}", 7);
        put(&http, &index, &digest, json!({})).await?;
    }
    let found = here.report("films", &["--lag", "0ms"]).await?;
    ensure!(ids(&found, "missing") == ["100", "20000"], "{found:#}");
    ensure!(
        ids(&found, "different") == ["101", "102", "103", "104"],
        "{found:#}"
    );
    let extra = ["0", "010", "99999999999999999999", "\\N", "a|b", "word"];
    ensure!(ids(&found, "extra") == extra, "{found:#}");
    ensure!(
        found["exact"] == true && found["changing"]["count"] == 0,
        "{found:#}"
    );
    let ended = here.verify(&["--lag", "0ms", "--repair"]).await?;
    ensure!(ended.code == Some(3), "{ended:#?}");
    let report: Value = serde_json::from_str(&ended.stdout)?;
    for (table, write, delete) in [
        ("films", 6, 6),
        ("casts", 1, 2),
        ("long", 0, 1),
        ("twice", 0, 1),
        ("parts", 0, 0),
    ] {
        let plan = of_table(&report, &here.index(table))?["plan"].clone();
        let expected = json!({ "create": false, "write": write, "delete": delete });
        ensure!(plan == expected, "{table}: {plan}");
    }
    // It has only said so.
    let again = here.report("films", &["--lag", "0ms"]).await?;
    ensure!(again["left"] == 12, "{again:#}");
    let repaired = here.verify(&["--lag", "1s", "--repair", "--yes"]).await?;
    let report: Value = serde_json::from_str(&repaired.stdout).context(format!("{repaired:#?}"))?;
    ensure!(repaired.code == Some(0), "{report:#}");
    let repaired = of_table(&report, &films)?["repaired"].clone();
    ensure!(
        repaired["written"] == 6 && repaired["deleted"] == 6 && repaired["foreign"] == 0,
        "{repaired:#}"
    );
    here.verify(&["--lag", "0ms"]).await?.success()?;
    here.equal().await
}

#[tokio::test]
async fn rows_that_change_meanwhile_are_not_accused() -> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let name = create_database(&server, "busy").await?;
    server.psql(&name, SCHEMA).await?;
    let marks =
        "CREATE TABLE marks (id int PRIMARY KEY, round int); INSERT INTO marks VALUES (1, 0)";
    server.psql(&name, marks).await?;
    let here = Setting {
        server: &server,
        name,
        target,
    };
    let program = Program::follow(["sync", &server.url(&here.name), &target.url()])?;
    here.equal().await?;
    let mark = format!("/{}/_doc/1", here.index("marks"));
    let arrived = async || -> Result<u64> {
        let found = target.http().get_json(&mark).await?;
        found["_source"]["round"].as_u64().context("no round")
    };
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    // Rows are touched again and again, and move in their files, never more than two rounds ahead.
    let writing = async {
        let mut round: u64 = 0;
        while !*stopped.borrow_and_update() {
            round += 1;
            let script = format!(
                "UPDATE films SET note = 'round {round}' WHERE id % 50 = {round} % 50;
                 DELETE FROM films WHERE id % 200 = {round} % 200;
                 INSERT INTO films SELECT n, 'film ' || n, NULL, n, NULL FROM generate_series(1, 20000) n
                     WHERE n % 200 = ({round} + 190) % 200 ON CONFLICT DO NOTHING;
                 UPDATE casts SET film = film + 1, role = '{round}' WHERE film % 7 = {round} % 7;
                 UPDATE parts SET part = 1 - part WHERE id % 30 = {round} % 30;
                 UPDATE marks SET round = {round};"
            );
            server.psql(&here.name, &script).await?;
            wait_until("the round before has arrived", PATIENCE, async || {
                arrived().await.is_ok_and(|arrived| arrived + 1 >= round)
            })
            .await?;
        }
        anyhow::Ok(round)
    };
    let comparing = async {
        let mut seen = 0;
        for _ in 0..3 {
            let patterns = "*,-*.twice";
            let ended = here.verify(&["--lag", "5s", "--indices", patterns]).await?;
            let report: Value =
                serde_json::from_str(&ended.stdout).context(format!("{ended:#?}"))?;
            for index in report["indices"].as_array().context("no indices")? {
                for kind in ["missing", "extra", "different", "misrouted"] {
                    ensure!(index[kind]["count"] == 0, "accused: {index:#}");
                }
                seen += index["settled_meanwhile"].as_u64().unwrap_or(0);
            }
        }
        stop.send_replace(true);
        Ok(seen)
    };
    let (rounds, seen) = tokio::try_join!(writing, comparing)?;
    ensure!(rounds > 3 && seen > 0, "{rounds} rounds, {seen} in flight");
    here.equal().await?;
    here.verify(&["--lag", "5s", "--indices", "*,-*.twice"])
        .await?
        .success()?;
    program.kill().await
}

#[tokio::test]
async fn two_databases_are_compared_in_one_run_that_goes_on_after_an_interruption_and_for_ever()
-> Result<()> {
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    let target = SearchNode::shared(Product::Os2).await;
    let mut names = Vec::new();
    for which in ["one", "two"] {
        let name = create_database(&server, which).await?;
        server
            .psql(
                &name,
                "CREATE TABLE t (id int PRIMARY KEY, v text);
                 INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 500) n",
            )
            .await?;
        names.push(name);
    }
    let (source, to, databases) = (server.url(&names[0]), target.url(), names.join(","));
    let index = |which: usize| format!("{}.public.t", names[which]);
    run(["sync", &source, &to, "--pg-databases", &databases])
        .await?
        .success()?;
    let verify = ["verify", &source, &to, "--pg-databases", &databases];
    let with = async |more: &[&str]| run([&verify[..], more].concat()).await;
    let report = |ended: &Ended| -> Result<Value> {
        serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:#?}"))
    };

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("state.json");
    let state = text(&file);
    // It breaks off at the second database.
    let path = |what: &str| format!("/{}/{what}", index(1));
    let http = target.http();
    http.post_json(&path("_close"), &Value::Null).await?;
    with(&["--state", &state])
        .await?
        .refused(1, &[&index(1), "closed"])?;
    http.post_json(&path("_open"), &Value::Null).await?;
    // What was found equal is not looked at again: nobody notices this.
    remove(&http, &index(0), "7").await?;
    let resumed = with(&["--state", &state, "--json"]).await?.success()?;
    let resumed = report(&resumed)?;
    ensure!(resumed["resumed"][0]["index"] == index(0), "{resumed:#}");
    ensure!(
        resumed["indices"].as_array().map(Vec::len) == Some(2),
        "{resumed:#}"
    );
    ensure!(!file.exists(), "the run was complete");
    let anew = with(&["--lag", "0", "--json"]).await?;
    ensure!(anew.code == Some(3), "{anew:#?}");
    let found = of_table(&report(&anew)?, &index(0))?;
    ensure!(ids(&found, "missing") == ["7"], "{found:#}");

    let often = ["--continuous", "--interval", "100ms", "--lag", "50ms"];
    let watching = Program::start([&verify[..], &often].concat())?;
    watching.ready().await?;
    const DIFFERENCES: &str = "syncline_verify_differences";
    let differences_are = async |wanted: f64| {
        let waited = wait_until("the metric says so", PATIENCE, async || {
            let found = watching.metric(DIFFERENCES).await;
            found.is_ok_and(|found| found == wanted)
        });
        waited.await.with_context(|| watching.last_words())
    };
    differences_are(1.0).await?;
    server
        .psql(&names[1], "DELETE FROM t WHERE id <= 3")
        .await?;
    differences_are(4.0).await?;
    with(&["--lag", "0", "--repair", "--yes"])
        .await?
        .success()?;
    differences_are(0.0).await?;
    watching.stop().await
}
