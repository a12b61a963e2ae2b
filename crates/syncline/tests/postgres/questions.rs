//! The same question twice: in SQL to the server that has the rows, and by REST to the index they became.

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::Value;
use testkit::{Http, PostgresOptions, PostgresServer, Product, SearchNode};

use crate::{create_database, positions, support::program::run};

const ROWS: usize = 300;
const QUESTIONS: usize = 120;

/// A column: its type, what may be asked of it beside `eq`, `neq`, `in` and `is`, and values that meet.
struct Column {
    name: &'static str,
    kind: &'static str,
    operators: &'static [&'static str],
    is_sortable: bool,
    values: &'static [&'static str],
}

const ORDER: &[&str] = &["gt", "gte", "lt", "lte"];
const TEXT: &[&str] = &["gt", "gte", "lt", "lte", "like", "ilike"];
const WORDS: &[&str] = &[
    "",
    "a",
    "A",
    "aa",
    "a b",
    "a,b",
    "(a)",
    "\"a\"",
    "a\\b",
    "50%",
    "a_b",
    "it's",
    "null",
    "not.eq.a",
    "é",
    "É",
    "ß",
    "\u{1F600}",
    "\u{FFFD}z",
];
const PATTERNS: &[&str] = &[
    "a%", "%B", "_", "a_b", "50\\%", "%\\\\%", "(_)", "%\"%", "%'%", "é", "", "%",
];

/// Texts are in the order of their bytes, which is an index's; enums have another order there, and addresses,
/// so that only their equality is asked. No number is the lowest or highest of its type: a cluster sorts those
/// beside what is absent.
const COLUMNS: &[Column] = &[
    Column {
        name: "n",
        kind: "int",
        operators: ORDER,
        is_sortable: true,
        values: &["-2147483647", "-1", "0", "1", "2", "2147483646"],
    },
    Column {
        name: "far",
        kind: "bigint",
        operators: ORDER,
        is_sortable: true,
        values: &[
            "-9223372036854775807",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775806",
        ],
    },
    Column {
        name: "price",
        kind: "numeric(12, 3)",
        operators: ORDER,
        is_sortable: true,
        values: &[
            "-0.001",
            "0",
            "0.1",
            "0.100",
            "19.99",
            "20",
            "123456789.125",
        ],
    },
    Column {
        name: "ratio",
        kind: "float8",
        operators: ORDER,
        is_sortable: true,
        values: &["-1.5", "0", "0.1", "0.30000000000000004", "1e-300", "1e300"],
    },
    Column {
        name: "flag",
        kind: "boolean",
        operators: &[],
        is_sortable: true,
        values: &["true", "false"],
    },
    Column {
        name: "word",
        kind: "text COLLATE \"C\"",
        operators: TEXT,
        is_sortable: true,
        values: WORDS,
    },
    Column {
        name: "code",
        kind: "varchar(20) COLLATE \"C\"",
        operators: TEXT,
        is_sortable: true,
        values: WORDS,
    },
    Column {
        name: "mood",
        kind: "mood",
        operators: &[],
        is_sortable: false,
        values: &["sad", "happy", "glad"],
    },
    Column {
        name: "token",
        kind: "uuid",
        operators: ORDER,
        is_sortable: true,
        values: &[
            "00000000-0000-0000-0000-000000000000",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "ffffffff-0000-4000-8000-000000000001",
        ],
    },
    Column {
        name: "day",
        kind: "date",
        operators: ORDER,
        is_sortable: true,
        values: &["1969-12-31", "1970-01-01", "2024-02-29", "2024-03-01"],
    },
    Column {
        name: "moment",
        kind: "timestamptz",
        operators: ORDER,
        is_sortable: true,
        values: &[
            "1969-12-31T23:59:59.999Z",
            "2024-02-29T00:00:00Z",
            "2024-02-29T01:00:00.001+02:00",
            "2024-02-28T23:00:00.001Z",
        ],
    },
    Column {
        name: "wall",
        kind: "timestamp",
        operators: ORDER,
        is_sortable: true,
        values: &[
            "2024-02-29T00:00:00",
            "2024-02-29T00:00:00.5",
            "2024-03-31T02:30:00",
        ],
    },
    Column {
        name: "address",
        kind: "inet",
        operators: &[],
        is_sortable: false,
        values: &["10.0.0.1", "10.0.0.2", "2001:db8::1"],
    },
];

/// A condition in both languages.
struct Condition {
    rest: String,
    sql: String,
}

/// A value within the brackets of a filter.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn one<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(0..of.len())]
}

/// A condition of that depth at most. What is negated is so in SQL by `NOT`, around whatever it is.
fn condition(rng: &mut Rng, depth: usize) -> Condition {
    let not = if rng.u8(0..4) == 0 { "not." } else { "" };
    let negated = |sql: String| match not {
        "" => format!("({sql})"),
        _ => format!("(NOT ({sql}))"),
    };
    if depth > 0 && rng.bool() {
        let (name, joined) = *one(rng, &[("and", " AND "), ("or", " OR ")]);
        let parts: Vec<Condition> = (0..rng.usize(1..4))
            .map(|_| condition(rng, depth - 1))
            .collect();
        let rest: Vec<&str> = parts.iter().map(|part| part.rest.as_str()).collect();
        let sql: Vec<&str> = parts.iter().map(|part| part.sql.as_str()).collect();
        return Condition {
            rest: format!("{not}{name}({})", rest.join(",")),
            sql: negated(sql.join(joined)),
        };
    }
    let (column, rest, sql) = test(rng);
    Condition {
        rest: format!("{column}.{not}{rest}"),
        sql: negated(sql),
    }
}

/// A condition on one column: the column, and what is asked of it.
fn test(rng: &mut Rng) -> (&'static str, String, String) {
    let column = one(rng, COLUMNS);
    let operators = [&["eq", "neq", "in", "is"], column.operators].concat();
    let operator = *one(rng, &operators);
    let name = column.name;
    let (value, is_pattern) = match operator {
        "like" | "ilike" => (*one(rng, PATTERNS), true),
        _ => (*one(rng, column.values), false),
    };
    let typed = match is_pattern {
        true => literal(value),
        false => format!("{}::{}", literal(value), column.kind),
    };
    let (rest, sql) = match operator {
        "is" => {
            let truths = ["null", "not_null", "true", "false"];
            let of = if name == "flag" {
                &truths[..]
            } else {
                &truths[..2]
            };
            let word = *one(rng, of);
            let sql = word.replace('_', " ");
            (word.to_owned(), format!("{name} IS {sql}"))
        }
        "in" => {
            let values: Vec<&str> = (0..rng.usize(1..4))
                .map(|_| *one(rng, column.values))
                .collect();
            let rest: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            let sql = values
                .iter()
                .map(|value| format!("{}::{}", literal(value), column.kind));
            let sql = sql.collect::<Vec<_>>().join(", ");
            (
                format!("({})", rest.join(",")),
                format!("{name} IN ({sql})"),
            )
        }
        _ => {
            let sign = match operator {
                "eq" => "=",
                "neq" => "<>",
                "gt" => ">",
                "gte" => ">=",
                "lt" => "<",
                "lte" => "<=",
                "like" => "LIKE",
                _ => "ILIKE",
            };
            (quoted(value), format!("{name} {sign} {typed}"))
        }
    };
    (name, format!("{operator}.{rest}"), sql)
}

/// An order that has a place for each row, in both languages.
fn order(rng: &mut Rng) -> Condition {
    let sortable: Vec<&Column> = COLUMNS.iter().filter(|column| column.is_sortable).collect();
    let (mut rest, mut sql) = (String::new(), String::new());
    for _ in 0..rng.usize(0..3) {
        let name = one(rng, &sortable).name;
        let (direction, spelt) = *one(rng, &[("", ""), (".asc", " ASC"), (".desc", " DESC")]);
        let nulls = [
            ("", ""),
            (".nullsfirst", " NULLS FIRST"),
            (".nullslast", " NULLS LAST"),
        ];
        let (nulls, spelt_nulls) = *one(rng, &nulls);
        rest += &format!("{name}{direction}{nulls},");
        sql += &format!("{name}{spelt}{spelt_nulls}, ");
    }
    Condition {
        rest: rest + "id",
        sql: sql + "id",
    }
}

/// Rows of random values; each column is null in one of six.
async fn fill(rng: &mut Rng, server: &PostgresServer, database: &str) -> Result<()> {
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|column| format!("{} {}", column.name, column.kind))
        .collect();
    let mut script = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'happy', 'glad'); CREATE TABLE t (id int PRIMARY KEY, {});",
        columns.join(", ")
    );
    for id in 0..ROWS {
        let values: Vec<String> = COLUMNS
            .iter()
            .map(|column| match rng.u8(0..6) {
                0 => "NULL".to_owned(),
                _ => literal(one::<&str>(rng, column.values)),
            })
            .collect();
        script += &format!("INSERT INTO t VALUES ({id}, {});", values.join(", "));
    }
    server.psql(database, &script).await.map(drop)
}

/// The ids that a search finds, in its order, over as many pages as they fill.
async fn found(api: &Http, search: &str) -> Result<Vec<String>> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get_json(&format!("{search}{cursor}")).await?;
        for hit in page["hits"].as_array().context("no hits")? {
            ids.push(hit["id"].as_str().context("no id")?.to_owned());
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", search::encode(next)),
            None => return Ok(ids),
        }
    }
}

#[tokio::test]
async fn whatever_is_asked_the_answer_is_what_sql_says() -> Result<()> {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let server = PostgresServer::start(PostgresOptions::default()).await?;
    for product in [Product::Es8, Product::Os2] {
        let target = SearchNode::shared(product).await;
        let name = create_database(&server, "questions").await?;
        fill(&mut rng, &server, &name).await?;
        let (from, to, index) = (server.url(&name), target.url(), format!("{name}.public.t"));
        run(["sync", &from, &to]).await?.success()?;
        run(["verify", "--source", &from, "--target", &to])
            .await?
            .success()?;
        let flags = ["--max-patterns", "100", "--max-url", "64KB"];
        let (service, api) = positions::api(&to, &index, &flags).await?;
        let mut some = 0;
        for _ in 0..QUESTIONS {
            let (asked, sorted) = (condition(&mut rng, 3), order(&mut rng));
            let question = format!(
                "SELECT id FROM t WHERE {} ORDER BY {}",
                asked.sql, sorted.sql
            );
            let answer = server.psql(&name, &question).await?;
            let expected: Vec<&str> = answer.split_whitespace().collect();
            let filter = search::encode(&format!("({})", asked.rest)).to_string();
            let search = format!(
                "/v1/{index}/search?limit=100&fields=id&sort={}&and={filter}",
                sorted.rest
            );
            let ids = found(&api, &search)
                .await
                .with_context(|| format!("SEED={seed}: {search}"))?;
            ensure!(
                ids == expected,
                "{product}, SEED={seed}\nasked {}\nsorted {}\n{question}\nfound {ids:?}\nexpected {expected:?}",
                asked.rest,
                sorted.rest
            );
            let count: Value = api
                .get_json(&format!("/v1/{index}/count?and={filter}"))
                .await?;
            ensure!(
                count["count"] == expected.len(),
                "SEED={seed}: {question}: {count}"
            );
            some += usize::from(!expected.is_empty());
        }
        ensure!(
            some > QUESTIONS / 4,
            "{some} questions found something: SEED={seed}"
        );
        service.stop().await?;
    }
    Ok(())
}
