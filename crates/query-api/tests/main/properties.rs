//! Random filters against an evaluation of the same filter that shares nothing with the service: SQL's
//! logic of three values over the documents themselves.

use anyhow::{Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use testkit::{Http, SearchNode, unique_name};

use crate::support::{Api, encoded, ids, key};

const DOCUMENTS: usize = 150;
const FILTERS: usize = 60;
const WORDS: [&str; 12] = [
    "a", "A", "ab", "a b", "a,b", "(a)", "\"a\"", "a\\b", "50%", "a_b", "é*", "not.eq.a",
];

/// A filter as SQL would have it.
#[derive(Debug)]
enum Asked {
    All(Vec<Asked>),
    Any(Vec<Asked>),
    Not(Box<Asked>),
    Test(&'static str, &'static str, Vec<String>),
}

fn word(rng: &mut Rng) -> String {
    rng.choice(WORDS).unwrap().to_owned()
}

fn value(rng: &mut Rng, field: &str) -> Value {
    match field {
        "n" => json!(rng.i64(-3..4)),
        "x" => json!(f64::from(rng.i32(-4..5)) / 2.0),
        "b" => json!(rng.bool()),
        "d" => json!(format!(
            "2024-01-0{}T0{}:00:00Z",
            rng.u8(1..4),
            rng.u8(0..3)
        )),
        _ => json!(word(rng)),
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn random(rng: &mut Rng, depth: usize) -> Asked {
    let several = |rng: &mut Rng| {
        (0..rng.usize(1..4))
            .map(|_| random(rng, depth - 1))
            .collect()
    };
    match if depth == 0 { 9 } else { rng.u8(0..7) } {
        0 => Asked::All(several(rng)),
        1 => Asked::Any(several(rng)),
        2 => Asked::Not(Box::new(random(rng, depth - 1))),
        _ => test(rng),
    }
}

fn test(rng: &mut Rng) -> Asked {
    let field = rng.choice(["n", "x", "b", "d", "k", "t"]).unwrap();
    let operators: &[&str] = match field {
        "b" => &["eq", "neq", "in", "is"],
        "k" | "t" => &["eq", "neq", "gt", "gte", "lt", "lte", "in", "is", "like"],
        _ => &["eq", "neq", "gt", "gte", "lt", "lte", "in", "is"],
    };
    let operator = *rng.choice(operators).unwrap();
    let values = match operator {
        "is" if field == "b" => vec![
            rng.choice(["null", "not_null", "true", "false"])
                .unwrap()
                .to_owned(),
        ],
        "is" => vec![rng.choice(["null", "not_null"]).unwrap().to_owned()],
        "in" => (0..rng.usize(0..4))
            .map(|_| text(&value(rng, field)))
            .collect(),
        "like" => vec![
            rng.choice(["a%", "%b", "_", "a_b", "50\\%", "%*%", "\\(a)", "%\"%"])
                .unwrap()
                .to_owned(),
        ],
        _ => vec![text(&value(rng, field))],
    };
    Asked::Test(field, operator, values)
}

/// As it stands within brackets.
fn written(asked: &Asked) -> String {
    let list = |inner: &[Asked]| inner.iter().map(written).collect::<Vec<_>>().join(",");
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    match asked {
        Asked::All(inner) => format!("and({})", list(inner)),
        Asked::Any(inner) => format!("or({})", list(inner)),
        Asked::Not(inner) => match &**inner {
            Asked::All(_) | Asked::Any(_) => format!("not.{}", written(inner)),
            Asked::Not(_) => format!("not.and({})", written(inner)),
            Asked::Test(field, ..) => {
                let text = written(inner);
                format!("{field}.not.{}", &text[field.len() + 1..])
            }
        },
        Asked::Test(field, "in", values) => {
            let values: Vec<String> = values.iter().map(quoted).collect();
            format!("{field}.in.({})", values.join(","))
        }
        Asked::Test(field, operator, values) => {
            format!("{field}.{operator}.{}", quoted(&values[0]))
        }
    }
}

/// True, false, or unknown.
fn holds(asked: &Asked, document: &Value) -> Option<bool> {
    match asked {
        Asked::All(inner) => {
            let all: Vec<Option<bool>> = inner.iter().map(|one| holds(one, document)).collect();
            if all.contains(&Some(false)) {
                Some(false)
            } else if all.contains(&None) {
                None
            } else {
                Some(true)
            }
        }
        Asked::Any(inner) => {
            let all: Vec<Option<bool>> = inner.iter().map(|one| holds(one, document)).collect();
            if all.contains(&Some(true)) {
                Some(true)
            } else if all.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
        Asked::Not(inner) => holds(inner, document).map(|truth| !truth),
        Asked::Test(field, "is", values) => {
            let held = &document[field];
            Some(match values[0].as_str() {
                "null" => held.is_null(),
                "not_null" => !held.is_null(),
                truth => *held == json!(truth == "true"),
            })
        }
        Asked::Test(field, operator, values) => {
            let held = &document[field];
            if held.is_null() {
                // Nothing at all is in an empty list, so that is known.
                return (*operator == "in" && values.is_empty()).then_some(false);
            }
            let compared = |value: &String| order(held, value);
            Some(match *operator {
                "eq" => compared(&values[0]).is_eq(),
                "neq" => compared(&values[0]).is_ne(),
                "gt" => compared(&values[0]).is_gt(),
                "gte" => compared(&values[0]).is_ge(),
                "lt" => compared(&values[0]).is_lt(),
                "lte" => compared(&values[0]).is_le(),
                "in" => values.iter().any(|value| compared(value).is_eq()),
                _ => like(held.as_str().unwrap(), &values[0]),
            })
        }
    }
}

fn order(held: &Value, value: &str) -> std::cmp::Ordering {
    match held {
        Value::Number(number) => number
            .as_f64()
            .unwrap()
            .total_cmp(&value.parse::<f64>().unwrap()),
        Value::Bool(flag) => flag.to_string().as_str().cmp(value),
        held => held.as_str().unwrap().as_bytes().cmp(value.as_bytes()),
    }
}

fn like(text: &str, pattern: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('%' | '*') => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| like(&text[at..], rest.as_str()))
        }
        Some(wanted) => {
            let (wanted, is_any) = match wanted {
                '_' => ('_', true),
                '\\' => (rest.next().unwrap_or('\\'), false),
                plain => (plain, false),
            };
            let mut characters = text.chars();
            characters.next().is_some_and(|c| is_any || c == wanted)
                && like(characters.as_str(), rest.as_str())
        }
    }
}

async fn documents(http: &Http, rng: &mut Rng) -> Result<(String, Vec<Value>)> {
    let index = unique_name("random");
    http.put_json(
        &format!("/{index}"),
        &json!({
            "settings": { "number_of_shards": 3, "number_of_replicas": 0 },
            "mappings": { "properties": {
                "n": { "type": "long" }, "x": { "type": "double" }, "b": { "type": "boolean" },
                "d": { "type": "date" }, "k": { "type": "keyword" },
                "t": { "type": "text", "fields": { "raw": { "type": "keyword" } } },
            }},
        }),
    )
    .await?;
    let all: Vec<Value> = (0..DOCUMENTS)
        .map(|_| {
            let mut document = json!({});
            for field in ["n", "x", "b", "d", "k", "t"] {
                match rng.u8(0..5) {
                    0 => document[field] = Value::Null,
                    1 => {}
                    _ => document[field] = value(rng, field),
                }
            }
            document
        })
        .collect();
    let numbered = all
        .iter()
        .enumerate()
        .map(|(n, document)| (n.to_string(), document.clone()));
    http.index_documents(&index, numbered).await?;
    Ok((index, all))
}

#[tokio::test]
async fn any_filter_finds_what_sql_would_find() -> Result<()> {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (index, all) = documents(&node.http(), &mut rng).await?;
        let (key, entry) = key(&["web"]);
        let flags = [
            "--indices",
            &index,
            "--max-patterns",
            "100",
            "--max-url",
            "64KB",
        ];
        let api = Api::start(node, &[entry], &flags).await?;
        let (mut some, mut none) = (0, 0);
        for _ in 0..FILTERS {
            let asked = random(&mut rng, 3);
            let filter = written(&asked);
            let path = format!(
                "/v1/{index}/search?limit=1000&fields=n&and={}",
                encoded(&format!("({filter})"))
            );
            let mut found = ids(&api.ok(&key, &path).await?);
            found.sort();
            let matching = all
                .iter()
                .enumerate()
                .filter(|(_, document)| holds(&asked, document) == Some(true));
            let mut expected: Vec<String> = matching.map(|(n, _)| n.to_string()).collect();
            expected.sort();
            ensure!(
                found == expected,
                "{product}, SEED={seed}: {filter}\nfound {found:?}\nexpected {expected:?}"
            );
            if expected.is_empty() {
                none += 1
            } else {
                some += 1
            }
        }
        assert!(
            some > FILTERS / 5,
            "{some} filters found something, {none} nothing: SEED={seed}"
        );
    }
    Ok(())
}
