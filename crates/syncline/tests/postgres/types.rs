//! Each type, by COPY and by the stream: the same document both ways, and one that both products take.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{PostgresOptions, PostgresServer, PostgresVersion, Product, SearchNode, wait_until};

use crate::{
    create_database,
    support::{
        equal::contents,
        program::{PATIENCE, Program},
    },
};

const TYPES: &str = "
    CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE pair AS (n int, s text);
";

/// A type, a value, and what it becomes.
fn cases() -> Vec<(&'static str, &'static str, Value)> {
    let long = "9".repeat(400);
    let long: &'static str = Box::leak(format!("{long}::numeric").into_boxed_str());
    vec![
        ("bool", "true", json!(true)),
        ("int2", "-5", json!(-5)),
        (
            "int8",
            "9223372036854775807",
            json!(9_223_372_036_854_775_807_i64),
        ),
        ("float4", "1.5", json!(1.5)),
        ("float8", "'NaN'", json!("NaN")),
        ("float8", "1e-300", json!(1e-300)),
        (
            "numeric",
            "12345.678901234567890123456789",
            json!(12_345.678_901_234_567),
        ),
        ("numeric", "'NaN'", json!("NaN")),
        ("numeric", "'Infinity'", json!("Infinity")),
        ("numeric", long, json!("9".repeat(400))),
        (
            "text",
            "E'a\\tb\\n\\\\ \"q\" \u{1F600}'",
            json!("a\tb\n\\ \"q\" \u{1F600}"),
        ),
        ("varchar(5)", "''", json!("")),
        ("char(3)", "'a'", json!("a  ")),
        ("citext", "'AbC'", json!("AbC")),
        ("name", "'n'", json!("n")),
        (
            "uuid",
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        ("mood", "'happy'", json!("happy")),
        ("positive", "7", json!(7)),
        (
            "pair",
            "ROW(1, 'a \"b\", c')",
            json!({ "n": 1, "s": "a \"b\", c" }),
        ),
        ("date", "'2024-02-29'", json!("2024-02-29")),
        ("date", "'infinity'", json!("infinity")),
        ("date", "'0044-03-15 BC'", json!("-0043-03-15")),
        (
            "timestamp",
            "'2024-01-31 12:00:00.123456'",
            json!("2024-01-31T12:00:00.123456"),
        ),
        (
            "timestamptz",
            "'2024-01-31 12:00:00+02'",
            json!("2024-01-31T10:00:00Z"),
        ),
        ("timestamptz", "'-infinity'", json!("-infinity")),
        ("time", "'12:34:56.7'", json!("12:34:56.7")),
        ("timetz", "'12:34:56+02'", json!("12:34:56+02")),
        (
            "interval",
            "'1 year 2 days 03:04:05'",
            json!("P1Y2DT3H4M5S"),
        ),
        ("money", "'1234.5'", json!("$1,234.50")),
        (
            "json",
            "'{\"a\": 1, \"a\": 2, \"b\": [1, {\"c\": null}]}'",
            json!({ "a": 2, "b": [1, { "c": null }] }),
        ),
        ("json", "'[1, \"x\"]'", json!({ "value": [1, "x"] })),
        (
            "jsonb",
            "'{\"a\": {\"b\": \"c\"}}'",
            json!({ "a": { "b": "c" } }),
        ),
        ("jsonb", "'5'", json!({ "value": 5 })),
        ("jsonb", "'null'", json!({ "value": null })),
        ("int[]", "'{1,NULL,3}'", json!([1, null, 3])),
        ("int[]", "'[0:1]={1,2}'", json!([1, 2])),
        ("int[]", "'{{1,2},{3,4}}'", json!([[1, 2], [3, 4]])),
        (
            "text[]",
            "ARRAY['a,b', 'NULL', '', '\"', NULL]",
            json!(["a,b", "NULL", "", "\"", null]),
        ),
        ("mood[]", "'{sad,happy}'", json!(["sad", "happy"])),
        (
            "pair[]",
            "ARRAY[ROW(1, 'x')::pair]",
            json!([{ "n": 1, "s": "x" }]),
        ),
        ("int4range", "'[1,5)'", json!({ "gte": 1, "lt": 5 })),
        ("int8range", "'(,5]'", json!({ "lt": 6 })),
        ("numrange", "'[1.5,2.5]'", json!({ "gte": 1.5, "lte": 2.5 })),
        ("numrange", "'empty'", Value::Null),
        (
            "tstzrange",
            "'[2024-01-01 00:00+00,infinity)'",
            json!({ "gte": "2024-01-01T00:00:00Z" }),
        ),
        (
            "daterange",
            "'[2024-01-01,2024-02-01)'",
            json!({ "gte": "2024-01-01", "lt": "2024-02-01" }),
        ),
        (
            "int4multirange",
            "'{[1,2),[5,7)}'",
            json!([{ "gte": 1, "lt": 2 }, { "gte": 5, "lt": 7 }]),
        ),
        ("inet", "'192.168.0.1'", json!("192.168.0.1")),
        ("inet", "'192.168.0.1/24'", json!("192.168.0.1/24")),
        ("cidr", "'10.0.0.0/8'", json!("10.0.0.0/8")),
        ("macaddr", "'08:00:2b:01:02:03'", json!("08:00:2b:01:02:03")),
        ("point", "'(1.5,2.5)'", json!({ "lat": 2.5, "lon": 1.5 })),
        ("point", "'(1.5,250)'", json!({ "lat": 250, "lon": 1.5 })),
        ("bit(4)", "B'1010'", json!("1010")),
        ("hstore", "'a=>1, b=>NULL'", json!({ "a": "1", "b": null })),
        ("ltree", "'a.b.c'", json!("a.b.c")),
        ("tsvector", "'a:1 b:2'", json!("'a':1 'b':2")),
        ("xml", "'<a>b</a>'", json!("<a>b</a>")),
        ("box", "'(1,1),(0,0)'", json!("(1,1),(0,0)")),
        ("int", "NULL", Value::Null),
        ("jsonb", "NULL", Value::Null),
    ]
}

#[tokio::test]
async fn every_type_becomes_the_same_document_by_copy_and_by_stream() -> Result<()> {
    run(PostgresVersion::Installed).await
}

/// The same with a version of the server, without the types that it does not know.
pub(crate) async fn run(version: PostgresVersion) -> Result<()> {
    let options = PostgresOptions {
        version,
        ..PostgresOptions::default()
    };
    let server = PostgresServer::start(options).await?;
    let name = create_database(&server, "types").await?;
    server.psql(&name, TYPES).await?;
    let mut cases = cases();
    if version == PostgresVersion::Oldest {
        cases.retain(|(of, _, _)| !of.ends_with("multirange"));
    }
    let columns: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(at, (of, _, _))| format!("c{at} {of}"))
        .collect();
    let values: Vec<&str> = cases.iter().map(|(_, value, _)| *value).collect();
    let insert = |id: u32| {
        format!(
            "INSERT INTO t VALUES ({id}, {}, '\\x00ff', '\\x00ff');",
            values.join(", ")
        )
    };
    server
        .psql(
            &name,
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, {}, raw bytea, coded bytea); {}",
                columns.join(", "),
                insert(1)
            ),
        )
        .await?;
    let mut expected = json!({ "id": 0, "coded": "AP8=" });
    for (at, (_, _, value)) in cases.iter().enumerate() {
        expected[format!("c{at}")] = value.clone();
    }
    for product in [Product::Es8, Product::Os2] {
        let node = SearchNode::shared(product).await;
        let program = Program::follow([
            "sync",
            &server.url(&name),
            &node.url(),
            "--pg-columns",
            "public.t.coded=base64",
            "--index-template",
            &format!("{{database}}.{product:?}.{{table}}").to_lowercase(),
        ])?;
        let index = format!("{name}.{product:?}.t").to_lowercase();
        let arrived = async |id: &str| -> Result<Value> {
            let key = (id.to_owned(), None);
            wait_until("the row is there", PATIENCE, async || {
                contents(&node.http(), &index)
                    .await
                    .is_ok_and(|found| found.contains_key(&key))
            })
            .await?;
            contents(&node.http(), &index)
                .await?
                .remove(&key)
                .context("it is gone")
        };
        let copied = arrived("1").await?;
        let second = 1000 + product as u32;
        server.psql(&name, &insert(second)).await?;
        let streamed = arrived(&second.to_string()).await?;
        for (id, mut found) in [(1, copied), (second, streamed)] {
            ensure!(found["id"] == id, "{found}");
            found["id"] = json!(0);
            for (at, (of, value, wanted)) in cases.iter().enumerate() {
                let column = &found[format!("c{at}")];
                ensure!(
                    column == wanted,
                    "{product}: {of} {value}: {column} is not {wanted}"
                );
            }
            ensure!(found == expected, "{product}: {found} is not {expected}");
        }
        // What the mapping says can be searched for.
        let rows = contents(&node.http(), &index).await?.len();
        for query in [
            json!({ "term": { "c16": "happy" } }),
            json!({ "range": { "c1": { "lt": 0 } } }),
            json!({ "range": { "c23": { "gte": "2024-01-31T10:00:00Z" } } }),
            json!({ "term": { "c40": 3 } }),
            json!({ "term": { "c47": "192.168.0.0/16" } }),
        ] {
            let found = node
                .http()
                .post_json(&format!("/{index}/_search"), &json!({ "query": query }))
                .await?;
            ensure!(
                found["hits"]["total"]["value"] == rows,
                "{product}: {query} finds {}",
                found["hits"]["total"]
            );
        }
        program.stop().await?;
    }
    Ok(())
}
